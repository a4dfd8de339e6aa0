//! The wealth of all processes over the closed epochs, and what an epoch adds to it.

use serde::{Deserialize, Serialize};

use crate::experts::{EXPERTS, LIST, WEIGHTS};
use crate::math::{Nats, from_nats, ln, ln_mixture, nats};
use crate::outcome::{Arm, Class, Counts};
use crate::split;
use crate::table::{Bets, Logs, Table, share};
use crate::terms::Terms;
use crate::verdict::Failure;

/// Wealth is kept within a million nats: one that fell lower will never decide anything, one that rose higher has.
const BOUND: Nats = 1 << 52;
/// What the evidence must come to if the observed split is taken for the real one: forty to one. A hundred would cost
/// 3 % more requests until a failure is found, forty cost less than 1 %.
const CONFIRMED: f64 = 40.0;

/// Requests of both arms that a scraped source counted between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Stable's requests and how many of them failed.
    pub stable: Scraped,
    /// The candidate's.
    pub candidate: Scraped,
}

/// Two counters of one arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scraped {
    /// Requests.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
}

impl Scraped {
    /// What was counted since an earlier look. None if a counter went back, as it does when its process restarts: what
    /// happened in between is not known then, and nothing is bet on it.
    pub fn since(self, earlier: Scraped) -> Option<Scraped> {
        let requests = self.requests.checked_sub(earlier.requests)?;
        let errors = self.errors.checked_sub(earlier.errors)?;
        (errors <= requests).then_some(Scraped { requests, errors })
    }
}

impl Block {
    /// The block as counts. More errors than requests, which two counters read one after the other may say, are as many.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (arm, scraped) in [(Arm::Stable, self.stable), (Arm::Candidate, self.candidate)] {
            let errors = scraped.errors.min(scraped.requests);
            let scored = &mut counts.scored[arm.index()];
            scored[Class::UNTIMED_ERROR.index()] = errors;
            scored[Class::UNTIMED.index()] = scraped.requests - errors;
        }
        counts
    }
}

/// A closed epoch: with those before it all that a verdict needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// What its bets were made on.
    pub terms: Terms,
    /// What came of its requests.
    pub counts: Counts,
    /// What scraped sources counted while it lasted.
    pub blocks: Vec<Block>,
    /// Tells whether another version of the judge makes other bets of the same terms.
    pub fingerprint: u64,
    /// Wealth after it.
    pub ledger: Ledger,
}

/// Wealth and totals after an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The logarithm of each process's wealth, in units of 2⁻³² nats: experts, margins, latency.
    pub wealth: Logs,
    /// The experts' again, with the split that was observed in each epoch instead of the one that was meant.
    pub observed: [Nats; EXPERTS],
    /// Bets on the split itself: that the candidate gets too little, or too much.
    pub split: [Nats; 2],
    /// All requests so far.
    pub totals: Counts,
}

/// Terms with everything that is made of them.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    pub(crate) terms: Terms,
    pub(crate) bets: Bets,
    pub(crate) table: Table,
}

impl Drawn {
    pub(crate) fn new(terms: Terms) -> Drawn {
        let bets = Bets::new(&terms);
        let table = bets.table(share(terms.share_bp));
        Drawn { terms, bets, table }
    }

    /// A block's own table holds the split that it shows.
    pub(crate) fn block(&self, block: &Block) -> Logs {
        let counts = block.counts();
        self.split_of(&counts).sum(&counts)
    }

    fn split_of(&self, counts: &Counts) -> Table {
        let requests = counts.total().max(1);
        self.bets.table(counts.requests(Arm::Candidate) as f64 / requests as f64)
    }
}

impl Ledger {
    /// Whether a judge can have written it down.
    pub(crate) fn check(&self) -> Result<(), String> {
        let all = self.wealth.iter().chain(&self.observed).chain(&self.split);
        let within = all.into_iter().all(|wealth| (-BOUND..=BOUND).contains(wealth));
        if within { Ok(()) } else { Err("the state has wealth that no release can have".into()) }
    }

    /// Adds an epoch. Every number of the result is a function of the terms and the counts.
    pub(crate) fn add(&mut self, drawn: &Drawn, counts: &Counts, blocks: &[Block]) {
        let mut sums = drawn.table.sum(counts);
        let mut observed = drawn.split_of(counts).sum(counts);
        for block in blocks {
            let logs = drawn.block(block);
            sums.iter_mut().zip(logs).for_each(|(sum, log)| *sum += log);
            observed.iter_mut().zip(logs).for_each(|(sum, log)| *sum += log);
            self.totals.merge(&block.counts());
        }
        let within = |wealth: Nats, more: Nats| (wealth + more).clamp(-BOUND, BOUND);
        self.wealth.iter_mut().zip(sums).for_each(|(wealth, sum)| *wealth = within(*wealth, sum));
        self.observed.iter_mut().zip(observed).for_each(|(wealth, sum)| *wealth = within(*wealth, sum));
        let split = split::logs(drawn.terms.share_bp, counts.assigned);
        self.split
            .iter_mut()
            .zip(split)
            .for_each(|(wealth, sum)| *wealth = within(*wealth, sum.clamp(-BOUND, BOUND)));
        self.totals.merge(counts);
    }

    /// The logarithm of the wealth against the candidate.
    pub(crate) fn ln_rollback(wealth: &Logs) -> f64 {
        ln_mixture(&wealth[..EXPERTS], &WEIGHTS)
    }

    /// Whether what is here is enough to take the candidate back, at a wealth of 1/`alpha`.
    ///
    /// The wealth itself is enough for the error rate that is promised. Two more things are asked: two bad requests, and
    /// that the evidence does not rest on a split that was never the real one.
    pub(crate) fn failure(&self, terms: &Terms, alpha: f64) -> Option<Failure> {
        let wealth = Self::ln_rollback(&self.wealth);
        if nats(wealth) < nats(-ln(alpha))
            || ln_mixture(&self.observed, &WEIGHTS) < ln(CONFIRMED)
            || split::mismatch(self.split)
        {
            return None;
        }
        let strongest = self.strongest();
        if self.bad(strongest, Arm::Candidate) < 2 {
            return None;
        }
        Some(Failure::new(strongest, wealth, terms, self, alpha))
    }

    /// The expert that has contributed most; the first of equals.
    fn strongest(&self) -> usize {
        let gain = |expert: usize| from_nats(self.wealth[expert]) + ln(WEIGHTS[expert]);
        (1..EXPERTS).fold(0, |best, expert| if gain(expert) > gain(best) { expert } else { best })
    }

    /// Requests that can have made an expert suspicious.
    fn bad(&self, expert: usize, arm: Arm) -> u64 {
        use crate::experts::Expert::*;
        match LIST[expert] {
            ErrorsTimes(_) | ErrorsPlus(_) | ErrorsAt(_) => self.totals.errors(arm),
            ClientErrorsTimes(_) | ClientErrorsAt(_) => self.totals.of(arm, Class::CLIENT_ERROR),
            Shift(_) | Tail(..) => self.totals.requests(arm),
        }
    }
}
