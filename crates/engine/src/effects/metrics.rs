//! Other sources of truth while a candidate bakes: numbers against limits, and counters for the judge.
//!
//! They are asked beside the router's own counts, and never instead. What fails, fails at once; what does not answer is told
//! and holds the end of the bake; what has no data concludes nothing.

mod counting;
mod memory;
mod probe;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use cutover_core::file::Guard;
use cutover_core::{
    Blame, Counts, EffectKey, Evidence, Fault, Judgement, Outcome, ReleaseId, Step, StepKey, Verdict, Weight,
};
use cutover_sources::{AskErrorKind, Names, Setting};
use futures_util::FutureExt;
use futures_util::future::{join_all, select_all};
use tokio::time::{sleep, timeout};
use tracing::warn;

use self::counting::Counting;
use self::memory::{Kept, Memory};
use self::probe::Probe;
use super::Act;

/// A store that takes longer is asked again in the bake; preflight itself has a deadline, and must not fail by this.
const PREFLIGHT: Duration = Duration::from_secs(10);

/// How long after the traffic was proven good a source without data is asked again.
const PROVEN_AGAIN: Duration = Duration::from_secs(2);

/// What the bakes of one release measured so far. It is kept in the store as well, and a driver that takes the release over
/// goes on with it.
#[derive(Default)]
pub(crate) struct Measuring(tokio::sync::Mutex<Option<Measured>>);

struct Measured {
    release: ReleaseId,
    step: StepKey,
    probes: Vec<Probe>,
    /// One judge for the whole release, so that its chance of error is spent once.
    counting: Option<Counting>,
}

/// What one source came to.
#[derive(Debug)]
enum Stand {
    Failed(String),
    Outage { fault: Fault, hold: bool },
    Inconclusive(String),
    Passed(String),
}

/// What ends a watch.
enum Told {
    Failed(String),
    Outage(Fault),
}

/// The longest that one question may take.
pub(super) fn longest(guard: &Guard) -> Duration {
    let metrics = guard.metrics.iter().map(|metric| metric.timeout);
    let counters = guard.counters.iter().map(|counters| counters.timeout);
    metrics.chain(counters).max().unwrap_or_default().duration()
}

/// Measures for as long as the traffic is watched; ends it when a measure fails, and once for each outage, to tell it.
pub(super) async fn beside<F: Future<Output = Outcome>>(
    act: &Act,
    key: &EffectKey,
    guard: &Guard,
    traffic: impl Fn() -> F,
) -> Outcome {
    if !guard.measures() {
        return traffic().await;
    }
    loop {
        let outcome = tokio::select! {
            biased;
            outcome = traffic() => outcome,
            told = watch(act, key, guard) => return match told {
                Told::Failed(why) => Ok(Evidence::Verdict(failed(act, why).await)),
                Told::Outage(fault) => {
                    warn!(release = %act.release.id, %fault, "a source of truth does not answer");
                    Err(fault)
                }
            },
        };
        if !passes(&outcome) {
            return outcome;
        }
        // The traffic is proven to be good; the others have to say so as well.
        let all = verdict_at(act, key, guard, async { outcome }, Close::WhatIsDue).await;
        if all.is_err() || passes(&all) || fails(&all) {
            return all;
        }
        sleep(PROVEN_AGAIN).await;
    }
}

fn passes(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(Evidence::Verdict(verdict)) if verdict.judgement == Judgement::Pass)
}

fn fails(outcome: &Outcome) -> bool {
    matches!(outcome, Ok(Evidence::Verdict(verdict)) if verdict.judgement == Judgement::Fail)
}

async fn watch(act: &Act, key: &EffectKey, guard: &Guard) -> Told {
    let mut held = act.service.measuring.0.lock().await;
    let measured = measured(&mut held, act, key, guard).await;
    let memory = Memory { act, step: key.step };
    let mut all: Vec<_> = measured.probes.iter_mut().map(|probe| probe.told(&memory).boxed()).collect();
    all.extend(measured.counting.iter_mut().map(|counting| counting.told(&memory).boxed()));
    // There is at least one: `measures`.
    select_all(all).await.0
}

/// What is measured once more before a verdict.
#[derive(Clone, Copy, PartialEq)]
enum Close {
    /// Whatever is still open: the bake is over.
    WhatIsOpen,
    /// What is open and due: the bake goes on, and a measurement before its time would count as well.
    WhatIsDue,
}

/// Adds to the verdict on the traffic what was measured. Whatever is still open is measured first.
pub(super) async fn verdict(
    act: &Act,
    key: &EffectKey,
    guard: &Guard,
    traffic: impl Future<Output = Outcome>,
) -> Outcome {
    verdict_at(act, key, guard, traffic, Close::WhatIsOpen).await
}

