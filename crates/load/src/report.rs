//! What a test showed.

use serde::{Deserialize, Serialize};

use crate::comparison::Compared;
use crate::spec::Side;

/// What a test showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// For how long requests were sent and answers awaited, in milliseconds.
    pub took_ms: u64,
    /// What was sent, compared with what was to be; all zero in a closed loop.
    pub sent: Sent,
    /// What came of it, by side and scenario. The candidate's come first.
    pub shares: Vec<Share>,
    /// How the candidate compares with stable; none without stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
}

/// How the requests of a constant rate went out, to each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Requests that had their time.
    pub due: u64,
    /// Of these, not sent because this process was too late: its machine had no time for it. No fault of the target.
    pub missed: u64,
}

/// What came of the requests of one scenario to one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// To whom.
    pub side: Side,
    /// The scenario's name; none for all of them together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// What came of them.
    pub summary: Summary,
}

/// What came of requests. Latency is from when a request was due until its answer was whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests, failed ones among them.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// How they failed.
    pub failures: Failures,
    /// The first failure in words; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub first_failure: String,
    /// The mean latency, in microseconds. Timed-out requests count with the time they were waited for.
    pub mean_us: u64,
    /// The median latency.
    pub p50_us: u64,
    /// 95 of 100 requests took no longer.
    pub p95_us: u64,
    /// 99 of 100 requests took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// All latencies, in microseconds, as HdrHistogram writes them (V2, base64).
    pub histogram: String,
}

/// How requests failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Answered with a status that was not expected.
    pub status: u64,
    /// No connection.
    pub refused: u64,
    /// The connection broke, or the answer was no HTTP.
    pub broken: u64,
    /// Not answered whole in time.
    pub timeout: u64,
    /// Not sent: as many requests as may be were open already.
    pub unsent: u64,
}

impl Failures {
    /// Returns how many there are in all.
    pub fn all(&self) -> u64 {
        self.status + self.refused + self.broken + self.timeout + self.unsent
    }

    pub(crate) fn add(&mut self, other: &Failures) {
        self.status += other.status;
        self.refused += other.refused;
        self.broken += other.broken;
        self.timeout += other.timeout;
        self.unsent += other.unsent;
    }
}

impl std::fmt::Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [
            (self.status, "answered with another status"),
            (self.refused, "refused"),
            (self.broken, "broken off"),
            (self.timeout, "timed out"),
            (self.unsent, "not sent, too many were open"),
        ];
        let said: Vec<String> =
            kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        f.write_str(&said.join(", "))
    }
}

impl Report {
    /// Returns what came of all requests to a side.
    pub fn total(&self, side: Side) -> Option<&Summary> {
        let whole = |share: &&Share| share.side == side && share.scenario.is_none();
        self.shares.iter().find(whole).map(|share| &share.summary)
    }

    /// Tells whether this process was too late for so much that the latencies say more about it than about the target.
    pub fn starved(&self) -> bool {
        self.sent.missed * 20 > self.sent.due
    }
}
