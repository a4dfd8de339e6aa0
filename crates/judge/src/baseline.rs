//! What stable is known to be like, and what that says about the next requests.

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::outcome::{Arm, BUCKETS, Class, Counts};

/// Quantiles of stable's latency that are the edges of the buckets, in thousandths.
const EDGES: [u64; BUCKETS - 1] = [50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950, 980, 990, 995, 999];
/// Where the median, the 90th, 99th and 99.9th percentile stand among them.
pub(crate) const P50: usize = 5;
pub(crate) const P90: usize = 9;
pub(crate) const P99: usize = 12;
pub(crate) const P999: usize = 14;

/// History counts as this many requests at most: what is seen now must be able to outweigh it.
const HISTORY: u64 = 10_000;
/// Requests without an error that are assumed where there is no history.
const PRIOR: u64 = 100;
/// Latencies that must be known before anything is bet on latency.
const LATENCIES: u64 = 200;
/// The least rate that is assumed of anything; it bounds what a single request can win or lose to 14 nats.
const LEAST_PPB: u64 = 1_000;
/// One, in parts per billion.
pub(crate) const PPB: u64 = 1_000_000_000;

/// Requests to the stable revision from before the release. Leave it empty if there are none.
///
/// A wrong history costs time until a verdict; it never makes a wrong verdict more likely.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Requests.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those answered with a status of 400 to 499.
    pub client_errors: u64,
    /// What the others took.
    pub latencies: Histogram,
}

/// History, and what stable did in the closed epochs of this release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Baseline {
    history: History,
    requests: u64,
    errors: u64,
    client_errors: u64,
    /// History's, too; it holds none of its own any more.
    latencies: Histogram,
}

/// What an epoch takes stable to be like, in integers, so that it can be written down and read back without a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimates {
    /// Requests behind them.
    pub requests: u64,
    /// Failures, in parts per billion of requests.
    pub errors_ppb: u64,
    /// Statuses of 400 to 499, in parts per billion.
    pub client_errors_ppb: u64,
    /// Latency, once it is known well enough to bet on.
    pub latency: Option<LatencyShape>,
}

/// Stable's latency as 16 buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyShape {
    /// The largest latency of each bucket but the last, in microseconds: stable's percentiles 5, 10, 20 … 90, 95, 98,
    /// 99, 99.5 and 99.9.
    pub edges_us: [u64; BUCKETS - 1],
    /// The share of requests up to each edge, in parts per billion.
    pub up_to_ppb: [u64; BUCKETS - 1],
}

impl History {
    /// The same rates, as if from `most` requests.
    pub(crate) fn capped(mut self, most: u64) -> History {
        if self.requests > most {
            let scaled = |n: u64| (u128::from(n) * u128::from(most) / u128::from(self.requests)) as u64;
            (self.errors, self.client_errors) = (scaled(self.errors), scaled(self.client_errors));
            self.requests = most;
        }
        self.latencies = self.latencies.capped(most);
        self
    }
}

impl Baseline {
    pub(crate) fn new(mut history: History) -> Self {
        let latencies = std::mem::take(&mut history.latencies).capped(HISTORY);
        Baseline { history, requests: 0, errors: 0, client_errors: 0, latencies }
    }

    /// Learns from a closed epoch.
    pub(crate) fn learn(&mut self, counts: &Counts, latencies: &Histogram) {
        self.learn_block(counts.requests(Arm::Stable), counts.errors(Arm::Stable));
        self.client_errors = self.client_errors.saturating_add(counts.of(Arm::Stable, Class::CLIENT_ERROR));
        self.latencies.merge(latencies);
    }

    pub(crate) fn learn_block(&mut self, requests: u64, errors: u64) {
        self.requests = self.requests.saturating_add(requests);
        self.errors = self.errors.saturating_add(errors);
    }

