//! One simulated release: the driver's rules on virtual time, with planned faults, commands and crashes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::invariants::{INVARIANTS, twice_is_once};
use super::world::World;
use super::{Fate, Injection, Sabotage, Scenario, Schedule};
use crate::effect::{Effect, EffectKey, EffectName, Evidence, Outcome, Resource};
use crate::event::{Event, Record};
use crate::fault::{After, Blame, Fault};
use crate::ids::{Fence, Moment};
use crate::machine::{Machine, Mode};
use crate::units::Weight;

/// More events than any schedule needs: beyond it the machine would run for ever.
const MAX_EVENTS: usize = 3_000;
/// How long a fake takes, unless its fate says more.
const LAG_MS: u64 = 10;

/// A simulated release under way.
#[derive(Clone)]
pub struct Run {
    /// The machine.
    pub machine: Machine,
    /// What is true outside.
    pub world: World,
    /// What was journaled.
    pub journal: Vec<Record>,
    /// Virtual time.
    pub now: Moment,
    /// Whether the tail was handed to a newer release.
    pub adopted: bool,
    /// Whether the candidate ever had weight.
    pub shifted_once: bool,
    /// The fewest ready instances of both revisions so far, where there is a predecessor.
    pub least_ready: u32,
    /// When the planned failure came.
    trouble: Option<Moment>,
    /// Until when the candidate had traffic after it, and how much then.
    exposed: Option<(Moment, Weight)>,
    /// Every effect started so far.
    pub started: BTreeSet<EffectKey>,
    /// Effects whose answer was lost and that take hold later.
    pub late: Vec<Late>,
    in_flight: Vec<Flight>,
    epoch: u64,
    boundaries: usize,
    effects: usize,
    schedule: Schedule,
    sabotage: Option<Sabotage>,
    /// The machine as replayed from the journal so far, and how many records that were.
    replayed: (Machine, usize),
    /// Cells (state, event) visited, and the states they belong to.
    cells: BTreeSet<String>,
    states: BTreeSet<String>,
}

/// An effect that takes hold after its answer was lost.
#[derive(Clone)]
pub struct Late {
    effect: Effect,
    fence: Fence,
    at: Moment,
}

#[derive(Clone)]
struct Flight {
    key: EffectKey,
    effect: Effect,
    fence: Fence,
    answer_at: Option<Moment>,
    fate: Fate,
}

/// How a simulated release went.
pub struct Finished {
    /// The run as it ended.
    pub run: Run,
    /// What broke, with the promise; none when all held.
    pub broken: Option<String>,
    /// How many boundaries it passed: places where the process can die.
    pub boundaries: usize,
    /// How many effects it started.
    pub effects: usize,
    /// The cells (state, event) it visited.
    pub cells: BTreeSet<String>,
}

/// Runs `scenario` under `schedule`, checking every invariant after every event.
pub fn run(scenario: &Scenario, schedule: &Schedule) -> Finished {
    let plan = Arc::new(scenario.plan());
    let mut world = World::new(plan.clone());
    world.bad_gate = scenario.bad_gate;
    world.bad_checks = scenario.bad_checks;
    world.bad_smoke = scenario.bad_smoke;
    world.bad_load = scenario.bad_load;
    world.bad_processes = scenario.bad_processes;
    world.bad_traffic = scenario.bad_traffic;
    world.no_traffic = scenario.no_traffic;
    world.ignores_fences = schedule.sabotage == Some(Sabotage::IgnoreFences);
    let mut run = Run {
        machine: Machine::open(plan.clone(), Moment(0)),
        world,
        journal: vec![Record {
            sequence: 0,
            epoch: 1,
            at: Moment(0),
            wall_ms: 0,
            event: Event::Opened {
                release: Box::new(scenario.release.clone()),
                plan: Box::new((*plan).clone()),
            },
        }],
        now: Moment(0),
        adopted: false,
        shifted_once: false,
        least_ready: u32::MAX,
        trouble: None,
        exposed: None,
        started: BTreeSet::new(),
        late: Vec::new(),
        in_flight: Vec::new(),
        epoch: 1,
        boundaries: 0,
        effects: 0,
        schedule: schedule.clone(),
        sabotage: schedule.sabotage,
        replayed: (Machine::open(plan, Moment(0)), 1),
        cells: BTreeSet::new(),
        states: BTreeSet::new(),
    };
    let broken = run.drive();
    Finished {
        broken,
        boundaries: run.boundaries,
        effects: run.effects,
        cells: std::mem::take(&mut run.cells),
        run,
    }
}

