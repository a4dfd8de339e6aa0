//! What must hold after every event, whatever failed, lagged or died. One function per promise.

use super::run::Run;
use super::world::World;
use crate::effect::{BackStage, Effect, EffectName};
use crate::ids::{Fence, Moment, ProcessName, RevisionId};
use crate::machine::{BackReason, Ending, Mode};
use crate::plan::{ProcessCounts, Step};
use crate::units::Weight;

/// A promise, and how to see that it is broken.
pub struct Invariant {
    /// The promise in words.
    pub promise: &'static str,
    /// Returns what broke it.
    pub broken: fn(&Run) -> Option<String>,
}

/// All invariants.
pub const INVARIANTS: [Invariant; 19] = [
    Invariant {
        promise: "stable keeps the instances of its plan until the release is decided",
        broken: stable_kept,
    },
    Invariant {
        promise: "a revision with weight has checked instances to carry it",
        broken: weight_needs_checked,
    },
    Invariant { promise: "some revision always takes traffic", broken: someone_serves },
    Invariant { promise: "what is stopped has no weight and nothing in flight", broken: stopped_is_idle },
    Invariant { promise: "never fewer are ready than the plan allows", broken: least_ready },
    Invariant { promise: "never more run than the plan allows", broken: most_running },
    Invariant { promise: "the predecessor is only stopped after the tail drained it", broken: tail_order },
    Invariant {
        promise: "a release taken back leaves all traffic on stable, whole",
        broken: back_means_back,
    },
    Invariant { promise: "nothing is orphaned when a release ends", broken: no_orphans },
    Invariant { promise: "a released candidate takes all traffic, without a lease", broken: released_serves },
    Invariant { promise: "refused means that traffic never moved", broken: refused_never_moved },
    Invariant {
        promise: "a process that is to be alone never runs in two revisions at once",
        broken: alone_is_alone,
    },
    Invariant {
        promise: "what need not make room of stable's processes runs until the release is decided",
        broken: processes_kept,
    },
    Invariant {
        promise: "a candidate has passed its smoke tests before it takes traffic",
        broken: smoke_before_traffic,
    },
    Invariant {
        promise: "a candidate has held its load tests before it takes traffic",
        broken: load_before_traffic,
    },
    Invariant {
        promise: "a candidate's processes have stayed up before it takes traffic",
        broken: steady_before_traffic,
    },
    Invariant {
        promise: "in the end the processes of one revision run, and of one alone",
        broken: one_staff,
    },
    Invariant { promise: "only the candidate's fault fails a verdict", broken: verdicts_blame_candidate },
    Invariant { promise: "a leased weight outlives its driver by the lease at most", broken: lease_bounds },
];

fn weight_needs_checked(run: &Run) -> Option<String> {
    let (world, plan) = (&run.world, run.machine.plan());
    // Who carries everything while its predecessor leaves is stable; its instances are the platform's to keep.
    let ready = |revision: &RevisionId| ready(world, revision);
    world.weights.iter().find(|(revision, weight)| ready(revision) < plan.needed(*weight).max(1)).map(
        |(revision, weight)| format!("{revision} has {weight} and {} checked instances", ready(revision)),
    )
}

pub(super) fn ready(world: &World, revision: &RevisionId) -> u32 {
    world.count(revision).min(world.checked.get(revision).copied().unwrap_or(0))
}

fn someone_serves(run: &Run) -> Option<String> {
    let had_stable = run.machine.plan().stable.is_some();
    (had_stable && run.world.weights.is_empty()).then(|| "the route has no target".into())
}

fn stopped_is_idle(run: &Run) -> Option<String> {
    run.world.violations.first().cloned()
}

fn stable_kept(run: &Run) -> Option<String> {
    let (machine, plan) = (&run.machine, run.machine.plan());
    let stable = plan.stable.as_ref()?;
    let (runs, wanted) = (run.world.count(stable), plan.stable_at(machine.at()));
    let gone = machine.decided().is_none() && runs < wanted;
    gone.then(|| format!("{runs} of {wanted} stable instances run before the decision"))
}

fn least_ready(run: &Run) -> Option<String> {
    let plan = run.machine.plan();
    let all = ready(&run.world, plan.stable.as_ref()?) + ready(&run.world, &plan.candidate);
    let few = run.machine.decided().is_none() && all < plan.least_ready;
    few.then(|| format!("{all} are ready, {} must be", plan.least_ready))
}

fn most_running(run: &Run) -> Option<String> {
    let plan = run.machine.plan();
    let all: u32 = run.world.running.values().sum();
    (all > plan.most).then(|| format!("{all} run, {} may", plan.most))
}

fn tail_order(run: &Run) -> Option<String> {
    let stable = run.machine.plan().stable.as_ref()?;
    let released = run.machine.ending() == Some(&Ending::Released);
    let stopped = run.world.count(stable) == 0;
    (stopped && !released && !run.machine.past_return())
        .then(|| "stable was stopped before its retire".into())
}

