//! What must hold after every event, whatever failed, lagged or died. One function per promise.

use super::run::Run;
use super::world::World;
use crate::effect::{BackStage, Effect, EffectName};
use crate::ids::{Fence, Moment};
use crate::machine::{BackReason, Ending, Mode};
use crate::units::Weight;

/// A promise, and how to see that it is broken.
pub struct Invariant {
    /// The promise in words.
    pub promise: &'static str,
    /// Returns what broke it.
    pub broken: fn(&Run) -> Option<String>,
}

/// All invariants.
pub const INVARIANTS: [Invariant; 11] = [
    Invariant { promise: "a revision with weight has checked instances", broken: weight_needs_checked },
    Invariant { promise: "some revision always takes traffic", broken: someone_serves },
    Invariant { promise: "what is stopped has no weight and nothing in flight", broken: stopped_is_idle },
    Invariant { promise: "stable keeps all its instances until the release is decided", broken: stable_kept },
    Invariant { promise: "the predecessor is only stopped after the tail drained it", broken: tail_order },
    Invariant { promise: "a release taken back leaves all traffic on stable", broken: back_means_back },
    Invariant { promise: "nothing is orphaned when a release ends", broken: no_orphans },
    Invariant { promise: "a released candidate takes all traffic, without a lease", broken: released_serves },
    Invariant { promise: "refused means that traffic never moved", broken: refused_never_moved },
    Invariant { promise: "only the candidate's fault fails a verdict", broken: verdicts_blame_candidate },
    Invariant { promise: "a leased weight outlives its driver by the lease at most", broken: lease_bounds },
];

fn weight_needs_checked(run: &Run) -> Option<String> {
    let world = &run.world;
    world
        .weights
        .iter()
        .find(|(revision, _)| world.count(revision) == 0 || !world.checked.contains(revision))
        .map(|(revision, weight)| format!("{revision} has {weight} and no checked instance"))
}

fn someone_serves(run: &Run) -> Option<String> {
    let had_stable = run.machine.plan().stable.is_some();
    (had_stable && run.world.weights.is_empty()).then(|| "the route has no target".into())
}

fn stopped_is_idle(run: &Run) -> Option<String> {
    run.world.violations.first().cloned()
}

fn stable_kept(run: &Run) -> Option<String> {
    let stable = run.machine.plan().stable.as_ref()?;
    let gone = run.machine.decided().is_none() && run.world.count(stable) < run.replicas;
    gone.then(|| {
        format!("{} of {} stable instances run before the decision", run.world.count(stable), run.replicas)
    })
}

fn tail_order(run: &Run) -> Option<String> {
    let stable = run.machine.plan().stable.as_ref()?;
    let released = run.machine.ending() == Some(&Ending::Released);
    let stopped = run.world.count(stable) == 0;
    (stopped && !released && !run.machine.past_return())
        .then(|| "stable was stopped before its retire".into())
}

fn back_means_back(run: &Run) -> Option<String> {
    let candidate = &run.machine.plan().candidate;
    let back = match run.machine.mode() {
        Mode::Ended { outcome } => !matches!(outcome, Ending::Released),
        // The lease would move it too, some seconds of failed requests later.
        Mode::Back(back) => back.stage != BackStage::Traffic,
        _ => false,
    };
    (back && run.world.weight(candidate) > Weight::ZERO).then(|| "the candidate still has weight".into())
}

fn no_orphans(run: &Run) -> Option<String> {
    let plan = run.machine.plan();
    let left = match run.machine.ending()? {
        Ending::Released => plan.stable.as_ref().filter(|_| !run.adopted),
        _ => Some(&plan.candidate),
    }?;
    (run.world.count(left) > 0 && run.late.is_empty()).then(|| format!("{left} still runs after the end"))
}

fn released_serves(run: &Run) -> Option<String> {
    run.machine.decided()?;
    let candidate = &run.machine.plan().candidate;
    let serves = run.world.weight(candidate) == Weight::FULL && run.world.lease.is_none();
    (!serves).then(|| format!("the decided candidate has {}", run.world.weight(candidate)))
}

fn refused_never_moved(run: &Run) -> Option<String> {
    let refused = matches!(run.machine.ending()?, Ending::Refused { .. });
    (refused && run.shifted_once).then(|| "traffic moved in a release that says it did not".into())
}

fn verdicts_blame_candidate(run: &Run) -> Option<String> {
    let by_verdict = match run.machine.mode() {
        Mode::Back(back) => matches!(back.why, BackReason::Verdict { .. }),
        _ => false,
    };
    let World { bad_traffic, no_traffic, .. } = run.world;
    (by_verdict && !bad_traffic && !no_traffic).then(|| "a good candidate failed its verdict".into())
}

fn lease_bounds(run: &Run) -> Option<String> {
    let candidate = &run.machine.plan().candidate;
    let leased = run.machine.plan().stable.is_some() && run.machine.decided().is_none();
    let unleased = run.world.weight(candidate) > Weight::ZERO && run.world.lease.is_none();
    // A settle that was done and whose answer was lost is the one moment between.
    let settling = run.started.iter().any(|key| key.name == EffectName::Settle);
    (leased && unleased && !settling).then(|| "the candidate's weight has no lease".into())
}

/// Checks that an effect does nothing new the second time: the state after both equals the state after one.
pub(super) fn twice_is_once(world: &World, effect: &Effect, fence: Fence, now: Moment) -> Option<String> {
    let mut again = world.clone();
    let second = again.act(effect, fence, now);
    (second.is_ok() && (&again.running, &again.weights) != (&world.running, &world.weights))
        .then(|| format!("{} twice is not once", effect.name()))
}