impl Run {
    fn drive(&mut self) -> Option<String> {
        for _ in 0..MAX_EVENTS {
            self.visit_cells();
            if let Some(broken) = self.check() {
                return Some(broken);
            }
            if self.machine.ended() {
                // What was lost may still take hold after the end; it must change nothing.
                while let Some(at) = self.late.iter().map(|late| late.at).min() {
                    self.pass(at);
                }
                return self.check();
            }
            if self.boundary() {
                continue;
            }
            self.start_wanted();
            if self.boundary() {
                continue;
            }
            self.next_event();
        }
        Some(format!("the release does not end: {:?} at {}", self.machine.mode(), self.machine.step().name()))
    }

    /// Returns how long the candidate had traffic after the planned failure, of a release that was taken back, in
    /// milliseconds, and how much it had last.
    pub fn exposed(&self) -> Option<(u64, Weight)> {
        let (from, (until, weight)) = self.trouble.zip(self.exposed)?;
        self.machine.decided().is_none().then(|| (until.ms_since(from), weight))
    }

    /// Notes what a rehearsal tells of: who is ready, and who has traffic.
    fn note(&mut self) {
        let plan = self.machine.plan();
        let ready = |revision| super::invariants::ready(&self.world, revision);
        let all = plan.stable.as_ref().map_or(0, ready) + ready(&plan.candidate);
        let weight = self.world.weight(&plan.candidate);
        self.least_ready = self.least_ready.min(all);
        if self.trouble.is_some() && weight > Weight::ZERO {
            self.exposed = Some((self.now, weight));
        }
    }

    fn check(&mut self) -> Option<String> {
        self.note();
        if let Some(broken) = self.replay() {
            return Some(broken);
        }
        INVARIANTS
            .iter()
            .find_map(|invariant| (invariant.broken)(self).map(|how| format!("{}: {how}", invariant.promise)))
    }

    /// Replays what was journaled since the last check: the same events must give the same machine.
    fn replay(&mut self) -> Option<String> {
        let (machine, records) = &mut self.replayed;
        for record in &self.journal[*records..] {
            if let Err(error) = machine.apply(&record.event, record.at) {
                return Some(format!("record {} is refused on replay: {error}", record.sequence));
            }
        }
        *records = self.journal.len();
        (*machine != self.machine).then(|| "replaying the journal does not give the same machine".into())
    }

    /// A place where the process can die, or somebody say something. True when it happened.
    fn boundary(&mut self) -> bool {
        let here = self.boundaries;
        self.boundaries += 1;
        let injections: Vec<Injection> = self
            .schedule
            .injections
            .iter()
            .filter(|(at, _)| *at == here)
            .map(|(_, injection)| injection.clone())
            .collect();
        if !injections.is_empty() {
            self.trouble = Some(self.now);
        }
        for injection in &injections {
            match injection {
                Injection::Crash { down_ms, in_flight } => self.crash(*down_ms, in_flight),
                Injection::Command(command) => {
                    let event = Event::Commanded { command: command.clone(), by: "ann".into() };
                    self.journal_and_apply(event);
                }
                Injection::Trip => self.world.trip("10 of 20 requests failed"),
                Injection::TrafficTurnsBad => {
                    self.world.bad_traffic = true;
                    // Who watches sees it.
                    let watching =
                        self.in_flight.iter_mut().filter(|flight| flight.key.name == EffectName::Watch);
                    watching.for_each(|flight| flight.answer_at = Some(self.now.after_ms(LAG_MS)));
                }
            }
        }
        !injections.is_empty()
    }

