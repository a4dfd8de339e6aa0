//! After the switch there is nothing to compare with: a watch looks whether the candidate becomes worse than stable was, and
//! after its alarm half of the requests go back to stable for a while, which tells a bad release from a shared outage.

use cutover_judge::{
    Arm as Side, Attribution, Epoch, Estimates, Failure, History, Outcome, Probe, ProbeState, Settings,
};
use cutover_judge::{Tick, Ticket, Watch, WatchState};
use serde::{Deserialize, Serialize};

/// One release in a hundred is alarmed about for nothing, and one alarm in a hundred blames the wrong one.
const ALPHA_BP: u16 = 100;
/// The longest that a probe lasts, and the requests after which it knows what it will ever know.
const LONGEST_MS: u64 = 60_000;
const ENOUGH: u64 = 4_000;
/// A watch that alarmed so often for nothing is not believed any more.
const MOST_PROBES: u32 = 3;

/// The watch over a candidate that has all the traffic.
#[derive(Debug)]
pub(crate) struct Aftermath {
    watch: Watch,
    tick_due_ms: u64,
    probing: Option<Probing>,
    probes: u32,
}

#[derive(Debug)]
struct Probing {
    probe: Probe,
    epochs: Vec<Epoch>,
    until_ms: u64,
}

/// It, written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptAftermath {
    watch: WatchState,
    probe: Option<(ProbeState, Vec<Epoch>)>,
    probes: u32,
}

/// What a probe counted, as far as it is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// What it was asked to prove.
    pub settings: Settings,
    /// Its closed epochs.
    pub epochs: Vec<Epoch>,
    /// The failure that it told, if it did.
    pub failure: Option<Box<Failure>>,
}

/// What becomes of a probe.
pub(crate) enum Found {
    /// It goes on.
    Nothing,
    /// The candidate is worse.
    Worse,
    /// It is over, and the candidate keeps its traffic: why, for people.
    Over(String),
}

impl Aftermath {
    /// Begins when the candidate gets all the traffic, for a bake of so long.
    pub(crate) fn new(estimates: Estimates, bake_ms: u64, now_ms: u64) -> Option<Self> {
        let watch = Watch::new(estimates, ALPHA_BP, (bake_ms / 1000).max(60)).ok()?;
        let tick_due_ms = now_ms + watch.tick_ms();
        Some(Self { watch, tick_due_ms, probing: None, probes: 0 })
    }

    pub(crate) fn resume(kept: KeptAftermath, now_ms: u64) -> Option<Self> {
        let watch = Watch::resume(kept.watch).ok()?;
        let probing = kept.probe.and_then(|(state, epochs)| {
            Some(Probing { probe: Probe::resume(state).ok()?, epochs, until_ms: now_ms + LONGEST_MS })
        });
        let tick_due_ms = now_ms + watch.tick_ms();
        Some(Self { watch, tick_due_ms, probing, probes: kept.probes })
    }

    pub(crate) fn keep(&self) -> KeptAftermath {
        KeptAftermath {
            watch: self.watch.state().clone(),
            probe: self.probing.as_ref().map(|probing| (probing.probe.state(), probing.epochs.clone())),
            probes: self.probes,
        }
    }

    pub(crate) fn is_probing(&self) -> bool {
        self.probing.is_some()
    }

    /// Counts what came to the candidate.
    pub(crate) fn add(&mut self, tick: Tick) {
        if self.probing.is_none() && tick.requests > 0 {
            self.watch.add(tick);
        }
    }

    /// Ends ticks that are over, and begins a probe after an alarm, if half of the requests can go back to stable: then it is
    /// given what is `known` of stable. Returns what people are to be told.
    pub(crate) fn look(&mut self, known: Option<History>, now_ms: u64) -> Option<&'static str> {
        while now_ms >= self.tick_due_ms {
            self.watch.tick();
            self.tick_due_ms += self.watch.tick_ms();
        }
        if !self.watch.alarm() || self.probing.is_some() || self.probes >= MOST_PROBES {
            return None;
        }
        let Some(known) = known else {
            self.probes = MOST_PROBES;
            return Some(
                "after the switch the candidate looks worse than stable was, and it cannot be compared: clients stay with \
                 their revision, or stable could not carry half of the requests; look at it",
            );
        };
        self.probes += 1;
        let probe = Probe::new(known, ALPHA_BP).ok()?;
        self.probing = Some(Probing { probe, epochs: Vec::new(), until_ms: now_ms + LONGEST_MS });
        Some(
            "after the switch the candidate looks worse than stable was: half of the requests go back to stable to see \
             whether both fail",
        )
    }

    pub(crate) fn assign(&mut self, side: Side) -> Option<Ticket> {
        Some(self.probing.as_mut()?.probe.assign(side))
    }

    /// Counts what came of a request of the probe; one that came too late says nothing.
    pub(crate) fn score(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(probing) = &mut self.probing {
            probing.probe.score(ticket, outcome);
            let closed = probing.probe.next_epoch();
            probing.epochs.extend(closed);
        }
    }

    /// Turns a request of the probe that was scored as good into a failure.
    pub(crate) fn spoil(&mut self, ticket: Ticket, scored: Outcome) {
        if let Some(probing) = &mut self.probing {
            probing.probe.spoil(ticket, scored);
        }
    }

    /// Says what a probe came to; one that is over begins the watch anew.
    pub(crate) fn found(&mut self, now_ms: u64) -> Found {
        let Some(probing) = &self.probing else { return Found::Nothing };
        let why = match probing.probe.attribution() {
            Attribution::Candidate(_) => return Found::Worse,
            Attribution::Shared(shared) => {
                format!("after the switch: inconclusive: {}", cutover_judge::Cause::Shared(shared))
            }
            Attribution::Unclear if now_ms < probing.until_ms && probing.probe.requests() < ENOUGH => {
                return Found::Nothing;
            }
            Attribution::Unclear => format!(
                "after the switch the candidate looked worse than stable was, and {} requests by halves showed no \
                 difference: whatever it was is over, or both have it; the candidate keeps its traffic",
                probing.probe.requests()
            ),
        };
        self.probing = None;
        let kept = self.watch.state().clone();
        match kept.begin_again().and_then(|state| Watch::resume(state).ok()) {
            Some(watch) => self.watch = watch,
            None => self.probes = MOST_PROBES,
        }
        Found::Over(why)
    }

    /// Returns the failure that a probe has proven.
    pub(crate) fn failure(&self) -> Option<Box<Failure>> {
        match self.probing.as_ref()?.probe.attribution() {
            Attribution::Candidate(failure) => Some(failure),
            Attribution::Shared(_) | Attribution::Unclear => None,
        }
    }

    /// Returns what a probe has counted.
    pub(crate) fn probed(&mut self, close: bool) -> Option<Probed> {
        let failure = self.failure();
        let probing = self.probing.as_mut()?;
        if close {
            let closed = probing.probe.close();
            probing.epochs.extend(closed);
        }
        Some(Probed { settings: probing.probe.settings().clone(), epochs: probing.epochs.clone(), failure })
    }
}
