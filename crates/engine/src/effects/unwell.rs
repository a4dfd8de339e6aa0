//! Looks during a bake whether the candidate's instances still pass the checks that the router asks them all the time.

use std::time::Duration;

use cutover_core::{Judgement, RevisionId, Verdict};
use cutover_ports::TrackView;
use tokio::time::{Instant, timeout};

use super::Act;

/// The router's checks come every few seconds: looking more often would see nothing new.
const EVERY: Duration = Duration::from_secs(1);

/// When to look next.
pub(super) struct Unwell {
    due: Instant,
}

impl Unwell {
    pub(super) fn new() -> Unwell {
        Unwell { due: Instant::now() }
    }

    /// Returns a failed verdict where an instance of the candidate fails its checks and none of anybody else's does: what
    /// fails everywhere is no fault of the candidate's. Looks at most once a second; a router that cannot say is none.
    pub(super) async fn verdict(&mut self, act: &Act, revision: &RevisionId) -> Option<Verdict> {
        if Instant::now() < self.due {
            return None;
        }
        self.due = Instant::now() + EVERY;
        let router = &act.edges().router;
        let look = act.timeouts().look;
        let view = timeout(look, router.observe(&act.service.name)).await.ok()?.ok()?;
        let why = why(&view.tracks, revision)?;
        let counts = router.counts(&act.service.name, &act.release.id, revision);
        let counts = timeout(look, counts).await.ok()?.unwrap_or_default();
        Some(Verdict { judgement: Judgement::Fail, why, counts })
    }
}

fn why(tracks: &[TrackView], revision: &RevisionId) -> Option<String> {
    let (own, others): (Vec<&TrackView>, Vec<&TrackView>) =
        tracks.iter().partition(|track| &track.revision == revision);
    let own = own.into_iter().next()?;
    if own.failing.is_empty() || others.iter().any(|track| !track.failing.is_empty()) {
        return None;
    }
    let all = own.targets.len();
    let lines: Vec<String> = own
        .failing
        .iter()
        .map(|target| format!("{} ({}: {})", target.instance, target.check, target.why))
        .collect();
    let words = if lines.len() == 1 { "fails its" } else { "fail their" };
    Some(format!("{} of {all} instances {words} checks: {}", lines.len(), lines.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_core::Weight;
    use cutover_ports::{FailingTarget, Target};

    fn track(revision: &str, failing: &[&str]) -> TrackView {
        let target = |instance: &str| Target {
            revision: revision.into(),
            instance: instance.into(),
            address: ([127, 0, 0, 1], 1).into(),
        };
        let fails = |instance: &&str| FailingTarget {
            instance: (*instance).into(),
            check: "GET /health".into(),
            why: "answered 500".into(),
        };
        TrackView {
            revision: revision.into(),
            weight: Weight::FULL,
            targets: vec![target("a"), target("b")],
            failing: failing.iter().map(fails).collect(),
            in_flight: 0,
            requests: 0,
            failed: 0,
        }
    }

    #[test]
    fn what_fails_everywhere_is_no_fault_of_the_candidate() {
        let why = |tracks: &[TrackView]| super::why(tracks, &"r-2".into());
        assert_eq!(
            why(&[track("r-1", &[]), track("r-2", &["a"])]).as_deref(),
            Some("1 of 2 instances fails its checks: a (GET /health: answered 500)")
        );
        assert_eq!(why(&[track("r-1", &["b"]), track("r-2", &["a"])]), None);
        assert_eq!(why(&[track("r-1", &["b"]), track("r-2", &[])]), None);
        assert_eq!(why(&[track("r-1", &[])]), None);
    }
}
