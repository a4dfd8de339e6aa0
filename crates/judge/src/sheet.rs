//! What a thread needs to turn outcomes into counts by itself.

use crate::baseline::{P99, P999};
use crate::histogram::Histogram;
use crate::outcome::{Arm, Class, Counts, Outcome};
use crate::terms::Terms;

/// A request on its way: kept from the moment it is assigned until it is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) epoch: u32,
    pub(crate) arm: Arm,
    /// Whether its latency may be scored: it may not while the candidate warms up, at either arm.
    pub(crate) timed: bool,
}

impl Ticket {
    /// The arm it was assigned to.
    pub fn arm(self) -> Arm {
        self.arm
    }
}

/// What an epoch makes of outcomes. It never changes; threads hold a copy until the next epoch.
#[derive(Clone, Debug)]
pub struct Sheet {
    pub(crate) terms: Terms,
    pub(crate) warming: bool,
}

impl Sheet {
    /// The terms of the epoch.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// A ticket for a request that is assigned to an arm now.
    ///
    /// While the candidate warms up the latency of *both* arms is left out. Leaving out the candidate's alone would let
    /// slowness be a property of stable: stable's quick requests would win bets that nobody loses.
    pub fn ticket(&self, arm: Arm) -> Ticket {
        Ticket { epoch: self.terms.epoch, arm, timed: !self.warming }
    }

    /// The age in microseconds at which a request that is still open is scored as [`Outcome::Hung`]: stable's 99.9th
    /// percentile. None while that is not known.
    pub fn hung_after_us(&self) -> Option<u64> {
        self.terms.estimates.latency.as_ref().map(|shape| shape.edges_us[P999].saturating_add(1))
    }

    /// The class of an outcome in this epoch.
    #[inline]
    pub fn class(&self, ticket: Ticket, outcome: Outcome) -> Class {
        self.terms.class(ticket, outcome)
    }
}

impl Terms {
    #[inline]
    pub(crate) fn class(&self, ticket: Ticket, outcome: Outcome) -> Class {
        let shape = self.estimates.latency.as_ref().filter(|_| ticket.timed);
        match (outcome, shape) {
            (Outcome::Ok { latency_us }, Some(shape)) => shape.class(latency_us),
            (Outcome::Hung, Some(_)) => Class::SLOWEST,
            (Outcome::Ok { .. } | Outcome::Untimed | Outcome::Hung, _) => Class::UNTIMED,
            (Outcome::ClientError, _) => Class::CLIENT_ERROR,
            (Outcome::Error, Some(_)) => Class::ERROR,
            (Outcome::Error, None) => Class::UNTIMED_ERROR,
        }
    }
}

/// What one thread counted in one epoch; [`Judge::merge`](crate::Judge::merge) takes it.
#[derive(Clone, Debug)]
pub struct Tally {
    pub(crate) epoch: u32,
    pub(crate) counts: Counts,
    pub(crate) latencies: Histogram,
}

impl Tally {
    /// An empty tally for the epoch of a sheet.
    pub fn new(sheet: &Sheet) -> Tally {
        Tally { epoch: sheet.terms.epoch, counts: Counts::default(), latencies: Histogram::default() }
    }

    /// Counts a request that was just assigned.
    pub fn assign(&mut self, ticket: Ticket) {
        self.counts.assigned[ticket.arm.index()] += 1;
    }

    /// What was counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.counts == Counts::default()
    }

    /// Begins anew, for the epoch of a sheet.
    pub fn reset(&mut self, sheet: &Sheet) {
        self.epoch = sheet.terms.epoch;
        self.counts = Counts::default();
        if self.latencies.total() > 0 {
            self.latencies.clear();
        }
    }

    /// Counts what came of a request of this epoch. Returns whether it made the candidate look clearly worse, by a failure
    /// or by being slower than stable's 99th percentile: then all tallies should be merged at once, for the verdict may be due.
    pub fn score(&mut self, sheet: &Sheet, ticket: Ticket, outcome: Outcome) -> bool {
        let class = sheet.class(ticket, outcome);
        self.counts.scored[ticket.arm.index()][class.index()] += 1;
        if let Some(latency) = learned(ticket, outcome) {
            self.latencies.add(latency);
        }
        ticket.arm == Arm::Candidate
            && class.bucket().is_none_or(|bucket| bucket > P99)
            && class != Class::UNTIMED
    }
}

/// The latency that is learned from an outcome: stable's, outside of the candidate's warm-up.
pub(crate) fn learned(ticket: Ticket, outcome: Outcome) -> Option<u64> {
    match outcome {
        Outcome::Ok { latency_us } if ticket.arm == Arm::Stable && ticket.timed => Some(latency_us),
        _ => None,
    }
}