    /// The process dies: what it knew is gone, what it had asked for may or may not happen. The next one replays.
    fn crash(&mut self, down_ms: u64, fate: &Fate) {
        for flight in std::mem::take(&mut self.in_flight) {
            match fate {
                Fate::AppliedLost => drop(self.act(&flight.effect, flight.fence)),
                Fate::LateApplied => self.late.push(Late {
                    effect: flight.effect,
                    fence: flight.fence,
                    at: self.now.after_ms(down_ms + 50),
                }),
                _ => {}
            }
        }
        self.pass(self.now.after_ms(down_ms));
        self.epoch += 1;
        let Some(Event::Opened { plan, .. }) = self.journal.first().map(|record| record.event.clone()) else {
            return;
        };
        let mut machine = Machine::open(*plan, Moment(0));
        for record in &self.journal[1..] {
            // A record that does not replay shows as "the replayed machine differs".
            let _ = machine.apply(&record.event, record.at);
        }
        self.machine = machine;
        self.journal_and_apply(Event::TakenOver { owner: format!("driver {}", self.epoch) });
    }

    fn start_wanted(&mut self) {
        for wanted in self.machine.wanted() {
            let key = &wanted.key;
            let busy = self.in_flight.iter().any(|flight| {
                &flight.key == key
                    || (flight.effect.resource() == wanted.effect.resource()
                        && flight.effect.resource() != Resource::Nothing)
            });
            if busy || wanted.not_before > self.now {
                continue;
            }
            self.started.insert(key.clone());
            let fate = self.fate_of_next();
            let lag = match fate {
                Fate::Slow => 20_000,
                _ => LAG_MS,
            };
            let endless = match key.name {
                EffectName::KeepLease => true,
                EffectName::Watch => {
                    let proves = matches!(&wanted.effect, Effect::Watch { prove: Some(_), .. });
                    !self.world.bad_traffic && (!proves || self.world.no_traffic)
                }
                _ => false,
            };
            let answer_at = (!endless).then(|| self.now.after_ms(lag));
            let fence = Fence { epoch: self.epoch, sequence: self.journal.len() as u64 };
            self.in_flight.push(Flight { key: wanted.key, effect: wanted.effect, fence, answer_at, fate });
        }
        let wanted: BTreeSet<EffectKey> =
            self.machine.wanted().into_iter().map(|wanted| wanted.key).collect();
        // What merely looks is stopped when it is not wanted any more; what changes something is awaited.
        self.in_flight
            .retain(|flight| wanted.contains(&flight.key) || flight.effect.resource() != Resource::Nothing);
    }

    fn fate_of_next(&mut self) -> Fate {
        let here = self.effects;
        self.effects += 1;
        let fate = self.schedule.fates.iter().find(|(at, _)| *at == here).map(|(_, fate)| fate.clone());
        if fate.is_some() {
            self.trouble = Some(self.now);
        }
        fate.unwrap_or(Fate::Fine)
    }

    fn next_event(&mut self) {
        if let Some((number, why)) = self.world.trips.first().cloned() {
            self.journal_and_apply(Event::Tripped { number, why, shared: false });
            self.world.trips.remove(0);
            return;
        }
        let answer = self
            .in_flight
            .iter()
            .enumerate()
            .filter_map(|(i, flight)| flight.answer_at.map(|at| (at, i)))
            .min();
        let timer = self.machine.next_timer();
        let retry =
            self.machine.wanted().iter().map(|wanted| wanted.not_before).filter(|at| *at > self.now).min();
        let late = self.late.iter().map(|late| late.at).filter(|at| *at > self.now).min();
        let next = [answer.map(|(at, _)| at), timer, retry, late].into_iter().flatten().min();
        let Some(next) = next else {
            // Nothing is due: the driver would sleep for ever. The event bound reports it.
            return;
        };
        self.pass(next.max(self.now));
        match answer {
            Some((at, index)) if at <= self.now => self.answer(index),
            _ if timer.is_some_and(|at| at <= self.now) => self.journal_and_apply(Event::Tick),
            _ => {}
        }
    }

    fn answer(&mut self, index: usize) {
        let flight = self.in_flight.remove(index);
        let outcome = self.outcome(&flight);
        let event = match outcome {
            Ok(evidence) => Event::Done { effect: flight.key, evidence },
            Err(fault) => Event::Failed { effect: flight.key, fault },
        };
        // The answer is known and not yet journaled: the worst place to die.
        if self.boundary_with(event.clone()) {
            return;
        }
        self.journal_and_apply(event);
    }

    fn boundary_with(&mut self, event: Event) -> bool {
        let crashes =
            self.schedule.injections.iter().any(|(at, injection)| {
                *at == self.boundaries && matches!(injection, Injection::Crash { .. })
            });
        if crashes {
            return self.boundary();
        }
        // A command that comes first may make the answer unwanted; the driver then drops it.
        self.boundary() && self.machine.clone().apply(&event, self.now).is_err()
    }

