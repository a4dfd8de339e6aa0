//! The plan in words: each step with its way back, its time, and what happens if cutover dies there.

use std::fmt::Write;

use crate::ids::RevisionId;
use crate::plan::{Plan, Step};
use crate::units::{Span, Weight};

/// What one step says.
struct Words {
    does: String,
    takes: String,
    way_back: String,
    dies: String,
}

/// Renders `plan`. `lease` is how long the router keeps a candidate's weight without cutover; none where it has no
/// leases.
pub fn plan_text(plan: &Plan, lease: Option<Span>) -> String {
    let mut text = String::new();
    let from = plan.stable.as_ref().map_or("nothing".to_string(), RevisionId::to_string);
    let _ = writeln!(text, "{}: {from} → {}", plan.release, plan.candidate);
    let _ = writeln!(text);
    let mut decided = false;
    for (i, step) in plan.steps.iter().enumerate() {
        if plan.point_of_no_return() == Some(i) {
            let _ =
                writeln!(text, "    ── point of no return: from here the way back is a release of {from} ──");
        }
        let words = words(plan, step, decided, lease);
        let _ = writeln!(text, "{:>2}  {:<12} {:<58} {}", i + 1, step.name(), words.does, words.takes);
        let _ = writeln!(text, "                 way back: {}", words.way_back);
        let _ = writeln!(text, "                 if cutover dies here: {}", words.dies);
        if matches!(step, Step::Promote) {
            decided = true;
            let _ = writeln!(
                text,
                "    ── the release is decided: exit code 0, the service is free for the next one ──"
            );
        }
    }
    if plan.stable.is_none() {
        let _ = writeln!(text, "    ── no point of no return: there is no predecessor ──");
    }
    let _ = writeln!(text, "\nNot free of downtime:");
    for loss in &plan.losses {
        let _ = writeln!(text, "  - {loss}");
    }
    let _ = write!(text, "\nIf it is not decided within {}, it goes back by itself.", plan.deadline);
    text
}

fn words(plan: &Plan, step: &Step, decided: bool, lease: Option<Span>) -> Words {
    let candidate = &plan.candidate;
    let stable = plan.stable.as_ref().map_or("no one".to_string(), RevisionId::to_string);
    let goes_on = "the next server goes on from the journal";
    let ready =
        plan.ready_ms.map_or("unknown until first run".into(), |ms| format!("about {}", super::elapsed(ms)));
    let back_to = match &plan.stable {
        Some(stable) => format!("all traffic to {stable}, a weight change, at once"),
        None => "the route answers 503, as before the first release".into(),
    };
    let taken_back = match (lease, &plan.stable) {
        (Some(lease), Some(stable)) => {
            format!("the router gives all traffic to {stable} when the lease of {lease} lapses")
        }
        (None, Some(_)) => "the weights stay as they are until the next server decides".into(),
        (_, None) => format!("{candidate} keeps the traffic; {goes_on}"),
    };
    let (does, takes, way_back, dies) = match step {
        Step::Preflight => (
            "both revisions fit beside each other".into(),
            "under 1s".into(),
            "nothing has changed".into(),
            goes_on.into(),
        ),
        Step::Build => (
            format!("{candidate} lies complete in the store"),
            "as the copy takes".into(),
            "nothing runs yet".into(),
            format!("{goes_on}; half a copy is thrown away"),
        ),
        Step::Provision { count } => (
            format!("{} of {candidate} run, without traffic", instances(*count)),
            "under 1s".into(),
            format!("stop {candidate}; it never had traffic"),
            format!("its instances run on without traffic; {goes_on}"),
        ),
        Step::Check => (
            "every instance passes its checks".into(),
            ready,
            format!("stop {candidate}; it never had traffic"),
            format!("its instances run on without traffic; {goes_on}"),
        ),
        Step::Approve { point } => (
            format!("a person approves ({})", point.name()),
            format!("until approved, at most {}", plan.deadline),
            if plan_moved(plan, step) { back_to } else { format!("stop {candidate}; it never had traffic") },
            if plan_moved(plan, step) { taken_back } else { goes_on.into() },
        ),
        Step::Shift { weight } => {
            (shift_words(*weight, candidate, &stable), "at once".into(), back_to, taken_back)
        }
        Step::Bake { span, guard } => {
            (format!("observed: {} must succeed", guard.success), format!("{span}"), back_to, taken_back)
        }
        Step::Promote => (
            format!("{candidate} becomes stable"),
            "at once".into(),
            back_to,
            format!("before it is journaled: {taken_back}; after: nothing changes"),
        ),
        Step::Warm { span } => (
            format!("{stable} stays ready"),
            format!("{span}"),
            "cutover rollback: a weight change, at once".into(),
            format!("traffic stays on {candidate}; {goes_on}"),
        ),
        Step::Drain => (
            format!("{stable} finishes what it has"),
            format!("at most {}", plan.drain),
            "cutover rollback: checks first, then a weight change".into(),
            format!("traffic stays on {candidate}; {goes_on}"),
        ),
        Step::Retire => (
            format!("{stable} stops; its files stay for a rollback"),
            "at most its stop grace".into(),
            format!("cutover rollback: {stable} starts again and passes its checks first"),
            format!("traffic stays on {candidate}; {goes_on}"),
        ),
    };
    debug_assert!(decided || !matches!(step, Step::Warm { .. } | Step::Retire));
    Words { does, takes, way_back, dies }
}

fn plan_moved(plan: &Plan, step: &Step) -> bool {
    plan.steps.iter().position(|s| s == step).is_some_and(|index| index > plan.first_shift())
}

fn shift_words(weight: Weight, candidate: &RevisionId, stable: &str) -> String {
    if weight == Weight::FULL {
        format!("all requests go to {candidate}; {stable} stays ready")
    } else {
        format!("{weight} of requests go to {candidate}, the rest to {stable}")
    }
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".into() } else { format!("{count} instances") }
}
