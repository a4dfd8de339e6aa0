//! The simulator: the machine on virtual time, against a world whose edges fail, time out after having acted, lag,
//! repeat, act late and lie, with a crash at every boundary. Seedless: schedules are enumerated, not drawn.

mod campaign;
mod invariants;
mod rehearse;
mod run;
mod world;

pub use campaign::{Campaign, Tally};
pub use invariants::{INVARIANTS, Invariant};
pub use rehearse::{Case, Rehearsal, rehearse};
pub use run::{Finished, Run, run};
pub use world::{LEASE_MS, World};

use crate::effect::{BackStage, EffectKey, EffectName, Evidence, StepKey};
use crate::event::{Account, Command, Event, HoldDefault};
use crate::fault::Fault;
use crate::ids::ReleaseId;
use crate::machine::{Ending, HoldReason, Machine};
use crate::plan::{Plan, Track};
use crate::release::{Observed, Release};
use crate::units::Span;

/// A release to simulate, and how its candidate behaves.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What the scenario is called in messages.
    pub name: &'static str,
    /// The release.
    pub release: Release,
    /// What was observed when it was planned.
    pub observed: Observed,
    /// The user's own tests fail.
    pub bad_gate: bool,
    /// The candidate fails its checks.
    pub bad_checks: bool,
    /// The candidate fails its smoke tests.
    pub bad_smoke: bool,
    /// The candidate does not hold its load tests.
    pub bad_load: bool,
    /// The candidate's processes do not stay up.
    pub bad_processes: bool,
    /// The candidate's traffic fails its guard.
    pub bad_traffic: bool,
    /// The candidate gets too little traffic for a verdict.
    pub no_traffic: bool,
}

impl Scenario {
    /// A release whose candidate is good.
    pub fn good(name: &'static str, release: Release, observed: Observed) -> Scenario {
        Scenario {
            name,
            release,
            observed,
            bad_gate: false,
            bad_checks: false,
            bad_smoke: false,
            bad_load: false,
            bad_processes: false,
            bad_traffic: false,
            no_traffic: false,
        }
    }

    /// Returns the plan of the scenario's release.
    ///
    /// # Panics
    /// When the scenario releases what is stable already: a mistake in the scenario.
    pub fn plan(&self) -> Plan {
        Plan::new(&self.release, &self.observed, true).expect("a scenario releases something new")
    }
}

/// What happens during one simulated release.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// Crashes, commands and trips, each at a boundary.
    pub injections: Vec<(usize, Injection)>,
    /// The fate of the n-th started effect.
    pub fates: Vec<(usize, Fate)>,
    /// A guard taken away, to show that its absence is noticed.
    pub sabotage: Option<Sabotage>,
}

/// Something that happens at a boundary.
#[derive(Clone, Debug, PartialEq)]
pub enum Injection {
    /// The process dies, and another takes over later.
    Crash {
        /// How long nobody drives.
        down_ms: u64,
        /// What becomes of the effects in flight.
        in_flight: Fate,
    },
    /// Somebody says something.
    Command(Command),
    /// The router takes the candidate's traffic away.
    Trip,
    /// The candidate breaks.
    TrafficTurnsBad,
}

/// What becomes of an effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It succeeds.
    Fine,
    /// It succeeds after 20 s.
    Slow,
    /// It fails, and would succeed later.
    FailRetry,
    /// It fails for good.
    FailFinal,
    /// It takes hold, and the answer is lost.
    AppliedLost,
    /// The answer is lost, and it takes hold 3 s later.
    LateApplied,
    /// It takes hold twice, the second time 3 s later.
    Duplicate,
    /// It says that it succeeded, and did nothing.
    Lie,
}

