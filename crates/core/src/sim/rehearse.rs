//! Rehearses one release: every failure at every place of its own plan, and the worst that came of each kind.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::Serialize;

use super::{Fate, Injection, Scenario, Schedule, run};
use crate::event::{Command, HoldDefault};
use crate::machine::{Ending, Machine, Mode};
use crate::plan::Step;
use crate::text::{count, elapsed};
use crate::units::{Span, Weight};

/// What goes wrong, in the operator's words, and how to make it happen.
struct Kind {
    what: &'static str,
    bad_checks: bool,
    bad_smoke: bool,
    bad_load: bool,
    /// At every boundary.
    injections: Vec<Injection>,
    /// To every effect.
    fates: Vec<Fate>,
}

/// What a rehearsal came to.
#[derive(Debug, Default, Serialize)]
pub struct Rehearsal {
    /// How many failures were rehearsed.
    pub schedules: usize,
    /// Each kind of failure with its worst case.
    pub cases: Vec<Case>,
    /// Broken promises: none, or there is a defect in cutover.
    pub broken: Vec<String>,
}

/// The worst that came of one kind of failure.
#[derive(Debug, Default, Serialize)]
pub struct Case {
    /// What went wrong.
    pub what: &'static str,
    /// At how many places.
    pub places: usize,
    /// How often it ended how.
    pub endings: BTreeMap<&'static str, usize>,
    /// The longest that the candidate had traffic after the failure, when the release went back; milliseconds.
    pub exposed_ms: u64,
    /// What it had of it at the end of that time.
    pub weight: Weight,
    /// The step at which that was.
    pub step: String,
    /// The fewest ready instances of both revisions together; none in a first release.
    pub least_ready: Option<u32>,
}

/// Rehearses the release of `scenario`; `rolling` ones of many replicas should be given with fewer.
pub fn rehearse(scenario: &Scenario) -> Rehearsal {
    let mut rehearsal = Rehearsal::default();
    for kind in kinds() {
        let smoked = scenario.plan().steps.iter().any(|step| matches!(step, Step::Smoke { .. }));
        let loaded = scenario.plan().steps.iter().any(|step| matches!(step, Step::Load { .. }));
        if (kind.bad_smoke && !smoked) || (kind.bad_load && !loaded) {
            continue;
        }
        let scenario = Scenario {
            bad_checks: kind.bad_checks,
            bad_smoke: kind.bad_smoke,
            bad_load: kind.bad_load,
            ..scenario.clone()
        };
        let calm = run(&scenario, &Schedule::default());
        let mut case = Case { what: kind.what, ..Case::default() };
        let mut schedules: Vec<Schedule> = Vec::new();
        for injection in &kind.injections {
            schedules.extend(
                (0..calm.boundaries)
                    .map(|at| Schedule { injections: vec![(at, injection.clone())], ..Schedule::default() }),
            );
        }
        for fate in &kind.fates {
            schedules.extend(
                (0..calm.effects)
                    .map(|at| Schedule { fates: vec![(at, fate.clone())], ..Schedule::default() }),
            );
        }
        if schedules.is_empty() {
            schedules.push(Schedule::default());
        }
        for schedule in &schedules {
            let finished = run(&scenario, schedule);
            case.take(&finished.run, schedule);
            rehearsal
                .broken
                .extend(finished.broken.map(|broken| format!("{}: {schedule:?}: {broken}", kind.what)));
        }
        rehearsal.schedules += schedules.len();
        rehearsal.cases.push(case);
    }
    rehearsal
}

