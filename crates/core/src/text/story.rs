//! A release's story, line by line, from its journal alone.

use std::fmt::Write;

use crate::check;
use crate::effect::{BackStage, EffectName, Evidence, StepKey};
use crate::event::{Command, Event, Record};
use crate::guard::Judgement;
use crate::ids::{Moment, RevisionId};
use crate::machine::{Back, BackReason, Ending, Hold, HoldReason, Machine, Mode};
use crate::plan::{Plan, Step, Track};
use crate::units::Weight;

/// One line of a story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Milliseconds since the release began.
    pub at_ms: u64,
    /// What kind of line it is.
    pub mark: Mark,
    /// The text; further lines are details.
    pub text: String,
    /// Output of an instance, the answer of a check: shown below, indented.
    pub details: Vec<String>,
}

/// The kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mark {
    Done,
    Failed,
    Waits,
    Says,
}

impl Mark {
    /// Returns the sign in front of the line.
    pub fn sign(self) -> &'static str {
        match self {
            Mark::Done => "✔",
            Mark::Failed => "✘",
            Mark::Waits => "…",
            Mark::Says => "·",
        }
    }
}

/// Follows a journal and tells what each record means.
#[derive(Default)]
pub struct Story {
    machine: Option<Machine>,
    retries: u32,
}

impl Story {
    /// Returns the machine as far as the story went.
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    /// Takes the next record; returns the lines it adds.
    pub fn tell(&mut self, record: &Record) -> Vec<Line> {
        let Some(machine) = &mut self.machine else {
            return self.open(record);
        };
        let before = machine.clone();
        // A record that does not apply was written by a newer version: the rest is still worth telling.
        let _ = machine.apply(&record.event, record.at);
        let after = machine.clone();
        let at_ms = record.at.ms_since(after.opened());
        let mut lines = self.event_lines(record, &before, &after, at_ms);
        lines.extend(mode_lines(&before, &after, at_ms));
        lines
    }

    fn open(&mut self, record: &Record) -> Vec<Line> {
        let Event::Opened { release, plan } = &record.event else { return Vec::new() };
        self.machine = Some(Machine::open((**plan).clone(), record.at));
        let from = plan.stable.as_ref().map_or("nothing".to_string(), RevisionId::to_string);
        let environment = release.file.environment.as_ref();
        let environment = environment.map(|name| format!(" for {name}")).unwrap_or_default();
        let text =
            format!("{} opened by {}{environment}: {from} → {}", release.id, release.by, plan.candidate);
        vec![Line { at_ms: 0, mark: Mark::Says, text, details: Vec::new() }]
    }

    fn event_lines(&mut self, record: &Record, before: &Machine, after: &Machine, at_ms: u64) -> Vec<Line> {
        let line = |mark, text: String| vec![Line { at_ms, mark, text, details: Vec::new() }];
        let took = super::elapsed(record.at.ms_since(before.entered()));
        match &record.event {
            Event::Done { effect, evidence } => {
                self.retries = 0;
                let failed =
                    matches!(evidence, Evidence::Verdict(verdict) if verdict.judgement == Judgement::Fail);
                let mark = if failed { Mark::Failed } else { Mark::Done };
                match done_text(before, effect.step, effect.name, evidence) {
                    Some(text) => line(mark, format!("{text}  {took}")),
                    None => Vec::new(),
                }
            }
            Event::Failed { effect, fault } => {
                self.retries += 1;
                // Once is noise, a row of them is a message; the one that decides is told by the way back.
                let turned = matches!(before.mode(), Mode::Forward | Mode::Held(_))
                    && matches!(after.mode(), Mode::Back(_) | Mode::Ended { .. });
                if !turned && !matches!(self.retries, 1 | 4 | 16 | 64 | 256) {
                    return Vec::new();
                }
                let again = if turned { "" } else { "; it is tried again" };
                let mut text = format!("failed to {}: {}{again}", verb(effect.name), fault.what);
                if !fault.hint.is_empty() {
                    let _ = write!(text, "\nnext: {}", fault.hint);
                }
                vec![Line { at_ms, mark: Mark::Failed, text, details: fault.lines.clone() }]
            }
            Event::Commanded { command, by } => line(Mark::Says, command_text(command, by)),
            Event::Tripped { why, .. } => {
                line(Mark::Failed, format!("the router took the candidate's traffic away: {why}"))
            }
            Event::TakenOver { owner } => line(Mark::Says, format!("taken over by {owner}")),
            Event::Tick | Event::Opened { .. } | Event::Counted { .. } | Event::Judged { .. } => Vec::new(),
        }
    }
}

/// Tells the whole story of a journal.
pub fn story_text(records: &[Record]) -> String {
    let mut story = Story::default();
    let mut text = String::new();
    for record in records {
        for line in story.tell(record) {
            let mut rows = line.text.lines();
            let _ = writeln!(
                text,
                "{:>8}  {} {}",
                format!("+{}", super::elapsed(line.at_ms)),
                line.mark.sign(),
                rows.next().unwrap_or_default()
            );
            for row in rows {
                let _ = writeln!(text, "            {row}");
            }
            for detail in &line.details {
                let _ = writeln!(text, "            | {detail}");
            }
        }
    }
    text
}

