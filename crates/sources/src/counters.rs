//! Counters of both arms, made into blocks for the judge.
//!
//! Each series is a process that counts. What it counted between two looks is known only if it was there at both, and did
//! not restart in between; everything else is a beginning, and nothing is bet on it. So a reset, a new instance or one that
//! a scrape missed costs evidence, and never invents any.

use std::collections::BTreeMap;

use cutover_judge::{Block, Scraped};
use serde::{Deserialize, Serialize};

use crate::source::{Found, Reading};

/// The series of one arm.
pub type ArmSample = BTreeMap<String, Scraped>;

/// What was seen at the last look. Written down and read again it goes on where it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    last: Option<Seen>,
    resets: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    at_ms: u64,
    arms: [ArmSample; 2],
}

/// What a look is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// What was counted since the last look; also when that is nothing.
    Block(Block),
    /// The first look: what was counted before is not this release's.
    First,
    /// The store has no newer sample yet.
    Same,
    /// The store's clock went back: what it now calls newest may be older than what was seen. It is a first look again.
    ClockBack {
        /// By how much, in milliseconds.
        by_ms: u64,
    },
    /// Not an answer with counters.
    Nothing,
}

impl Feed {
    /// Takes an answer.
    pub fn look(&mut self, reading: &Reading) -> Look {
        let Found::Counters(arms) = &reading.found else { return Look::Nothing };
        let at_ms = reading.sampled_at_ms.unwrap_or_default();
        let seen = Seen { at_ms, arms: arms.clone() };
        let Some(last) = self.last.replace(seen) else { return Look::First };
        if at_ms < last.at_ms {
            return Look::ClockBack { by_ms: last.at_ms - at_ms };
        }
        let mut resets = 0;
        let [stable, candidate] = [0, 1].map(|arm| grown(&last.arms[arm], &arms[arm], &mut resets));
        self.resets += resets;
        if at_ms == last.at_ms && stable.requests + candidate.requests == 0 {
            return Look::Same;
        }
        Look::Block(Block { stable, candidate })
    }

    /// Forgets what was seen: after an outage that is longer than anybody kept counting, say.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// Returns how many counters went back so far.
    pub fn resets(&self) -> u64 {
        self.resets
    }
}

