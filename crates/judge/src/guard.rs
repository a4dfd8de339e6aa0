//! Failures that both arms share: no comparison can see them, and no release is to blame for them alone.

use serde::{Deserialize, Serialize};

use crate::baseline::PPB;
use crate::ledger::Scraped;
use crate::outcome::Arm;

/// Requests that are looked at together.
const WINDOW: u64 = 100;
/// Stable's among them, at least, and its failures; and the candidate's requests.
const LEAST: [u64; 2] = [10, 3];
const LEAST_CANDIDATE: u64 = 5;
/// Windows in a row: one alone comes up by chance where a twentieth of the requests fails.
const WINDOWS: u32 = 2;

/// Both arms fail: more than a tenth of the requests, and five times as many as before the release.
///
/// Where stable fails alone the candidate is compared as ever: it may be the fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedFailure {
    /// Stable, in the last hundred requests or so.
    pub stable: Scraped,
    /// The candidate.
    pub candidate: Scraped,
    /// What stable's rate was before, in parts per billion.
    pub before_ppb: u64,
}

/// The requests since the last look, and what was found. It spends no α: it never says that the candidate is to blame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guard {
    arms: [Scraped; 2],
    /// Windows in a row in which both failed.
    in_a_row: u32,
    pub(crate) found: Option<SharedFailure>,
}

impl Guard {
    #[inline]
    pub(crate) fn add(&mut self, arm: Arm, requests: u64, errors: u64, before_ppb: u64) {
        let mut more = [Scraped::default(); 2];
        more[arm.index()] = Scraped { requests, errors };
        self.add_both(more, before_ppb);
    }

    /// Counts what came together, and looks once: a window must not end between the good and the bad of one lump.
    #[inline]
    pub(crate) fn add_both(&mut self, more: [Scraped; 2], before_ppb: u64) {
        for (counted, more) in self.arms.iter_mut().zip(more) {
            counted.requests = counted.requests.saturating_add(more.requests);
            counted.errors = counted.errors.saturating_add(more.errors);
        }
        if self.arms[0].requests.saturating_add(self.arms[1].requests) >= WINDOW {
            self.look(before_ppb);
        }
    }

    fn look(&mut self, before_ppb: u64) {
        let [stable, candidate] = self.arms;
        if stable.requests < LEAST[0] || candidate.requests < LEAST_CANDIDATE {
            return;
        }
        self.arms = Default::default();
        let both = stable.errors >= LEAST[1] && high(stable, before_ppb) && high(candidate, before_ppb);
        self.in_a_row = if both { self.in_a_row + 1 } else { 0 };
        if self.in_a_row >= WINDOWS {
            self.found.get_or_insert(SharedFailure { stable, candidate, before_ppb });
        }
    }
}

fn high(counted: Scraped, before_ppb: u64) -> bool {
    let errors = u128::from(counted.errors);
    let requests = u128::from(counted.requests);
    errors * 10 >= requests && errors * u128::from(PPB) >= requests * u128::from(before_ppb) * 5
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(before_ppb: u64, stable_errors: u64, candidate_errors: u64) -> bool {
        let mut guard = Guard::default();
        for _ in 0..WINDOWS {
            assert!(guard.found.is_none());
            for i in 0..90 {
                guard.add(Arm::Stable, 1, u64::from(i < stable_errors), before_ppb);
            }
            for i in 0..10 {
                guard.add(Arm::Candidate, 1, u64::from(i < candidate_errors), before_ppb);
            }
        }
        guard.found.is_some()
    }

    #[test]
    fn it_needs_both_arms_a_tenth_and_five_times_what_was_before() {
        assert!(found(1_000_000, 20, 2));
        assert!(!found(1_000_000, 8, 1), "a tenth");
        assert!(!found(50_000_000, 20, 2), "five times");
        assert!(!found(1_000_000, 0, 10), "the candidate alone");
        assert!(!found(1_000_000, 20, 0), "the candidate may be the fix");
    }

    #[test]
    fn lumps_say_what_single_requests_say() {
        let mut guard = Guard::default();
        for _ in 0..1_000 {
            let lump = |requests, errors| Scraped { requests, errors };
            guard.add_both([lump(900, 27), lump(100, 3)], 2_000_000);
        }
        assert_eq!(guard.found, None, "3 % of both are no tenth");
    }
}
