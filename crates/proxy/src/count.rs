//! Counters of one arm and a histogram of latencies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Linear steps per power of two: a bucket is at most 12.5 % wide.
const STEPS: u32 = 8;
const BUCKETS: usize = 240;

/// Distribution of latencies in microseconds; a bucket's middle is within 7 % of what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Sparse", into = "Sparse")]
pub struct Histogram {
    counts: Vec<u64>,
    sum_us: u64,
}

#[derive(Serialize, Deserialize)]
struct Sparse {
    buckets: Vec<(u16, u64)>,
    sum_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], sum_us: 0 }
    }
}

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Self {
        let buckets = histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Self { buckets: buckets.map(|(at, count)| (at as u16, *count)).collect(), sum_us: histogram.sum_us }
    }
}

impl From<Sparse> for Histogram {
    fn from(sparse: Sparse) -> Self {
        let mut histogram = Self { sum_us: sparse.sum_us, ..Self::default() };
        for (at, count) in sparse.buckets {
            histogram.counts[usize::from(at).min(BUCKETS - 1)] += count;
        }
        histogram
    }
}

impl Histogram {
    /// Adds one latency.
    pub fn record(&mut self, us: u64) {
        self.counts[bucket_of(us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Adds all of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// Returns how many latencies were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the exact sum of all latencies in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Returns the mean in microseconds, 0 without any latency.
    pub fn mean_us(&self) -> u64 {
        self.sum_us.checked_div(self.count()).unwrap_or(0)
    }

    /// Returns the latency in microseconds below which the share `quantile` (0.0..=1.0) lies, 0 without any.
    pub fn quantile_us(&self, quantile: f64) -> u64 {
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let (low, high) = bounds(at);
                return low.midpoint(high);
            }
        }
        0
    }

    /// Returns the buckets that hold something: lower bound, upper bound (exclusive), count; microseconds.
    pub fn buckets(&self) -> Vec<(u64, u64, u64)> {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(at, count)| (bounds(at).0, bounds(at).1, *count)).collect()
    }
}

fn bucket_of(us: u64) -> usize {
    if us < u64::from(STEPS) {
        return us as usize;
    }
    let exponent = us.ilog2();
    let step = (us >> (exponent - 3)) & 7;
    let at = STEPS as usize + (exponent as usize - 3) * STEPS as usize + step as usize;
    at.min(BUCKETS - 1)
}

fn bounds(at: usize) -> (u64, u64) {
    let steps = STEPS as usize;
    if at < steps {
        return (at as u64, at as u64 + 1);
    }
    let exponent = (at - steps) / steps;
    let step = ((at - steps) % steps) as u64;
    let width = 1_u64 << exponent;
    ((8 + step) * width, (9 + step) * width)
}

/// Which requests an arm counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// Given to a revision that is not the candidate, by weight.
    Stable,
    /// Given to the candidate of the release, by weight.
    Candidate,
    /// Asked for by a pin header; never judged.
    Pinned,
    /// Asked for an asset that the revision chosen by weight does not have; never judged.
    Bridged,
    /// Copies of what was given to another revision; the client gets nothing of them; never judged.
    Mirrored,
    /// An arm that a newer proxy knows.
    #[serde(other)]
    Other,
}

impl Arm {
    /// Returns its name, as metrics and the admin socket say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
            Self::Pinned => "pinned",
            Self::Bridged => "bridged",
            Self::Mirrored => "mirrored",
            Self::Other => "other",
        }
    }
}

