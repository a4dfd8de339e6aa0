//! What the proxy's judge says, in the words of the ports.

use cutover_core::{Account, Counts, JudgeProgress, Judgement, Traffic, Verdict};
use cutover_judge::{History, Verdict as Said};
use cutover_proxy::{Arm, Judged, Probed, ProxyError, ServiceObservation};

pub(crate) fn verdict(judged: &Judged) -> Verdict {
    let (judgement, seen) = match &judged.verdict {
        Said::Pass(passed) => (Judgement::Pass, passed.seen),
        Said::Fail(failure) => (Judgement::Fail, failure.seen),
        Said::Inconclusive(inconclusive) => (Judgement::Inconclusive, inconclusive.seen),
    };
    let said = judged.verdict.to_string();
    // The word stands before it wherever a verdict is shown.
    let why = said.split_once(": ").map_or(said.as_str(), |(_, why)| why).to_owned();
    let counts =
        Counts { requests: seen.candidate.requests, failed: seen.candidate.errors, ..Counts::default() };
    Verdict { judgement, why, counts, epoch: judged.epoch.filter(|_| judgement == Judgement::Pass) }
}

/// How far a comparison is; none once it is decided.
pub(crate) fn progress(judged: &Judged) -> Option<JudgeProgress> {
    let Said::Inconclusive(inconclusive) = &judged.verdict else { return None };
    let (seen, needs) = (inconclusive.seen, inconclusive.needs);
    let Verdict { why, .. } = verdict(judged);
    Some(JudgeProgress {
        stable_requests: seen.stable.requests,
        stable_failed: seen.stable.errors,
        candidate_requests: seen.candidate.requests,
        candidate_failed: seen.candidate.errors,
        more_requests: needs.map(|needs| needs.candidate_requests),
        seconds: needs.and_then(|needs| needs.seconds),
        why,
    })
}

/// The verdict where nobody judges.
pub(crate) fn nobody(error: &ProxyError) -> Verdict {
    let why = format!("the proxy does not compare the candidate: {error}");
    Verdict { judgement: Judgement::Inconclusive, why, counts: Counts::default(), epoch: None }
}

pub(crate) fn account(judged: Judged) -> Account {
    let failure = match judged.verdict {
        Said::Fail(failure) => Some(failure),
        Said::Pass(_) | Said::Inconclusive(_) => None,
    };
    let probe = judged.probe.map(|probed| {
        let Probed { settings, epochs, failure } = probed;
        Box::new(Account { settings, epochs, failure, probe: None })
    });
    Account { settings: judged.settings, epochs: judged.epochs, failure, probe }
}

/// Returns what is known of the revisions that serve now.
pub(crate) fn traffic(seen: &ServiceObservation) -> Traffic {
    let mut history = History::default();
    let serves = |revision: &str| seen.effective.get(revision).is_some_and(|weight| *weight > 0);
    for arm in seen.arms.iter().filter(|arm| arm.arm == Arm::Stable && serves(&arm.revision)) {
        arm.counts.add_to(&mut history);
    }
    Traffic { history, per_hour: seen.per_hour }
}