fn grown(before: &ArmSample, now: &ArmSample, resets: &mut u64) -> Scraped {
    let mut sum = Scraped::default();
    for (series, counted) in now {
        let Some(earlier) = before.get(series) else { continue };
        match counted.since(*earlier) {
            Some(more) => {
                sum.requests = sum.requests.saturating_add(more.requests);
                sum.errors = sum.errors.saturating_add(more.errors);
            }
            None => *resets += 1,
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use cutover_judge::{History, Judge, Settings};

    use super::*;

    fn arm(series: &[(&str, u64, u64)]) -> ArmSample {
        series
            .iter()
            .map(|(name, requests, errors)| {
                ((*name).into(), Scraped { requests: *requests, errors: *errors })
            })
            .collect()
    }

    fn reading(at_ms: u64, stable: ArmSample, candidate: ArmSample) -> Reading {
        Reading {
            found: Found::Counters([stable, candidate]),
            sampled_at_ms: Some(at_ms),
            lag_ms: None,
            ahead_ms: None,
        }
    }

    fn block(stable: (u64, u64), candidate: (u64, u64)) -> Look {
        let scraped = |(requests, errors)| Scraped { requests, errors };
        Look::Block(Block { stable: scraped(stable), candidate: scraped(candidate) })
    }

    #[test]
    fn a_block_is_what_each_process_counted_between_two_looks() {
        let mut feed = Feed::default();
        let first = reading(1, arm(&[("a", 1_000, 7), ("b", 500, 0)]), arm(&[("c", 5, 5)]));
        assert_eq!(feed.look(&first), Look::First);
        let second = reading(2, arm(&[("a", 1_090, 8), ("b", 510, 0)]), arm(&[("c", 15, 6)]));
        assert_eq!(feed.look(&second), block((100, 1), (10, 1)));
        assert_eq!(feed.look(&second), Look::Same);
    }

    #[test]
    fn a_restart_hides_behind_no_other_traffic() {
        let mut feed = Feed::default();
        feed.look(&reading(1, arm(&[("a", 1_000, 50), ("b", 100, 0)]), arm(&[("c", 10, 0)])));
        // Together stable counted more than before, though `a` began again.
        let look = feed.look(&reading(2, arm(&[("a", 3, 3), ("b", 1_300, 0)]), arm(&[("c", 20, 0)])));
        assert_eq!((look, feed.resets()), (block((1_200, 0), (10, 0)), 1));
        // From then on it counts again.
        let look = feed.look(&reading(3, arm(&[("a", 13, 3), ("b", 1_300, 0)]), arm(&[("c", 20, 0)])));
        assert_eq!((look, feed.resets()), (block((10, 0), (0, 0)), 1));
    }

    #[test]
    fn errors_that_went_back_are_a_restart_too() {
        let mut feed = Feed::default();
        feed.look(&reading(1, arm(&[("a", 10, 5)]), arm(&[("c", 1, 0)])));
        // It restarted, and has had more requests since than before.
        let look = feed.look(&reading(2, arm(&[("a", 30, 1)]), arm(&[("c", 2, 0)])));
        assert_eq!((look, feed.resets()), (block((0, 0), (1, 0)), 1));
    }

    #[test]
    fn who_comes_or_was_away_begins() {
        let mut feed = Feed::default();
        feed.look(&reading(1, arm(&[("a", 10, 0)]), arm(&[("c", 10, 0)])));
        let look = feed.look(&reading(2, arm(&[("a", 20, 0), ("new", 900, 900)]), arm(&[])));
        assert_eq!(look, block((10, 0), (0, 0)));
        let look = feed.look(&reading(3, arm(&[("a", 20, 0), ("new", 910, 901)]), arm(&[("c", 500, 400)])));
        assert_eq!(look, block((10, 1), (0, 0)));
    }

    #[test]
    fn a_clock_that_goes_back_begins_anew() {
        let mut feed = Feed::default();
        feed.look(&reading(90_000, arm(&[("a", 100, 0)]), arm(&[("c", 10, 0)])));
        let look = feed.look(&reading(30_000, arm(&[("a", 40, 0)]), arm(&[("c", 4, 0)])));
        assert_eq!((look, feed.resets()), (Look::ClockBack { by_ms: 60_000 }, 0));
        let look = feed.look(&reading(31_000, arm(&[("a", 50, 0)]), arm(&[("c", 5, 0)])));
        assert_eq!(look, block((10, 0), (1, 0)));
    }

    /// The judge's block form on what the feed makes of counters: a bad candidate is found, also over restarts; a good one
    /// beside it is not.
    #[test]
    fn the_judge_finds_a_bad_candidate_in_the_blocks() {
        for (bad, found) in [(true, true), (false, false)] {
            let mut judge = Judge::new(Settings::new(vec![50_000_000]), History::default()).unwrap();
            let mut feed = Feed::default();
            let (mut stable, mut candidate) = (arm(&[("a", 0, 0)]), arm(&[("c", 0, 0)]));
            let mut failed_at = None;
            for look in 0..60 {
                let at = stable.get_mut("a").unwrap();
                *at = Scraped { requests: at.requests + 900, errors: at.errors + 1 };
                let at = candidate.get_mut("c").unwrap();
                *at = Scraped {
                    requests: at.requests + 100,
                    errors: at.errors + if bad { 20 } else { look % 9 / 8 },
                };
                if look % 10 == 9 {
                    candidate = arm(&[("c", 0, 0)]);
                }
                if let Look::Block(block) = feed.look(&reading(look + 1, stable.clone(), candidate.clone())) {
                    judge.block(block);
                    if judge.due() {
                        judge.next_epoch();
                    }
                }
                if judge.failure().is_some() && failed_at.is_none() {
                    failed_at = Some(look);
                }
            }
            assert_eq!(failed_at.is_some(), found, "bad: {bad}, failed at {failed_at:?}");
            assert!(failed_at.is_none_or(|look| look <= 2), "{failed_at:?}");
            assert_eq!(feed.resets(), 6);
        }
    }
}