    fn outcome(&mut self, flight: &Flight) -> Outcome {
        let lost = || Fault::new(Blame::Platform, After::Unknown, "no answer in time");
        match flight.fate {
            Fate::Fine | Fate::Slow => self.act(&flight.effect, flight.fence),
            Fate::Duplicate => {
                let first = self.act(&flight.effect, flight.fence);
                self.late.push(Late {
                    effect: flight.effect.clone(),
                    fence: flight.fence,
                    at: self.now.after_ms(3_000),
                });
                first
            }
            Fate::FailRetry => Err(World::fault(Blame::Platform, After::Retry)),
            Fate::FailFinal => Err(World::fault(Blame::Platform, After::Final)),
            Fate::AppliedLost => {
                drop(self.act(&flight.effect, flight.fence));
                Err(lost())
            }
            Fate::LateApplied => {
                self.late.push(Late {
                    effect: flight.effect.clone(),
                    fence: flight.fence,
                    at: self.now.after_ms(3_000),
                });
                Err(lost())
            }
            Fate::Lie => Ok(Evidence::Plain),
        }
    }

    fn act(&mut self, effect: &Effect, fence: Fence) -> Outcome {
        if let Some(outcome) = self.sabotaged(effect) {
            return outcome;
        }
        let outcome = self.world.act(effect, fence, self.now);
        self.shifted_once |= self.world.weight(&self.machine.plan().candidate).bp() > 0;
        if outcome.is_ok()
            && let Some(broken) = twice_is_once(&self.world, effect, fence, self.now)
        {
            self.world.violations.push(broken);
        }
        outcome
    }

    /// Lets virtual time pass until `until`: leases are renewed while a driver lives, late effects take hold.
    fn pass(&mut self, until: Moment) {
        loop {
            let due = self.late.iter().enumerate().map(|(i, late)| (late.at, i)).min();
            let stop = due.map_or(until, |(at, _)| at.min(until)).max(self.now);
            if self.in_flight.iter().any(|flight| flight.key.name == EffectName::KeepLease) {
                self.world.renew(stop);
            }
            // A lease lapses when it is over, not when somebody looks.
            if let Some((lease, lapse)) = self.world.lease.as_ref().filter(|(_, lapse)| *lapse <= stop)
                && self.trouble.is_some()
            {
                self.exposed = Some((*lapse, self.world.weight(&lease.candidate)));
            }
            self.now = stop;
            self.world.pass(stop);
            match due {
                Some((at, index)) if at <= stop => {
                    let late = self.late.remove(index);
                    drop(self.act(&late.effect, late.fence));
                }
                _ => break,
            }
        }
    }

    /// Journal before acting: a crash in between repeats the effect, never forgets it.
    fn journal_and_apply(&mut self, event: Event) {
        let mut next = self.machine.clone();
        if next.apply(&event, self.now).is_err() {
            return;
        }
        self.adopted |=
            matches!(&event, Event::Commanded { command: crate::event::Command::Adopt { .. }, .. });
        if self.sabotage != Some(Sabotage::ActBeforeJournal) || !matches!(event, Event::Done { .. }) {
            let sequence = self.journal.len() as u64;
            self.journal.push(Record { sequence, epoch: self.epoch, at: self.now, wall_ms: 0, event });
        }
        self.machine = next;
    }