/// A guard taken away. Each is noticed by an invariant: see `planted_faults_are_caught`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Sabotage {
    SkipDrain,
    SkipCheck,
    ForgetRetire,
    StayOnCandidate,
    StopStableEarly,
    StopPredecessorAtPromote,
    EmptyRoute,
    KeepLeaseAfterSettle,
    ShiftWithoutLease,
    ShiftWhileChecking,
    ShrinkTooFar,
    SurgeTooMuch,
    ForgetRestore,
    ReturnTooMuch,
    BlameOutage,
    RunTwoClocks,
    StopWorkersEarly,
    SkipSmoke,
    SkipLoad,
    SkipSteady,
    ForgetProcesses,
    KeepOldProcesses,
    ActBeforeJournal,
    IgnoreFences,
}

pub(crate) fn hold_name(why: &HoldReason) -> &'static str {
    match why {
        HoldReason::Paused { .. } => "paused",
        HoldReason::Approval { .. } => "approval",
        HoldReason::Inconclusive => "inconclusive",
        HoldReason::Unmeasured { .. } => "unmeasured",
    }
}

pub(crate) fn stage_name(stage: BackStage) -> &'static str {
    match stage {
        BackStage::Return { .. } => "return",
        BackStage::Yield { .. } => "yield",
        BackStage::Restore { .. } => "restore",
        BackStage::Recheck { .. } => "recheck",
        BackStage::Traffic => "traffic",
        BackStage::Processes { of: Track::Stable } => "processes of stable",
        BackStage::Processes { of: Track::Candidate } => "processes of the candidate",
        BackStage::Drain => "drain",
        BackStage::Retire => "retire",
    }
}

pub(crate) fn ending_name(ending: &Ending) -> &'static str {
    match ending {
        Ending::Released => "released",
        Ending::Refused { .. } => "refused",
        Ending::RolledBack { .. } => "rolled back",
        Ending::Withdrawn { .. } => "withdrawn",
    }
}

/// Every command, for tries and schedules.
pub fn all_commands() -> Vec<Command> {
    vec![
        Command::Pause { span: Span::from_secs(60), then: HoldDefault::Abort },
        Command::Pause { span: Span::from_secs(60), then: HoldDefault::Resume },
        Command::Resume,
        Command::Approve,
        Command::Advance,
        Command::Promote,
        Command::Abort,
        Command::Supersede,
        Command::Adopt { release: ReleaseId::new("shop-9") },
        Command::Hurry { release: ReleaseId::new("shop-9") },
    ]
}

/// One event of each kind, to try on a state: wanted results and unwanted ones.
fn probe_events(machine: &Machine) -> Vec<(String, Event)> {
    let mut events: Vec<(String, Event)> = all_commands()
        .into_iter()
        .map(|command| (command.name().to_string(), Event::Commanded { command, by: "ann".into() }))
        .collect();
    let stray = EffectKey { place: "nowhere".into(), step: StepKey::Forward(99), name: EffectName::Build };
    for wanted in machine.wanted() {
        let effect = wanted.key.clone();
        events.push((
            format!("{} done", effect.name),
            Event::Done { effect: effect.clone(), evidence: Evidence::Plain },
        ));
        for (name, fault) in [("retry", Fault::platform("x")), ("final", Fault::candidate("x"))] {
            events.push((
                format!("{} failed {name}", effect.name),
                Event::Failed { effect: effect.clone(), fault },
            ));
        }
    }
    events.push(("stray done".into(), Event::Done { effect: stray.clone(), evidence: Evidence::Plain }));
    events.push(("stray failed".into(), Event::Failed { effect: stray, fault: Fault::platform("x") }));
    events.push(("tick".into(), Event::Tick));
    events.push(("tripped".into(), Event::Tripped { number: 77, why: "x".into(), shared: false }));
    let settings = cutover_judge::Settings::new(Vec::new());
    let account = Box::new(Account { settings, epochs: Vec::new(), failure: None, probe: None });
    events.push(("judged".into(), Event::Judged { account }));
    events.push(("counted".into(), Event::Counted { requests: 1, failed: 0, failed_by_router: 0 }));
    events.push(("taken over".into(), Event::TakenOver { owner: "x".into() }));
    events
}
