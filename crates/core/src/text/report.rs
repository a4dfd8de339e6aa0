//! The report of a release: how it ended, and what it cost in requests.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{count, elapsed};
use crate::check::{self, CheckKind, CheckResult};
use crate::effect::{BackStage, EffectName, Evidence, StepKey};
use crate::event::{Event, Record};
use crate::guard::Verdict;
use crate::ids::{ReleaseId, RevisionId, ServiceName};
use crate::load::{LoadOutcome, LoadResult};
use crate::machine::{BackReason, Ending, Machine, Mode};
use crate::plan::Step;

/// How a release went; the last thing that `deploy` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The release.
    pub release: ReleaseId,
    /// The service.
    pub service: ServiceName,
    /// The environment of the release file that it followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// The revision that was stable before.
    pub stable: Option<RevisionId>,
    /// The revision that was released, or not.
    pub candidate: RevisionId,
    /// How it ended, or where it is.
    pub outcome: ReportOutcome,
    /// Why it went back; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The exit code of `deploy`; none while it is not known.
    pub exit_code: Option<u8>,
    /// From its beginning until it was decided, or until it ended, in milliseconds.
    pub took_ms: u64,
    /// From the first sign of trouble until all traffic was back on stable, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_ms: Option<u64>,
    /// The user's own tests, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gate: Vec<GateReport>,
    /// What was asked of instances: health checks and smoke tests, each with the last that it said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckResult>,
    /// What load tests came to, in order, each with the last that it said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loads: Vec<LoadResult>,
    /// What was judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// Requests of the service during the release.
    pub requests: u64,
    /// Of these, answered with a server error by the service.
    pub failed: u64,
    /// Of these, failed by the router.
    pub failed_by_router: u64,
}

/// How one of the user's own tests went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateReport {
    /// The shell command.
    pub command: String,
    /// Whether it exited 0.
    pub passed: bool,
    /// How long it ran, in milliseconds.
    pub took_ms: u64,
}

impl GateReport {
    fn of(machine: &Machine, record: &Record) -> Option<GateReport> {
        let (Step::Gate { command }, Event::Done { effect, .. } | Event::Failed { effect, .. }) =
            (machine.step(), &record.event)
        else {
            return None;
        };
        (effect.name == EffectName::Gate).then(|| GateReport {
            command: command.clone(),
            passed: matches!(record.event, Event::Done { .. }),
            took_ms: record.at.ms_since(machine.entered()),
        })
    }
}

/// Returns what an event says of checks.
fn checked(event: &Event) -> &[CheckResult] {
    match event {
        Event::Done { evidence: Evidence::Checked { results }, .. } => results,
        Event::Failed { fault, .. } => &fault.results,
        _ => &[],
    }
}

/// Returns what an event says of a load test.
fn loaded(event: &Event) -> Option<&LoadResult> {
    match event {
        Event::Done { evidence: Evidence::Loaded { result }, .. } => Some(result),
        Event::Failed { fault, .. } => fault.load.as_deref(),
        _ => None,
    }
}

/// How a release ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum ReportOutcome {
    Released,
    Refused,
    RolledBack,
    Withdrawn,
    UnderWay,
}

impl Report {
    /// Makes the report of a journal; none where it has no beginning.
    pub fn of(records: &[Record]) -> Option<Report> {
        let Event::Opened { release, plan } = &records.first()?.event else { return None };
        let mut machine = Machine::open((**plan).clone(), records[0].at);
        let mut turned = None;
        let mut returned = None;
        let mut end = records[0].at;
        let (mut gate, mut checks) = (Vec::new(), Vec::new());
        let mut loads: BTreeMap<usize, LoadResult> = BTreeMap::new();
        for record in &records[1..] {
            gate.extend(GateReport::of(&machine, record));
            check::merge(&mut checks, checked(&record.event));
            // One that was sent again, after a crash say, says what it said last.
            loads.extend(loaded(&record.event).map(|result| (machine.at(), result.clone())));
            let _ = machine.apply(&record.event, record.at);
            let back = matches!(machine.mode(), Mode::Back(_));
            if back && turned.is_none() {
                turned = Some(record.at);
            }
            if let Event::Done { effect, .. } = &record.event
                && effect.step == StepKey::Back(BackStage::Traffic)
            {
                returned = returned.or(Some(record.at));
            }
            if machine.decided().is_none() {
                end = record.at;
            }
        }
        let (requests, failed, failed_by_router) = counted(records);
        let (outcome, why) = outcome(&machine);
        Some(Report {
            release: release.id.clone(),
            service: release.service.clone(),
            environment: release.file.environment.clone(),
            stable: plan.stable.clone(),
            candidate: plan.candidate.clone(),
            outcome,
            why: why.map(ToString::to_string).unwrap_or_default(),
            exit_code: machine.exit_code(),
            took_ms: machine.decided().unwrap_or(end).ms_since(machine.opened()),
            rollback_ms: turned.zip(returned).map(|(turned, returned)| returned.ms_since(turned)),
            gate,
            checks,
            loads: loads.into_values().collect(),
            verdicts: machine.verdicts().to_vec(),
            requests,
            failed,
            failed_by_router,
        })
    }
}