fn back_means_back(run: &Run) -> Option<String> {
    let plan = run.machine.plan();
    let weight = run.world.weight(&plan.candidate);
    // The lease would move it too, some seconds of failed requests later. The current stage is still under way.
    let mut stages = run.machine.gone_back();
    if matches!(run.machine.mode(), Mode::Back(_)) {
        stages.pop();
    }
    let most = stages.iter().rev().find_map(|stage| match stage {
        BackStage::Return { weight } => Some(*weight),
        BackStage::Traffic => Some(Weight::ZERO),
        _ => None,
    });
    if let Some(most) = most.filter(|most| weight > *most) {
        return Some(format!("the candidate still has {weight}, at most {most} was left to it"));
    }
    let whole = |stable: &RevisionId| ready(&run.world, stable) == plan.replicas;
    let back = !matches!(run.machine.ending()?, Ending::Released);
    (back && plan.stable.as_ref().is_some_and(|stable| !whole(stable)))
        .then(|| "stable is not whole again".into())
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
    if !serves {
        return Some(format!("the decided candidate has {}", run.world.weight(candidate)));
    }
    let (ready, all) = (ready(&run.world, candidate), run.machine.plan().replicas);
    (run.machine.ended() && ready < all).then(|| format!("{ready} of {all} instances are ready at the end"))
}

fn alone_is_alone(run: &Run) -> Option<String> {
    let twice = |name: &&ProcessName| {
        let runs =
            run.world.processes.values().filter(|counts| counts.get(*name).is_some_and(|count| *count > 0));
        runs.count() > 1
    };
    run.machine.plan().alone.iter().find(twice).map(|name| format!("{name} runs twice"))
}

fn processes_kept(run: &Run) -> Option<String> {
    let plan = run.machine.plan();
    let stable = plan.stable.as_ref().filter(|_| run.machine.decided().is_none())?;
    let runs = run.world.processes.get(stable);
    let gone = |(name, count): &(&ProcessName, &u32)| {
        !plan.hands_over(name) && runs.and_then(|runs| runs.get(*name)) != Some(*count)
    };
    plan.stable_processes.iter().find(gone).map(|(name, _)| format!("{name} of {stable} does not run"))
}

fn steady_before_traffic(run: &Run) -> Option<String> {
    let plan = run.machine.plan();
    let asked = plan.steps.contains(&Step::Steady);
    let early = asked && run.world.weight(&plan.candidate) > Weight::ZERO && !run.world.steady;
    // A way back stops them after it took the traffic away; what is left then has no weight.
    early.then(|| format!("{} has weight", plan.candidate))
}

fn smoke_before_traffic(run: &Run) -> Option<String> {
    let plan = run.machine.plan();
    let asked = plan.steps.iter().any(|step| matches!(step, Step::Smoke { .. }));
    let early = asked && run.world.weight(&plan.candidate) > Weight::ZERO && !run.world.smoked;
    early.then(|| format!("{} has weight", plan.candidate))
}

fn load_before_traffic(run: &Run) -> Option<String> {
    let plan = run.machine.plan();
    let mut asked = plan.steps.iter().filter_map(|step| match step {
        Step::Load { test } => Some(test.name()),
        _ => None,
    });
    let early = run.world.weight(&plan.candidate) > Weight::ZERO;
    let missing = asked.find(|name| early && !run.world.loaded.contains(name))?;
    Some(format!("{} has weight, and did not hold {missing}", plan.candidate))
}

fn one_staff(run: &Run) -> Option<String> {
    let (machine, plan) = (&run.machine, run.machine.plan());
    if plan.processes.is_empty() && plan.stable_processes.is_empty() {
        return None;
    }
    // They leave first of all the predecessor has: it may stay warm for long.
    let left =
        machine.decided().is_some() && !matches!(machine.step(), Step::Promote | Step::Processes { .. });
    let stays = match machine.ending() {
        Some(Ending::Released) => true,
        Some(_) => false,
        None if left => true,
        None => return None,
    };
    let (stable, candidate) = (plan.stable.as_ref(), &plan.candidate);
    let none = ProcessCounts::new();
    let wanted = if stays { (&none, &plan.processes) } else { (&plan.stable_processes, &none) };
    let runs = (
        stable.map(|stable| run.world.processes(stable)).unwrap_or_default(),
        run.world.processes(candidate),
    );
    ((&runs.0, &runs.1) != wanted)
        .then(|| format!("of stable {:?} run, of the candidate {:?}", runs.0, runs.1))
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
    // What stable cannot carry stays with the candidate, leased or not.
    let keeps = run.machine.plan().retained_at(run.machine.at());
    let unleased = run.world.weight(candidate) > keeps && run.world.lease.is_none();
    // A settle that was done and whose answer was lost is the one moment between.
    let settling = run.started.iter().any(|key| key.name == EffectName::Settle);
    (leased && unleased && !settling).then(|| "the candidate's weight has no lease".into())
}

/// Checks that an effect does nothing new the second time: the state after both equals the state after one.
pub(super) fn twice_is_once(world: &World, effect: &Effect, fence: Fence, now: Moment) -> Option<String> {
    let mut again = world.clone();
    let second = again.act(effect, fence, now);
    let shown = |world: &World| (world.running.clone(), world.weights.clone(), world.processes.clone());
    (second.is_ok() && shown(&again) != shown(world)).then(|| format!("{} twice is not once", effect.name()))
}