fn kinds() -> Vec<Kind> {
    let none = || Kind {
        what: "",
        bad_checks: false,
        bad_smoke: false,
        bad_load: false,
        injections: Vec::new(),
        fates: Vec::new(),
    };
    let crash = |down_ms| {
        [Fate::Fine, Fate::AppliedLost, Fate::LateApplied]
            .map(|in_flight| Injection::Crash { down_ms, in_flight })
            .to_vec()
    };
    let says = |command| vec![Injection::Command(command)];
    let pause = Command::Pause { span: Span::from_secs(60), then: HoldDefault::Abort };
    vec![
        Kind { what: "nothing goes wrong", ..none() },
        Kind { what: "the candidate fails its checks", bad_checks: true, ..none() },
        Kind { what: "the candidate fails its smoke tests", bad_smoke: true, ..none() },
        Kind { what: "the candidate does not hold its load tests", bad_load: true, ..none() },
        Kind {
            what: "the candidate breaks under traffic",
            injections: vec![Injection::TrafficTurnsBad],
            ..none()
        },
        Kind { what: "the router takes its traffic away", injections: vec![Injection::Trip], ..none() },
        Kind { what: "cutover dies, the next one starts at once", injections: crash(100), ..none() },
        Kind {
            what: "cutover dies for longer than the lease",
            injections: crash(2 * super::LEASE_MS),
            ..none()
        },
        Kind { what: "a call fails once", fates: vec![Fate::FailRetry], ..none() },
        Kind { what: "a call fails for good", fates: vec![Fate::FailFinal], ..none() },
        Kind {
            what: "a call takes hold and its answer is lost",
            fates: vec![Fate::AppliedLost, Fate::LateApplied],
            ..none()
        },
        Kind { what: "a call takes hold twice", fates: vec![Fate::Duplicate], ..none() },
        Kind { what: "a person aborts", injections: says(Command::Abort), ..none() },
        Kind { what: "a person pauses and forgets", injections: says(pause), ..none() },
    ]
}

impl Case {
    fn take(&mut self, run: &super::Run, schedule: &Schedule) {
        self.places += usize::from(!schedule.injections.is_empty() || !schedule.fates.is_empty());
        *self.endings.entry(ending(&run.machine)).or_default() += 1;
        if run.machine.plan().stable.is_some() {
            self.least_ready =
                Some(self.least_ready.map_or(run.least_ready, |least| least.min(run.least_ready)));
        }
        let Some((exposed_ms, weight)) = run.exposed() else { return };
        // What users feel is time and share together.
        let felt = |ms: u64, weight: Weight| ms.saturating_mul(u64::from(weight.bp()));
        if felt(exposed_ms, weight) > felt(self.exposed_ms, self.weight) {
            (self.exposed_ms, self.weight, self.step) = (exposed_ms, weight, run.machine.step().name());
        }
    }
}

fn ending(machine: &Machine) -> &'static str {
    match machine.mode() {
        _ if machine.decided().is_some() => "released",
        Mode::Ended { outcome: Ending::Refused { .. } } => "refused before traffic moved",
        Mode::Ended { outcome: Ending::RolledBack { .. } } => "rolled back",
        Mode::Ended { outcome: Ending::Withdrawn { .. } } => "withdrawn",
        _ => "needs a person",
    }
}

impl fmt::Display for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            let places = match case.places {
                0 => String::new(),
                places => format!(" ({} places)", count(places as u64)),
            };
            writeln!(f, "{}{places}", case.what)?;
            let endings: Vec<String> =
                case.endings.iter().map(|(how, times)| format!("{how} {}", count(*times as u64))).collect();
            writeln!(f, "    ends: {}", endings.join(", "))?;
            let mut worst = String::new();
            if case.exposed_ms > 0 {
                let _ = write!(
                    worst,
                    "the candidate keeps {} of traffic for {}, at {}; ",
                    case.weight,
                    elapsed(case.exposed_ms),
                    case.step
                );
            }
            match case.least_ready {
                Some(1) => worst.push_str("never fewer than 1 instance ready"),
                Some(least) => drop(write!(worst, "never fewer than {least} instances ready")),
                None => worst.push_str("no predecessor to return to: the route answers 503"),
            }
            writeln!(f, "    worst: {worst}")?;
        }
        let held = if self.broken.is_empty() { "every promise held" } else { "PROMISES WERE BROKEN" };
        write!(f, "{} failures rehearsed, {held}", count(self.schedules as u64))?;
        self.broken.iter().take(5).try_for_each(|broken| write!(f, "\n  {broken}"))
    }
}