fn outcome(machine: &Machine) -> (ReportOutcome, Option<&BackReason>) {
    match machine.mode() {
        _ if machine.decided().is_some() => (ReportOutcome::Released, None),
        Mode::Ended { outcome: Ending::Refused { why } } => (ReportOutcome::Refused, Some(why)),
        Mode::Ended { outcome: Ending::RolledBack { why } } => (ReportOutcome::RolledBack, Some(why)),
        Mode::Ended { outcome: Ending::Withdrawn { why, .. } } => (ReportOutcome::Withdrawn, Some(why)),
        Mode::Back(back) => (ReportOutcome::UnderWay, Some(&back.why)),
        _ => (ReportOutcome::UnderWay, None),
    }
}

/// Sums the counters' growth; a counter that fell was begun anew by a new proxy worker.
fn counted(records: &[Record]) -> (u64, u64, u64) {
    let mut sum = [0; 3];
    let mut last: Option<[u64; 3]> = None;
    for record in records {
        if let Event::Counted { requests, failed, failed_by_router } = record.event {
            let now = [requests, failed, failed_by_router];
            if let Some(last) = last {
                let restarted = now[0] < last[0];
                for i in 0..3 {
                    sum[i] += if restarted { now[i] } else { now[i].saturating_sub(last[i]) };
                }
            }
            last = Some(now);
        }
    }
    (sum[0], sum[1], sum[2])
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { service, candidate, .. } = self;
        let environment = self.environment.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        let release = format!("{}{environment}", self.release);
        let took = elapsed(self.took_ms);
        let stable = self.stable.as_ref().map_or("no one".to_string(), RevisionId::to_string);
        match self.outcome {
            ReportOutcome::Released => {
                writeln!(f, "{release}: {service} runs {candidate}, released in {took}")?
            }
            ReportOutcome::Refused => {
                writeln!(
                    f,
                    "{release}: refused after {took}, before any traffic moved; {service} runs {stable} as before"
                )?;
            }
            ReportOutcome::RolledBack => {
                let back =
                    self.rollback_ms.map(|ms| format!(" (traffic was back {ms} ms after the decision)"));
                writeln!(
                    f,
                    "{release}: rolled back after {took}{}; {service} runs {stable}",
                    back.unwrap_or_default()
                )?;
            }
            ReportOutcome::Withdrawn => {
                writeln!(f, "{release}: withdrawn after {took}; {service} runs {stable}")?
            }
            ReportOutcome::UnderWay => writeln!(f, "{release}: under way for {took}")?,
        }
        if !self.why.is_empty() {
            writeln!(f, "  because {}", self.why)?;
        }
        if !self.gate.is_empty() {
            let passed = self.gate.iter().filter(|gate| gate.passed).count();
            let took = elapsed(self.gate.iter().map(|gate| gate.took_ms).sum());
            writeln!(f, "  gate {passed} of {} passed in {took}", self.gate.len())?;
        }
        for kind in [CheckKind::Health, CheckKind::Smoke] {
            let results: Vec<&CheckResult> =
                self.checks.iter().filter(|result| result.kind == kind).collect();
            let failed: Vec<&&CheckResult> = results.iter().filter(|result| !result.passed()).collect();
            if !results.is_empty() {
                let (passed, all) = (results.len() - failed.len(), results.len());
                writeln!(f, "  {passed} of {all} {} passed", kind.words(all != 1))?;
            }
            for result in failed {
                writeln!(f, "    {} ({})", result.line(), result.instance)?;
            }
        }
        for load in &self.loads {
            writeln!(f, "  load {}", load.line())?;
            let whole = load.candidate().filter(|_| load.outcome != LoadOutcome::Passed);
            if let Some(numbers) = whole {
                writeln!(f, "    {numbers}")?;
            }
            for share in load.shares.iter().filter(|_| load.shares.len() > 1) {
                let scenario = share.scenario.as_deref().unwrap_or("all");
                writeln!(f, "    {:<9} {scenario}: {share}", share.track.name())?;
            }
        }
        if let Some(verdict) = self.verdicts.last() {
            writeln!(f, "  verdict {verdict}")?;
        }
        write!(
            f,
            "  requests {}, failed {} ({} by the service, {} by the router)",
            count(self.requests),
            count(self.failed + self.failed_by_router),
            count(self.failed),
            count(self.failed_by_router)
        )
    }
}
