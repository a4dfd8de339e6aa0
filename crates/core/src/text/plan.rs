//! The plan in words: each step with its way back, its time, and what happens if cutover dies there.

use std::fmt::Write;

use super::count;
use crate::effect::BackStage;
use crate::file::{Guard, LoadAgainst};
use crate::ids::RevisionId;
use crate::plan::{FLOOR, Plan, Prove, STEADY, Step, Track};
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
    for (i, step) in plan.steps.iter().enumerate() {
        if plan.point_of_no_return() == Some(i) {
            let _ =
                writeln!(text, "    ── point of no return: from here the way back is a release of {from} ──");
        }
        let words = words(plan, i, lease);
        let _ = writeln!(text, "{:>2}  {:<12} {:<58} {}", i + 1, step.name(), words.does, words.takes);
        if let Some(ready) = least_ready(plan, i) {
            let _ = writeln!(text, "                 ready at least: {ready}");
        }
        if let Some(expected) = expected(plan, i) {
            let _ = writeln!(text, "                 needs: {expected}");
        }
        let _ = writeln!(text, "                 way back: {}", words.way_back);
        let _ = writeln!(text, "                 if cutover dies here: {}", words.dies);
        if matches!(step, Step::Promote) {
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

/// Returns the fewest ready instances of each revision during step `at`, where they differ from "all of stable".
fn least_ready(plan: &Plan, at: usize) -> Option<String> {
    let stable = plan.stable.as_ref()?;
    let counts = |at| (plan.stable_at(at), plan.checked_before(at));
    let shrinks = plan.steps.iter().any(|step| matches!(step, Step::Shrink { .. }));
    if !shrinks || at >= plan.promote() || counts(at) == (plan.replicas, 0) {
        return None;
    }
    let (of_stable, of_candidate) = counts(at);
    Some(format!(
        "{of_stable} of {stable}, {of_candidate} of {}, {} together",
        plan.candidate, plan.least_ready
    ))
}

/// Says how the processes return from step `at`; empty where they need not.
fn back_processes(plan: &Plan, at: usize) -> String {
    let stages = plan.way_back(at);
    let is_back = |of| stages.contains(&BackStage::Processes { of });
    let mut words = String::new();
    if is_back(Track::Candidate) && plan.weight_at(at).is_some() {
        let _ = write!(words, "; the processes of {} stop", plan.candidate);
    }
    if let (true, Some(stable)) = (is_back(Track::Stable), &plan.stable) {
        let runs = plan.stable_processes_at(at);
        let back = plan.stable_processes.iter().filter(|(name, _)| !runs.contains_key(*name));
        let back = back.map(|(name, count)| (name.clone(), *count)).collect();
        let _ = write!(words, "; {stable} runs {} again", super::processes(&back));
    }
    words
}

/// Says how traffic returns from step `at`, and how long that takes.
fn back_words(plan: &Plan, at: usize) -> String {
    let Some(stable) = &plan.stable else {
        return "the route answers 503, as before the first release".into();
    };
    let stages = plan.way_back(at);
    let starts = stages.iter().filter(|stage| matches!(stage, BackStage::Restore { .. })).count();
    if starts == 0 {
        return format!("all traffic to {stable}, a weight change, at once");
    }
    let batches = if starts == 1 { "1 batch".into() } else { format!("{starts} batches") };
    let time = plan.ready_ms.map_or("time unknown until first run".into(), |ms| {
        format!("about {}", super::elapsed(ms.saturating_mul(starts as u64)))
    });
    let first = stages.iter().find_map(|stage| match stage {
        BackStage::Return { weight } => {
            Some(format!("{} of traffic to {stable} at once, then ", weight.rest()))
        }
        _ => None,
    });
    let first =
        first.filter(|_| matches!(stages.first(), Some(BackStage::Return { .. }))).unwrap_or_default();
    format!("{first}the batches reversed: {stable} starts, is checked, takes its share; {batches}, {time}")
}

/// What the steps of one moment have in common.
#[derive(Clone)]
struct Around {
    stable: String,
    /// The way back where traffic moved, and in short.
    back_to: String,
    back: String,
    /// What becomes of traffic that moved if cutover dies, and in short.
    taken_back: String,
    untouched: String,
}

const GOES_ON: &str = "the next server goes on from the journal";

impl Around {
    fn of(plan: &Plan, at: usize, lease: Option<Span>) -> Around {
        let candidate = &plan.candidate;
        let stable = plan.stable.as_ref().map_or("no one".to_string(), RevisionId::to_string);
        let processes = back_processes(plan, at);
        let back_to = back_words(plan, at) + &processes;
        let moved = plan.weight_at(at).is_some();
        // Before traffic moved nobody needs a way back but the candidate's own instances.
        let back = if moved || plan.stable_at(at) < plan.replicas {
            back_to.clone()
        } else {
            format!("stop {candidate}; it never had traffic{processes}")
        };
        let taken_back = taken_back(plan, at, lease);
        let untouched = if moved {
            taken_back.clone()
        } else {
            format!("its instances run on without traffic; {GOES_ON}")
        };
        Around { stable, back_to, back, taken_back, untouched }
    }
}

/// What becomes of the candidate's traffic if cutover dies.
fn taken_back(plan: &Plan, at: usize, lease: Option<Span>) -> String {
    let candidate = &plan.candidate;
    let keeps = plan.retained_at(at);
    let traffic = match (lease, &plan.stable) {
        (Some(lease), Some(stable)) if keeps == Weight::ZERO => {
            format!("the router gives all traffic to {stable} when the lease of {lease} lapses")
        }
        (Some(lease), Some(stable)) => format!(
            "the router leaves {candidate} at most {keeps} when the lease of {lease} lapses, as {stable} carries the rest"
        ),
        (None, Some(_)) => "the weights stay as they are until the next server decides".into(),
        (_, None) => format!("{candidate} keeps the traffic; {GOES_ON}"),
    };
    // Processes are no traffic: no lease takes them back.
    match plan.candidate_processes_at(at).is_empty() || plan.stable.is_none() {
        true => traffic,
        false => format!("{traffic}; the processes of {candidate} run on"),
    }
}

fn words(plan: &Plan, at: usize, lease: Option<Span>) -> Words {
    let around = Around::of(plan, at, lease);
    let words = words_until_decided(plan, at, &around).or_else(|| words_from_promote(plan, at, &around));
    words.expect("each step is of the one or the other part")
}

fn words_until_decided(plan: &Plan, at: usize, around: &Around) -> Option<Words> {
    let Around { stable, back_to, back, taken_back, untouched } = around.clone();
    let (candidate, moved) = (&plan.candidate, plan.weight_at(at).is_some());
    let ready =
        plan.ready_ms.map_or("unknown until first run".into(), |ms| format!("about {}", super::elapsed(ms)));
    let (does, takes, way_back, dies) = match &plan.steps[at] {
        Step::Preflight => (
            "both revisions fit beside each other".into(),
            "under 1s".into(),
            "nothing has changed".into(),
            GOES_ON.into(),
        ),
        Step::Gate { command } => (
            format!("`{}` must exit 0", short(command)),
            "as it takes".into(),
            "nothing has changed".into(),
            format!("{GOES_ON}, and runs it again"),
        ),
        Step::Build => (
            format!("{candidate} lies complete in the store"),
            "as the copy takes".into(),
            "nothing runs yet".into(),
            format!("{GOES_ON}; half a copy is thrown away"),
        ),
        Step::Provision { count } => {
            let traffic = if moved { "the new ones" } else { "all" };
            (
                format!(
                    "{} of {candidate} {}, {traffic} without traffic",
                    instances(*count),
                    if *count == 1 { "runs" } else { "run" }
                ),
                "under 1s".into(),
                back,
                untouched,
            )
        }
        Step::Check => ("every instance passes its checks".into(), ready, back, untouched),
        Step::Smoke { tests } => (
            match tests {
                1 => "1 smoke test passes on one of its instances".into(),
                tests => format!("all {tests} smoke tests pass on one of its instances"),
            },
            "as it takes".into(),
            back,
            format!("{untouched}, and tries them again"),
        ),
        Step::Load { test } => {
            let alone = test.against == LoadAgainst::Both && plan.stable.is_none();
            let alone = if alone { "; in a first release there is no stable to stand beside it" } else { "" };
            (
                format!("its instances hold {}{alone}", test.name()),
                format!("{}", test.span),
                back,
                format!("{untouched}, and sends it again"),
            )
        }
        Step::Processes { .. } => process_words(plan, at, back, untouched),
        Step::Steady => {
            (format!("each of them runs for {STEADY} without ending"), format!("{STEADY}"), back, untouched)
        }
        Step::Approve { point } => (
            format!("a person approves ({})", point.name()),
            format!("until approved, at most {}", plan.deadline),
            back,
            if moved { taken_back } else { GOES_ON.into() },
        ),
        Step::Shift { weight } => {
            (shift_words(plan, at, *weight, &stable), "at once".into(), back_to, taken_back)
        }
        Step::Bake { span, guard, prove } => {
            let (does, takes) = bake_words(plan, at, *span, guard, prove.as_ref());
            (does, takes, back_to, taken_back)
        }
        Step::Shrink { count } => (
            format!("all but {} of {stable} finish what they have, then stop", instances(*count)),
            format!("at most {} and the stop grace", plan.drain),
            back_to,
            taken_back,
        ),
        Step::Promote | Step::Warm { .. } | Step::Drain | Step::Retire => return None,
    };
    Some(Words { does, takes, way_back, dies })
}

fn bake_words(plan: &Plan, at: usize, span: Span, guard: &Guard, prove: Option<&Prove>) -> (String, String) {
    let Some(Prove { margin_ppb, latency, expects }) = prove else {
        let compared = match plan.weight_at(at) {
            _ if plan.compare.is_none() => "",
            Some(Weight::FULL) => ", and no worse than stable was",
            _ => ", and no worse than stable",
        };
        return (guard_words(guard) + compared, format!("{span}"));
    };
    let slower = if *latency { ", nor slower" } else { "" };
    let does = format!("proven that it does not fail {} more often{slower}", points(*margin_ppb));
    let takes = match expects.seconds {
        Some(seconds) => format!("about {}, at most {span}", Span::from_secs(seconds.max(FLOOR.ms() / 1000))),
        None => format!("at most {span}"),
    };
    (does, takes)
}

/// What a proof needs, and what it may miss.
fn expected(plan: &Plan, at: usize) -> Option<String> {
    let Step::Bake { prove: Some(Prove { expects, .. }), .. } = &plan.steps[at] else { return None };
    let rate = if expects.seconds.is_some() { "at the recent rate" } else { "the recent rate is not known" };
    Some(format!(
        "about {} requests to {}, {rate}; a regression below {} may be missed",
        count(expects.candidate_requests),
        plan.candidate,
        points(expects.finds_ppb)
    ))
}

/// "2.5 points": of a hundred requests.
fn points(ppb: u64) -> String {
    let text = format!("{:.1}", ppb as f64 / 1e7);
    format!("{} points", text.trim_end_matches('0').trim_end_matches('.'))
}

fn words_from_promote(plan: &Plan, at: usize, around: &Around) -> Option<Words> {
    let Around { stable, back_to, taken_back, .. } = around;
    let candidate = &plan.candidate;
    let (does, takes, way_back, dies) = match &plan.steps[at] {
        Step::Promote => (
            format!("{candidate} becomes stable"),
            "at once".into(),
            back_to.clone(),
            format!("before it is journaled: {taken_back}; after: nothing changes"),
        ),
        Step::Warm { span } => (
            format!("{} ready", stays(plan, at, stable)),
            format!("{span}"),
            match plan.stable_processes.is_empty() {
                _ if plan.stable_at(at) < plan.replicas => {
                    format!("cutover rollback: {stable} starts again, batch by batch, after its checks")
                }
                true => "cutover rollback: a weight change, at once".into(),
                false => {
                    format!("cutover rollback: a weight change, at once; then the processes of {stable}")
                }
            },
            format!("traffic stays on {candidate}; {GOES_ON}"),
        ),
        Step::Drain => (
            format!("{stable} finishes what it has"),
            format!("at most {}", plan.drain),
            "cutover rollback: checks first, then a weight change".into(),
            format!("traffic stays on {candidate}; {GOES_ON}"),
        ),
        Step::Retire => (
            format!("{stable} stops; its files stay for a rollback"),
            "at most its stop grace".into(),
            format!("cutover rollback: {stable} starts again and passes its checks first"),
            format!("traffic stays on {candidate}; {GOES_ON}"),
        ),
        _ => return None,
    };
    Some(Words { does, takes, way_back, dies })
}

/// What a step of the processes does, how long that takes, its way back, and what happens if cutover dies there.
fn process_words(plan: &Plan, at: usize, back: String, dies: String) -> (String, String, String, String) {
    let Step::Processes { of, run } = &plan.steps[at] else { return Default::default() };
    let stable = plan.stable.as_ref().map_or("no one".to_string(), RevisionId::to_string);
    match of {
        Track::Candidate => {
            let does = format!("{} of {} run beside it", super::processes(run), plan.candidate);
            (does, "under 1s".into(), back, dies)
        }
        Track::Stable => {
            let stopped = super::stopped(plan, at);
            let takes = format!("at most {}", plan.process_grace);
            if at > plan.promote() {
                let does = format!("ends {stopped} of {stable}; all its work is {}'s now", plan.candidate);
                let back =
                    format!("cutover rollback: a weight change, at once; then the processes of {stable}");
                return (does, takes, back, format!("traffic stays on {}; {GOES_ON}", plan.candidate));
            }
            let does = format!("ends {stopped} of {stable}: never two revisions at once");
            (does, takes, back, format!("nobody does the work of {stopped} until the next server goes on"))
        }
    }
}

/// Cuts a command to what fits a line.
fn short(command: &str) -> String {
    let line = command.lines().next().unwrap_or_default();
    if line.chars().count() <= 40 {
        line.to_string()
    } else {
        format!("{}…", line.chars().take(39).collect::<String>())
    }
}

fn guard_words(guard: &Guard) -> String {
    let mut words = format!("observed: {} must succeed", guard.success);
    let names: Vec<&str> = guard.metrics.iter().map(|metric| metric.name.as_str()).collect();
    match names[..] {
        [] => {}
        [name] => words += &format!(", the metric {name} hold"),
        _ => words += &format!(", the metrics {} hold", names.join(", ")),
    }
    if guard.counters.is_some() {
        words += ", counters be compared";
    }
    words
}

fn shift_words(plan: &Plan, at: usize, weight: Weight, stable: &str) -> String {
    let candidate = &plan.candidate;
    if weight == Weight::FULL {
        format!("all requests go to {candidate}; {} ready", stays(plan, at, stable))
    } else {
        format!("{weight} of requests go to {candidate}, the rest to {stable}")
    }
}

/// Who of stable is left at step `at`: all, or so many.
fn stays(plan: &Plan, at: usize, stable: &str) -> String {
    match plan.stable_at(at) {
        left if left >= plan.replicas => format!("{stable} stays"),
        1 => format!("1 instance of {stable} stays"),
        left => format!("{left} instances of {stable} stay"),
    }
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".into() } else { format!("{count} instances") }
}