    /// Requests behind the estimates, history included.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.saturating_add(self.history.requests.min(HISTORY))
    }

    pub(crate) fn estimates(&self) -> Estimates {
        Estimates {
            requests: self.requests(),
            errors_ppb: self.rate(self.history.errors, self.errors),
            client_errors_ppb: self.rate(self.history.client_errors, self.client_errors),
            latency: (self.latencies.total() >= LATENCIES).then(|| shape(&self.latencies)),
        }
    }

    /// All that is known of stable, as history for who comes next.
    pub(crate) fn known(&self) -> History {
        History {
            requests: self.history.requests.saturating_add(self.requests),
            errors: self.history.errors.saturating_add(self.errors),
            client_errors: self.history.client_errors.saturating_add(self.client_errors),
            latencies: self.latencies.clone(),
        }
    }

    /// The error rate of history alone: what a failure of everything is measured against.
    pub(crate) fn history_errors_ppb(&self) -> u64 {
        let now = Baseline { requests: 0, errors: 0, ..self.clone() };
        now.rate(self.history.errors, 0)
    }

    /// (past + seen + ½) / (requests + 1), or + 100 where nothing is known.
    fn rate(&self, past: u64, seen: u64) -> u64 {
        let known = self.history.requests.min(HISTORY);
        let scaled = match self.history.requests {
            0 => 0,
            requests => {
                u128::from(past.min(requests)) * u128::from(PPB) * u128::from(known) / u128::from(requests)
            }
        };
        let bad = scaled + (u128::from(seen) * 2 + 1) * u128::from(PPB / 2);
        let requests =
            u128::from(known) + u128::from(self.requests) + u128::from(PRIOR.saturating_sub(known).max(1));
        ((bad / requests) as u64).clamp(LEAST_PPB, PPB - LEAST_PPB)
    }
}

impl LatencyShape {
    /// The bucket of a latency.
    #[inline]
    pub(crate) fn class(&self, latency_us: u64) -> Class {
        Class(self.edges_us.partition_point(|edge| latency_us > *edge) as u8)
    }

    /// The share of requests that are slower than an edge.
    pub(crate) fn beyond(&self, edge: usize) -> f64 {
        fraction(PPB - self.up_to_ppb[edge])
    }
}

pub(crate) fn fraction(ppb: u64) -> f64 {
    ppb as f64 / PPB as f64
}

impl Estimates {
    /// Whether a judge can have made them: rates are neither none nor all, and edges ascend.
    pub(crate) fn check(&self) -> Result<(), String> {
        let rate = |ppb: &u64| (LEAST_PPB..=PPB - LEAST_PPB).contains(ppb);
        if !rate(&self.errors_ppb) || !rate(&self.client_errors_ppb) {
            return Err("an error rate of stable is no rate".into());
        }
        let Some(LatencyShape { edges_us, up_to_ppb }) = &self.latency else { return Ok(()) };
        let ascend = edges_us.is_sorted() && up_to_ppb.is_sorted_by(|a, b| a < b);
        if !ascend || up_to_ppb[0] == 0 || up_to_ppb[P999] >= PPB {
            return Err("the latency buckets of stable do not ascend".into());
        }
        Ok(())
    }
}

/// Half a request is added to every bucket, for one that was empty so far may not stay so.
fn shape(latencies: &Histogram) -> LatencyShape {
    let quantiles = latencies.quantiles(EDGES);
    let all = (u128::from(latencies.total()) * 2 + BUCKETS as u128).max(1);
    let mut up_to_ppb = [0; BUCKETS - 1];
    for (edge, (_, below)) in quantiles.iter().enumerate() {
        let halves = u128::from(*below) * 2 + edge as u128 + 1;
        up_to_ppb[edge] = (halves * u128::from(PPB) / all) as u64;
    }
    LatencyShape { edges_us: quantiles.map(|(edge, _)| edge), up_to_ppb }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_counts_as_ten_thousand_requests_at_most() {
        let history = History { requests: 1_000_000, errors: 1_000, ..History::default() };
        let mut baseline = Baseline::new(history);
        assert_eq!(baseline.requests(), 10_000);
        assert_eq!(baseline.estimates().errors_ppb, 10_500_000_000 / 10_001);
        baseline.learn_block(10_000, 500);
        assert!((25_400_000..25_600_000).contains(&baseline.estimates().errors_ppb));
    }

    #[test]
    fn nothing_known_is_half_an_error_in_a_hundred_requests() {
        let mut baseline = Baseline::new(History::default());
        assert_eq!(baseline.estimates().errors_ppb, 5_000_000);
        assert_eq!(baseline.estimates().latency, None);
        baseline.learn_block(0, 0);
        baseline.learn_block(900, 0);
        assert_eq!(baseline.estimates().errors_ppb, 500_000);
    }

    #[test]
    fn nonsense_is_no_rate_above_one() {
        let history = History { requests: 10, errors: 4_000, client_errors: u64::MAX, ..History::default() };
        let estimates = Baseline::new(history).estimates();
        assert!(estimates.errors_ppb < PPB && estimates.client_errors_ppb < PPB);
    }

    #[test]
    fn all_requests_taking_the_same_time_is_no_trouble() {
        let mut latencies = Histogram::default();
        (0..500).for_each(|_| latencies.add(1_000));
        let shape = Baseline::new(History { latencies, ..History::default() }).estimates().latency.unwrap();
        assert_eq!((shape.class(1_000), shape.class(5_000)), (Class(0), Class::SLOWEST));
        assert!(shape.up_to_ppb.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(shape.beyond(P999) > 0.0);
    }
}