async fn verdict_at(
    act: &Act,
    key: &EffectKey,
    guard: &Guard,
    traffic: impl Future<Output = Outcome>,
    close: Close,
) -> Outcome {
    let verdict = match traffic.await? {
        Evidence::Verdict(verdict) if guard.measures() && verdict.judgement != Judgement::Fail => verdict,
        other => return Ok(other),
    };
    let mut held = act.service.measuring.0.lock().await;
    let measured = measured(&mut held, act, key, guard).await;
    let memory = Memory { act, step: key.step };
    let mut open: Vec<_> =
        measured.probes.iter_mut().map(|probe| probe.close(&memory, close).boxed()).collect();
    open.extend(measured.counting.iter_mut().map(|counting| counting.close(&memory).boxed()));
    join_all(open).await;
    let metrics = measured.probes.iter().map(Probe::stand);
    let stands = metrics.chain(measured.counting.iter().map(Counting::stand)).collect();
    combined(verdict, stands).map(Evidence::Verdict)
}

/// A failure comes before everything; what does not answer, before everything that is not known for it.
fn combined(traffic: Verdict, stands: Vec<Stand>) -> Result<Verdict, Fault> {
    let mut judgement = traffic.judgement;
    let (mut all, mut outage) = (vec![traffic.why], None);
    for stand in stands {
        match stand {
            Stand::Failed(why) => {
                return Ok(Verdict { judgement: Judgement::Fail, why, counts: traffic.counts, epoch: None });
            }
            Stand::Outage { fault, hold: true } => outage = outage.or(Some(fault)),
            Stand::Outage { fault, hold: false } => {
                all.push(format!("could not {fault}, and the release file goes on without it"));
            }
            Stand::Inconclusive(why) => {
                judgement = Judgement::Inconclusive;
                all.push(why);
            }
            Stand::Passed(why) => all.push(why),
        }
    }
    match outage {
        Some(fault) => Err(fault),
        None => Ok(Verdict { judgement, why: all.join("; "), ..traffic }),
    }
}

async fn failed(act: &Act, why: String) -> Verdict {
    let candidate = &act.release.candidate;
    let counts = act.edges().router.counts(&act.service.name, &act.release.id, candidate);
    // They stand beside the reason and decide nothing.
    let counts = timeout(act.timeouts().look, counts).await.ok().and_then(Result::ok);
    Verdict { judgement: Judgement::Fail, why, counts: counts.unwrap_or_else(Counts::default), epoch: None }
}

/// Asks every source once before anything moves: a question that cannot be asked would hold the release later.
pub(super) async fn preflight(act: &Act) -> Result<String, Fault> {
    let bakes = act.service.live(&act.release.id).is_some_and(|live| {
        live.look(|machine| machine.plan().steps.iter().any(|step| matches!(step, Step::Bake { .. })))
    });
    let guard = &act.release.file.guard;
    if !bakes || !guard.measures() {
        return Ok(String::new());
    }
    let setting = setting(act);
    let sources = &act.shared.options.sources;
    let metrics = guard.metrics.iter().map(|metric| {
        (format!("metric {}", metric.name), sources.metric(metric, &setting), metric.timeout.duration())
    });
    let counters = guard.counters.iter().map(|counters| {
        ("counters".to_string(), sources.counters(counters, &setting), counters.timeout.duration())
    });
    let asked = metrics.chain(counters).map(async |(name, source, limit)| {
        let answer = match &source {
            Ok(source) => probe::ask(&**source, limit.min(PREFLIGHT)).await,
            Err(error) => Err(error.clone()),
        };
        (name, answer)
    });
    let mut told = Vec::new();
    for (name, answer) in join_all(asked).await {
        match answer {
            Err(error) if error.kind == AskErrorKind::Wrong => {
                return Err(Fault::configuration(format!("measure {name}: {error}")).hint(error.hint));
            }
            Err(error) if error.kind == AskErrorKind::Down => {
                told.push(format!("{name} cannot be measured: {error}"))
            }
            // Before the candidate has traffic nothing is known of it.
            Err(_) | Ok(_) => {}
        }
    }
    Ok(told.join("; "))
}