fn done_text(before: &Machine, step: StepKey, name: EffectName, evidence: &Evidence) -> Option<String> {
    let what = match step {
        StepKey::Back(stage) => stage_text(before.plan(), stage)?,
        StepKey::Forward(_) => effect_text(before, name)?,
    };
    let note = note_text(evidence);
    Some(match (note.is_empty(), what.ends_with(' ')) {
        (true, _) => what.trim_end().to_string(),
        (false, true) => format!("{what}  {note}"),
        (false, false) => format!("{what}, {note}"),
    })
}

fn note_text(evidence: &Evidence) -> String {
    match evidence {
        Evidence::Note { text } => text.clone(),
        Evidence::Shifted { acknowledged_us, .. } => {
            format!(
                "every worker acknowledged in {}.{:02} ms",
                acknowledged_us / 1000,
                acknowledged_us % 1000 / 10
            )
        }
        Evidence::Drained { cut: 0, closed: 0 } => "nothing was cut".into(),
        Evidence::Drained { cut, closed } => format!("{cut} cut at the deadline, {closed} WebSockets closed"),
        Evidence::Checked { results } => check::summary(results),
        Evidence::Loaded { result } => result.line(),
        Evidence::Verdict(verdict) => verdict.to_string(),
        Evidence::Plain => String::new(),
    }
}

/// What a stage of the way back came to.
fn stage_text(plan: &Plan, stage: BackStage) -> Option<String> {
    Some(match stage {
        BackStage::Traffic => match &plan.stable {
            Some(stable) => format!("back        all traffic is on {stable}"),
            None => "back        the route answers 503".into(),
        },
        BackStage::Return { weight } => {
            format!("back        {} of traffic is on {}", weight.rest(), plan.stable.as_ref()?)
        }
        BackStage::Yield { count } => {
            format!("back        {} keeps {count}", plan.candidate)
        }
        BackStage::Restore { count } => {
            format!("back        {count} × {}", plan.stable.as_ref()?)
        }
        BackStage::Recheck { .. } => {
            format!("back        {} is checked", plan.stable.as_ref()?)
        }
        BackStage::Processes { of: Track::Candidate } => {
            format!("back        the processes of {} stopped", plan.candidate)
        }
        BackStage::Processes { of: Track::Stable } => {
            format!(
                "back        {} of {} run",
                super::processes(&plan.stable_processes),
                plan.stable.as_ref()?
            )
        }
        BackStage::Drain => format!("drain       {} is empty", plan.candidate),
        BackStage::Retire => format!("retire      {} is stopped", plan.candidate),
    })
}

/// What an effect of the way forward came to; a trailing space where only its evidence says more.
fn effect_text(before: &Machine, name: EffectName) -> Option<String> {
    let plan = before.plan();
    Some(match name {
        EffectName::KeepLease => return None,
        EffectName::Preflight => "preflight ".into(),
        EffectName::Gate => match before.step() {
            Step::Gate { command } => format!("gate        `{command}`"),
            _ => "gate      ".into(),
        },
        EffectName::Build => "build     ".into(),
        EffectName::Provision => match before.step() {
            Step::Provision { count } => format!("provision   {count} × {}", plan.candidate),
            _ => "provision ".into(),
        },
        EffectName::Check => "check     ".into(),
        EffectName::Smoke => "smoke     ".into(),
        EffectName::Load => "load      ".into(),
        EffectName::Processes => match before.step() {
            Step::Processes { of: Track::Candidate, run } => {
                format!("processes   {} of {} run", super::processes(run), plan.candidate)
            }
            Step::Processes { of: Track::Stable, .. } => {
                let stopped = super::stopped(plan, before.at());
                format!("processes   {stopped} of {} stopped", plan.stable.as_ref()?)
            }
            _ => "processes ".into(),
        },
        EffectName::Steady => "steady    ".into(),
        EffectName::Shift => match before.step() {
            Step::Shift { weight } if *weight == Weight::FULL => {
                format!("shift       all traffic is on {}", plan.candidate)
            }
            Step::Shift { weight } => format!("shift       {weight} of traffic is on {}", plan.candidate),
            _ => "shift     ".into(),
        },
        EffectName::Watch | EffectName::Judge => "bake      ".into(),
        EffectName::Shrink => match before.step() {
            Step::Shrink { count } => format!("shrink      {} keeps {count}", plan.stable.as_ref()?),
            _ => "shrink    ".into(),
        },
        EffectName::Settle => format!("promote     {} is stable", plan.candidate),
        EffectName::Drain => format!("drain       {} is empty", plan.stable.as_ref()?),
        EffectName::Retire => format!("retire      {} is stopped", plan.stable.as_ref()?),
    })
}

