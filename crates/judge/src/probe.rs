//! After an alarm: is it the release, or something that both revisions depend on?
//!
//! Traffic is split evenly again, so that the label is a fair coin. Either the candidate is proven worse, which is a
//! failure like any other; or stable is proven to fail as well, and then nobody is rolled back.

use serde::{Deserialize, Serialize};

use crate::baseline::{Baseline, Estimates, History};
use crate::guard::SharedFailure;
use crate::judge::{Judge, State};
use crate::ledger::{Block, Epoch, Scraped};
use crate::outcome::{Arm, Outcome};
use crate::settings::Settings;
use crate::sheet::Ticket;
use crate::verdict::Failure;
use crate::watch::Tick;

/// The share of the candidate while a probe lasts.
const EVEN_BP: u16 = 5_000;
/// Stable's first requests, whose time says nothing.
const COLD: u64 = 20;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// The candidate is worse than stable: roll back.
    Candidate(Box<Failure>),
    /// Stable fails as well: rolling back would not help. Nobody should move until it is over.
    Shared(SharedFailure),
    /// Neither is proven. If both are well again, whatever it was is over.
    Unclear,
}

/// An attribution probe; it is a release's judge at an even share, with an α of its own.
#[derive(Clone, Debug)]
pub struct Probe {
    judge: Judge,
    estimates: Estimates,
    stable: Tick,
}

/// A probe, written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeState {
    judge: State,
    estimates: Estimates,
    stable: Tick,
}

impl Probe {
    /// A probe against what was known of stable before the alarm, which is [`Judge::known`]. Fails if the chance makes no
    /// sense.
    pub fn new(known: History, alpha_bp: u16) -> Result<Probe, String> {
        let settings = Settings { alpha_bp, ..Settings::new(Vec::new()) };
        let estimates = Baseline::new(known.clone()).estimates();
        // What was known of stable may no longer be true; that is what the probe asks. So it counts as little.
        let mut judge = Judge::new(settings, known.capped(1_000))?;
        judge.set_share(EVEN_BP);
        Ok(Probe { judge, estimates, stable: Tick::default() })
    }

    /// The probe that wrote the state down. Fails if none did.
    pub fn resume(state: ProbeState) -> Result<Probe, String> {
        let ProbeState { judge, estimates, stable } = state;
        estimates.check()?;
        Ok(Probe { judge: Judge::resume(judge)?, estimates, stable })
    }

    /// Everything it knows.
    pub fn state(&self) -> ProbeState {
        ProbeState {
            judge: self.judge.state().clone(),
            estimates: self.estimates.clone(),
            stable: self.stable,
        }
    }

    /// Counts a request that was just assigned by an even lottery.
    pub fn assign(&mut self, arm: Arm) -> Ticket {
        self.judge.assign(arm)
    }

    /// Counts what came of a request.
    pub fn score(&mut self, ticket: Ticket, outcome: Outcome) -> Attribution {
        if ticket.arm() == Arm::Stable {
            let mut tick = Tick::of(&self.estimates, outcome);
            // It was idle: its first requests may be slow, and acquit nobody.
            if self.stable.requests < COLD {
                (tick.timed, tick.slow) = (0, 0);
            }
            self.stable.add(tick);
        }
        self.judge.score(ticket, outcome);
        self.attribution()
    }

    /// Turns a request that was scored as good into a failure: its body broke off.
    pub fn spoil(&mut self, ticket: Ticket, scored: Outcome) -> Attribution {
        if ticket.arm() == Arm::Stable {
            self.stable.add(Tick { requests: 1, errors: 1, ..Tick::default() });
        }
        self.judge.spoil(ticket, scored);
        self.attribution()
    }

    /// Counts what a scraped source counted.
    pub fn block(&mut self, block: Block) -> Attribution {
        let Scraped { requests, errors } = block.stable;
        self.stable.add(Tick { requests, errors, timed: 0, slow: 0 });
        self.judge.block(block);
        self.attribution()
    }

    /// Begins another epoch where that is due, and returns those that are closed.
    pub fn next_epoch(&mut self) -> Vec<Epoch> {
        if self.judge.due() { self.judge.next_epoch() } else { Vec::new() }
    }

    /// Closes what is open, at its end, and returns it for the journal.
    pub fn close(&mut self) -> Vec<Epoch> {
        self.judge.close()
    }

    /// What it was asked to prove.
    pub fn settings(&self) -> &Settings {
        self.judge.state().settings()
    }

    /// Requests that were scored so far, of both arms.
    pub fn requests(&self) -> u64 {
        let seen = self.judge.seen();
        seen.stable.requests.saturating_add(seen.candidate.requests)
    }

    /// What is known so far. The candidate's guilt comes first: it may be worse in an outage, too.
    pub fn attribution(&self) -> Attribution {
        if let Some(failure) = self.judge.failure() {
            return Attribution::Candidate(Box::new(failure.clone()));
        }
        if !self.stable.proves(&self.estimates, self.judge.state.settings.alpha()) {
            return Attribution::Unclear;
        }
        let candidate = self.judge.seen().candidate;
        let stable = Scraped { requests: self.stable.requests, errors: self.stable.errors };
        Attribution::Shared(SharedFailure { stable, candidate, before_ppb: self.estimates.errors_ppb })
    }
}