/// Returns what this release's bake measured so far, by whatever driver; another bake begins with nothing but the judge.
async fn measured<'a>(
    held: &'a mut Option<Measured>,
    act: &Act,
    key: &EffectKey,
    guard: &Guard,
) -> &'a mut Measured {
    let same = |measured: &Measured| measured.release == act.release.id && measured.step == key.step;
    if !held.as_ref().is_some_and(same) {
        let before = held.take().filter(|measured| measured.release == act.release.id);
        // Who measured in this release before has kept nothing that it does not know.
        let memory = Memory { act, step: key.step };
        let kept = if before.is_some() { Kept::default() } else { memory.kept().await };
        let (setting, sources) = (setting(act), &act.shared.options.sources);
        let probe = |metric| Probe::new(metric, sources.metric(metric, &setting), &kept, key.step);
        let probes = guard.metrics.iter().map(probe).collect();
        let counting = guard.counters.as_deref().map(|counters| {
            let before = before.and_then(|measured| measured.counting);
            Counting::next(before, counters, || sources.counters(counters, &setting), weight(act), &kept)
        });
        let (release, step) = (act.release.id.clone(), key.step);
        *held = Some(Measured { release, step, probes, counting });
    }
    held.as_mut().expect("it was just put there")
}

fn weight(act: &Act) -> Weight {
    let live = act.service.live(&act.release.id);
    live.and_then(|live| live.look(|machine| machine.weight())).unwrap_or_default()
}

fn setting(act: &Act) -> Setting {
    let live = act.service.live(&act.release.id);
    let (stable, opened, since) = live.map_or((None, 0, 0), |live| {
        live.look(|machine| (machine.plan().stable.clone(), machine.opened().0, machine.entered().0))
    });
    let mut secrets = BTreeMap::new();
    let (needed, known) = (act.release.file.metric_secrets(), act.release.file.metric_variables());
    for name in needed.into_iter().chain(known.iter().copied()) {
        // A driver that took the release over has only what its own environment says.
        let given = act.secrets.get(name).map(|secret| secret.expose().to_string());
        secrets.extend(given.or_else(|| std::env::var(name).ok()).map(|value| (name.to_string(), value)));
    }
    let clock = act.shared.options.clock.clone();
    Setting {
        names: Names {
            service: act.service.name.to_string(),
            revision: act.release.candidate.to_string(),
            stable_revision: stable.map(|stable| stable.to_string()).unwrap_or_default(),
        },
        folder: act.release.base.clone().into(),
        opened_ms: opened,
        since_ms: since,
        secrets,
        roots: None,
        wall: std::sync::Arc::new(move || clock.read().wall_ms),
    }
}

/// What does not answer is nobody's failure; `kind` says whether the file can help.
fn unmeasured(name: &str, kind: AskErrorKind, why: &str, hint: &str) -> Fault {
    let fault = Fault::platform(format!("measure {name}: {why}")).hint(hint);
    match kind {
        AskErrorKind::Wrong => Fault { blame: Blame::Configuration, ..fault },
        AskErrorKind::Down | AskErrorKind::NoData => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(judgement: Judgement) -> Verdict {
        Verdict {
            judgement,
            why: "100 of 100 requests succeeded".into(),
            counts: Counts::default(),
            epoch: None,
        }
    }

    fn outage(hold: bool) -> Stand {
        Stand::Outage { fault: unmeasured("metric a", AskErrorKind::Down, "it is down", ""), hold }
    }

    fn said(judgement: Judgement, stands: Vec<Stand>) -> String {
        match combined(traffic(judgement), stands) {
            Ok(verdict) => verdict.to_string(),
            Err(fault) => format!("fault: {fault}"),
        }
    }

    #[test]
    fn the_worst_of_all_decides_and_an_outage_is_never_the_worst() {
        use Judgement::{Inconclusive, Pass};
        let passed = || Stand::Passed("metric b: 1".into());
        let failed = || Stand::Failed("metric c: 9 is more than 1".into());
        let nothing = || Stand::Inconclusive("metric d: no data".into());
        assert_eq!(said(Pass, vec![passed()]), "pass: 100 of 100 requests succeeded; metric b: 1");
        assert_eq!(said(Pass, vec![outage(true), failed()]), "fail: metric c: 9 is more than 1");
        assert_eq!(said(Pass, vec![nothing(), outage(true)]), "fault: measure metric a: it is down");
        assert_eq!(
            said(Pass, vec![passed(), nothing()]),
            "inconclusive: 100 of 100 requests succeeded; metric b: 1; metric d: no data"
        );
        assert_eq!(
            said(Pass, vec![outage(false)]),
            "pass: 100 of 100 requests succeeded; could not measure metric a: it is down, and the release file goes on \
             without it"
        );
        assert_eq!(
            said(Inconclusive, vec![passed()]),
            "inconclusive: 100 of 100 requests succeeded; metric b: 1"
        );
    }
}