    /// A planted fault: what a driver or an edge without one of its guards would do.
    fn sabotaged(&mut self, effect: &Effect) -> Option<Outcome> {
        let back = matches!(self.machine.mode(), Mode::Back(_));
        match (self.sabotage?, effect) {
            (Sabotage::SkipDrain, Effect::Drain { .. })
            | (Sabotage::SkipCheck, Effect::Check { .. })
            | (Sabotage::ForgetRetire, Effect::Retire { .. }) => Some(Ok(Evidence::Plain)),
            (Sabotage::StayOnCandidate, Effect::Shift(_)) if back => Some(Ok(Evidence::Plain)),
            (Sabotage::StopStableEarly, Effect::Check { .. }) => {
                let stable = self.machine.plan().stable.clone()?;
                self.world.running.insert(stable, self.machine.plan().replicas - 1);
                None
            }
            (Sabotage::ShrinkTooFar, Effect::Shrink { revision, count, .. }) => {
                self.world.running.insert(revision.clone(), count - 1);
                None
            }
            (Sabotage::SurgeTooMuch, Effect::Provision { revision, count }) if !back => {
                self.world.running.insert(revision.clone(), count + self.machine.plan().most);
                Some(Ok(Evidence::Plain))
            }
            (
                Sabotage::ForgetRestore,
                Effect::Provision { .. } | Effect::Check { .. } | Effect::Lower(_) | Effect::Shrink { .. },
            ) if back => Some(Ok(Evidence::Plain)),
            (Sabotage::ReturnTooMuch, Effect::Lower(_)) => {
                let stable = self.machine.plan().stable.clone()?;
                let all = crate::effect::Shift { weights: vec![(stable, Weight::FULL)], lease: None };
                Some(self.world.act(&Effect::Shift(all), self.world.fence, self.now))
            }
            (Sabotage::RunTwoClocks, Effect::Processes { revision, .. })
                if !back && Some(revision) == self.machine.plan().stable.as_ref() =>
            {
                Some(Ok(Evidence::Plain))
            }
            (Sabotage::StopWorkersEarly, Effect::Processes { .. }) => {
                let stable = self.machine.plan().stable.clone()?;
                self.world.processes.remove(&stable);
                None
            }
            (Sabotage::SkipSmoke, Effect::Smoke { .. })
            | (Sabotage::SkipLoad, Effect::Load { .. })
            | (Sabotage::SkipSteady, Effect::Steady { .. }) => Some(Ok(Evidence::Plain)),
            (Sabotage::ForgetProcesses, Effect::Processes { .. }) if back => Some(Ok(Evidence::Plain)),
            (Sabotage::KeepOldProcesses, Effect::Processes { .. }) if self.machine.decided().is_some() => {
                Some(Ok(Evidence::Plain))
            }
            (Sabotage::StopPredecessorAtPromote, Effect::Settle(_)) => {
                let stable = self.machine.plan().stable.clone()?;
                self.world.running.remove(&stable);
                None
            }
            (Sabotage::EmptyRoute, Effect::Settle(_)) => {
                self.world.weights.clear();
                Some(Ok(Evidence::Plain))
            }
            (Sabotage::KeepLeaseAfterSettle, Effect::Settle(_)) => Some(Ok(Evidence::Plain)),
            (Sabotage::ShiftWithoutLease, Effect::Shift(shift)) if !back => {
                let mut shift = shift.clone();
                shift.lease = None;
                Some(self.world.act(&Effect::Shift(shift), self.world.fence, self.now))
            }
            (Sabotage::ShiftWhileChecking, Effect::Build { .. }) => {
                self.shifted_once = true;
                Some(Err(World::fault(Blame::Platform, After::Final)))
            }
            (Sabotage::BlameOutage, Effect::Watch { .. } | Effect::Judge { .. }) => {
                self.world.bad_traffic = true;
                let outcome = self.world.act(effect, self.world.fence, self.now);
                self.world.bad_traffic = false;
                Some(outcome)
            }
            _ => None,
        }
    }

    /// Tries every event on the current state: none may panic, an illegal one changes nothing.
    fn visit_cells(&mut self) {
        let state = cell_state(&self.machine);
        let wanted: Vec<EffectKey> = self.machine.wanted().into_iter().map(|wanted| wanted.key).collect();
        if !self.states.insert(format!("{state} {wanted:?}")) {
            return;
        }
        for (name, event) in super::probe_events(&self.machine) {
            let mut probe = self.machine.clone();
            let legal = probe.apply(&event, self.now).is_ok();
            if !legal && probe != self.machine {
                self.world.violations.push(format!("the illegal event {name} changed the state {state}"));
            }
            self.cells.insert(format!("{state} × {name}: {}", if legal { "legal" } else { "refused" }));
        }
    }
}

fn cell_state(machine: &Machine) -> String {
    let step = machine.step().name();
    match machine.mode() {
        Mode::Forward => format!("{step}/forward"),
        Mode::Held(hold) => format!("{step}/held {}", super::hold_name(&hold.why)),
        Mode::Back(back) => format!("back {}", super::stage_name(back.stage)),
        Mode::Ended { outcome } => format!("ended {}", super::ending_name(outcome)),
    }
}
