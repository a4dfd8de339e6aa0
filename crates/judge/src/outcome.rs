//! What can come of a request, and how many times it did.

use serde::{Deserialize, Serialize};

/// The track that a request was assigned to, whoever answered it in the end.
///
/// A request that failed at the candidate and was answered by stable stays the candidate's: else a candidate that fails
/// often would look good, and the shares would no longer be those of the lottery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The revision that has the traffic.
    Stable,
    /// The revision that is to have it.
    Candidate,
}

impl Arm {
    /// Both, in the order in which counts are kept.
    pub const BOTH: [Arm; 2] = [Arm::Stable, Arm::Candidate];

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// What came of the first attempt of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer that is no error, and the microseconds that it took.
    Ok {
        /// Microseconds from the first byte sent to the first byte of the answer, or whatever the caller always measures.
        latency_us: u64,
    },
    /// An answer that is no error, and whose time says nothing.
    Untimed,
    /// A status of 400 to 499.
    ClientError,
    /// A status of 500 or more, no connection, a reset, a cut body, a timeout.
    Error,
    /// It is still open, and older than [`Sheet::hung_after_us`](crate::Sheet::hung_after_us). What comes of it later
    /// is not scored again.
    Hung,
}

/// Latency buckets of an epoch.
pub(crate) const BUCKETS: usize = 16;
/// Classes of outcomes: the buckets, then what has no latency.
pub(crate) const CLASSES: usize = BUCKETS + 4;

/// An outcome as an epoch counts it: one of its latency buckets, or what has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(pub(crate) u8);

impl Class {
    pub(crate) const SLOWEST: Class = Class(BUCKETS as u8 - 1);
    /// An answer that is no error, with no latency that could be scored.
    pub const UNTIMED: Class = Class(BUCKETS as u8);
    /// A status of 400 to 499.
    pub const CLIENT_ERROR: Class = Class(BUCKETS as u8 + 1);
    /// A failure of the service.
    pub const ERROR: Class = Class(BUCKETS as u8 + 2);
    /// A failure of a request whose latency would not have been scored either.
    ///
    /// A failed request counts as slow. Where those that succeed have no time, counting only what failed as slow would make
    /// bets on latency unfair.
    pub const UNTIMED_ERROR: Class = Class(BUCKETS as u8 + 3);

    pub(crate) fn all() -> impl Iterator<Item = Class> {
        (0..CLASSES as u8).map(Class)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn failed(self) -> bool {
        matches!(self, Class::ERROR | Class::UNTIMED_ERROR)
    }

    /// The latency bucket, 0 for the fastest.
    pub(crate) fn bucket(self) -> Option<usize> {
        (self.index() < BUCKETS).then_some(self.index())
    }
}

/// How many requests of an epoch were assigned to each arm, and what came of those that are scored.
///
/// Adding the counts of several threads gives the counts that one thread would have had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Requests assigned, by arm.
    pub assigned: [u64; 2],
    /// Requests scored, by arm and class.
    pub scored: [[u64; CLASSES]; 2],
}

impl Counts {
    /// Adds what somebody else counted.
    pub fn merge(&mut self, other: &Counts) {
        for arm in Arm::BOTH.map(Arm::index) {
            self.assigned[arm] = self.assigned[arm].saturating_add(other.assigned[arm]);
            for (mine, theirs) in self.scored[arm].iter_mut().zip(&other.scored[arm]) {
                *mine = mine.saturating_add(*theirs);
            }
        }
    }

    /// Requests of an arm that are scored.
    pub fn requests(&self, arm: Arm) -> u64 {
        self.scored[arm.index()].iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Those of one class.
    pub fn of(&self, arm: Arm, class: Class) -> u64 {
        self.scored[arm.index()][class.index()]
    }

    /// Those that failed.
    pub fn errors(&self, arm: Arm) -> u64 {
        self.of(arm, Class::ERROR).saturating_add(self.of(arm, Class::UNTIMED_ERROR))
    }

    pub(crate) fn total(&self) -> u64 {
        self.requests(Arm::Stable).saturating_add(self.requests(Arm::Candidate))
    }
}
