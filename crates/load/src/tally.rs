//! What came of requests, counted.

use std::time::Duration;

use crate::exchange::{Answer, Miss};
use crate::histogram::Latencies;
use crate::report::{Failures, Summary};

/// What came of the requests of one scenario to one side.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) failures: Failures,
    latencies: Latencies,
    /// The first failure, in words.
    first: Option<String>,
}

impl Tally {
    pub(crate) fn new(timeout: Duration) -> Tally {
        // From the time it was due a request takes its timeout and a little at most.
        Tally {
            requests: 0,
            failures: Failures::default(),
            latencies: Latencies::new(timeout * 2),
            first: None,
        }
    }

    /// Counts a request and the time from when it was due until its answer was whole, or until it was given up.
    pub(crate) fn add(&mut self, answer: &Answer, latency: Duration) {
        self.requests += 1;
        let Failures { status, refused, broken, timeout, unsent } = &mut self.failures;
        match answer {
            Answer::Ok => {}
            Answer::Status(_) => *status += 1,
            Answer::Miss(Miss::Refused(_)) => *refused += 1,
            Answer::Miss(Miss::Broken(_)) => *broken += 1,
            Answer::Miss(Miss::Timeout) => *timeout += 1,
            Answer::Miss(Miss::Unsent) => *unsent += 1,
        }
        // A connection that is refused at once is no quick answer. One that is late is at least as slow as it is late.
        match answer {
            Answer::Miss(Miss::Refused(_) | Miss::Broken(_)) => {}
            _ => self.latencies.add(latency),
        }
        if self.first.is_none() && !matches!(answer, Answer::Ok) {
            self.first = Some(answer.to_string());
        }
    }

    pub(crate) fn merge(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.failures.add(&other.failures);
        self.latencies.merge(&other.latencies);
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }

    /// Returns the median and the 99th percentile.
    pub(crate) fn middle_and_tail_us(&self) -> (u64, u64) {
        (self.latencies.quantile_us(0.5), self.latencies.quantile_us(0.99))
    }

    pub(crate) fn summary(&self) -> Summary {
        let quantile = |quantile| self.latencies.quantile_us(quantile);
        Summary {
            requests: self.requests,
            failed: self.failures.all(),
            failures: self.failures,
            first_failure: self.first.clone().unwrap_or_default(),
            mean_us: self.latencies.mean_us(),
            p50_us: quantile(0.5),
            p95_us: quantile(0.95),
            p99_us: quantile(0.99),
            max_us: self.latencies.max_us(),
            histogram: self.latencies.text(),
        }
    }
}