/// Counts of one arm. At any time
/// `claimed + adopted = finished + failed + cut + aborted_by_client + retried + in flight`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests given to this arm first.
    pub claimed: u64,
    /// Requests taken over after an attempt elsewhere (or at another target) failed.
    pub adopted: u64,
    /// Responses passed to their last byte.
    pub finished: u64,
    /// Finished responses by class: 1xx (upgrades), 2xx, 3xx, 4xx, 5xx.
    pub status: [u64; 5],
    /// Requests the client saw failing, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Requests cut at the deadline of a drain.
    pub cut: u64,
    /// Requests whose client went away first.
    pub aborted_by_client: u64,
    /// Attempts that failed and were handed on to another target, and answers that the client did not get because
    /// another revision had the asset.
    pub retried: u64,
    /// Failures that could have been sent again, had the budget not been used up.
    #[serde(default)]
    pub not_retried: u64,
    /// Copies whose status could be compared to that of the answer that the client got, and those of them that differ.
    #[serde(default)]
    pub mirror_compared: u64,
    /// Part of `mirror_compared`.
    #[serde(default)]
    pub mirror_differs: u64,
    /// Part of `mirror_compared`: the copy took more than twice as long as the answer that the client got, and 10 ms.
    #[serde(default)]
    pub mirror_slower: u64,
    /// Sum of the times until the heads of the compared copies.
    #[serde(default)]
    pub mirror_latency_us: u64,
    /// The same of the answers that the clients got.
    #[serde(default)]
    pub mirrored_latency_us: u64,
    /// Requests sent again on a new connection because a kept one had died.
    pub reconnected: u64,
    /// First attempts given to this arm that failed, also when a later one succeeded.
    pub first_attempt_failed: u64,
    /// First attempts during a release that were older, without an answer, than the slowest in a thousand of stable's; what
    /// comes of them later is counted as well.
    #[serde(default)]
    pub hung: u64,
    /// WebSockets closed by a close frame of the proxy, and event streams it ended; also in `finished`.
    pub websockets_closed: u64,
    /// Time from the claim until the response head.
    pub latency: Histogram,
}

impl Counts {
    /// Adds all of another arm's counts.
    pub fn merge(&mut self, other: &Self) {
        self.claimed += other.claimed;
        self.adopted += other.adopted;
        self.finished += other.finished;
        for (mine, theirs) in self.status.iter_mut().zip(other.status) {
            *mine += theirs;
        }
        for (reason, count) in &other.failed {
            *self.failed.entry(reason.clone()).or_default() += count;
        }
        self.cut += other.cut;
        self.aborted_by_client += other.aborted_by_client;
        self.retried += other.retried;
        self.not_retried += other.not_retried;
        self.mirror_compared += other.mirror_compared;
        self.mirror_differs += other.mirror_differs;
        self.mirror_slower += other.mirror_slower;
        self.mirror_latency_us += other.mirror_latency_us;
        self.mirrored_latency_us += other.mirrored_latency_us;
        self.reconnected += other.reconnected;
        self.first_attempt_failed += other.first_attempt_failed;
        self.hung += other.hung;
        self.websockets_closed += other.websockets_closed;
        self.latency.merge(&other.latency);
    }

    /// Adds what a judge wants to know of stable before a release.
    pub fn add_to(&self, history: &mut cutover_judge::History) {
        history.requests += self.claimed;
        // Counters are read while requests are under way.
        history.errors = (history.errors + self.status[4] + self.first_attempt_failed).min(history.requests);
        history.client_errors += self.status[3];
        for (low, high, requests) in self.latency.buckets() {
            history.latencies.add_many(low.midpoint(high), requests);
        }
    }

    /// Returns how many requests the client saw failing, for any reason.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_its_bucket() {
        for us in (0..100_000).chain([1 << 20, (1 << 31) + 12345, u32::MAX.into()]) {
            let (low, high) = bounds(bucket_of(us));
            assert!(low <= us && us < high, "{us} not in {low}..{high}");
            assert!(us < 8 || (high - low) as f64 / low as f64 <= 0.126);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_arm_of_a_newer_proxy_is_read() {
        assert_eq!(serde_json::from_str::<Arm>("\"bridged\"").unwrap(), Arm::Bridged);
        assert_eq!(serde_json::from_str::<Arm>("\"dreamt\"").unwrap(), Arm::Other);
    }

    #[test]
    fn quantiles_are_close_and_survive_json() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|us| histogram.record(us));
        assert_eq!(histogram.count(), 10_000);
        let p95 = histogram.quantile_us(0.95) as f64;
        assert!((p95 / 9_500.0 - 1.0).abs() < 0.07, "{p95}");
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
    }
}