fn mode_lines(before: &Machine, after: &Machine, at_ms: u64) -> Vec<Line> {
    let line = |mark, text| vec![Line { at_ms, mark, text, details: Vec::new() }];
    match (before.mode(), after.mode()) {
        (Mode::Back(_), Mode::Back(Back { stuck: Some(fault), .. })) if before.exit_code() != Some(5) => {
            line(
                Mark::Failed,
                format!(
                    "the way back needs a person: {}\nit is tried again until it works; see: cutover status",
                    fault.what
                ),
            )
        }
        (Mode::Forward | Mode::Held(_), Mode::Back(back)) => line(Mark::Failed, back_text(after, &back.why)),
        (mode, Mode::Ended { outcome }) if !matches!(mode, Mode::Ended { .. }) => {
            line(ending_mark(outcome), ending_text(after, outcome))
        }
        (Mode::Forward, Mode::Held(hold)) => line(Mark::Waits, hold_text(hold, after.opened(), at_ms)),
        (_, Mode::Forward) if after.at() != before.at() => match after.step() {
            Step::Bake { span, prove: Some(_), .. } => {
                line(Mark::Waits, format!("bake        compared with stable, {span} at most"))
            }
            Step::Bake { span, .. } => line(Mark::Waits, format!("bake        observed for {span}")),
            Step::Warm { span } => line(
                Mark::Waits,
                format!("warm        the predecessor stays ready for {span}: cutover rollback"),
            ),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn back_text(machine: &Machine, why: &BackReason) -> String {
    let plan = machine.plan();
    let to = match &plan.stable {
        _ if !machine.moved() => format!("no traffic had moved; {} is stopped", plan.candidate),
        Some(stable) if plan.stable_at(machine.at()) < plan.replicas => {
            format!("traffic returns to {stable} as its instances do, batch by batch")
        }
        Some(stable) => format!("all traffic returns to {stable}"),
        None => "the route answers 503 again".into(),
    };
    match why {
        // The line before has said it.
        BackReason::Fault { .. } | BackReason::Verdict { .. } | BackReason::Tripped { .. } => {
            format!("goes back: {to}")
        }
        why => format!("goes back: {why}; {to}"),
    }
}

fn hold_text(hold: &Hold, opened: Moment, at_ms: u64) -> String {
    let left = super::elapsed(hold.until.ms_since(opened).saturating_sub(at_ms));
    match &hold.why {
        HoldReason::Paused { by } => {
            format!(
                "held        paused by {by} for {left}, then {}: cutover resume, cutover abort",
                hold.then
            )
        }
        HoldReason::Approval { point } => {
            format!(
                "held        waits for approval ({}), goes back in {left}: cutover approve, cutover abort",
                point.name()
            )
        }
        HoldReason::Inconclusive => {
            format!("held        inconclusive, goes back in {left}: cutover resume, cutover abort")
        }
        HoldReason::Unmeasured { what } => format!(
            "held        not measured ({what}), goes on when it is, goes back in {left}: cutover resume goes on without it, \
             cutover abort"
        ),
    }
}

fn ending_mark(ending: &Ending) -> Mark {
    if *ending == Ending::Released { Mark::Done } else { Mark::Failed }
}

fn ending_text(machine: &Machine, ending: &Ending) -> String {
    let plan = machine.plan();
    match ending {
        Ending::Released => format!("{} is complete", plan.release),
        Ending::Refused { why } => format!("{} was refused before any traffic moved: {why}", plan.release),
        Ending::RolledBack { why } => format!("{} was rolled back: {why}", plan.release),
        Ending::Withdrawn { why, .. } => format!("{} was withdrawn: {why}", plan.release),
    }
}

fn command_text(command: &Command, by: &str) -> String {
    match command {
        Command::Pause { span, then } => format!("pause by {by} for {span}, then {then}"),
        Command::Adopt { release } => format!("the predecessor is taken over by {release}"),
        Command::Hurry { release } => format!("the wait is over early: {release} was promoted"),
        command => format!("{} by {by}", command.name()),
    }
}

fn verb(name: EffectName) -> &'static str {
    match name {
        EffectName::Preflight => "make room",
        EffectName::Gate => "pass the gate",
        EffectName::Build => "store the revision",
        EffectName::Provision => "start the instances",
        EffectName::Check => "pass the checks",
        EffectName::Smoke => "pass the smoke tests",
        EffectName::Load => "hold the load test",
        EffectName::Processes => "hand the processes over",
        EffectName::Steady => "keep the processes up",
        EffectName::Shift => "move traffic",
        EffectName::KeepLease => "renew the lease",
        EffectName::Watch | EffectName::Judge => "judge the traffic",
        EffectName::Shrink => "stop instances of a batch",
        EffectName::Settle => "make the candidate stable",
        EffectName::Drain => "drain",
        EffectName::Retire => "stop the instances",
    }
}
