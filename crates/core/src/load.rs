//! What load tests came to: evidence in the journal, and where one is while it runs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::Track;

/// What one load test came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadResult {
    /// What was done: `GET /api/products, 20 clients for 30s`.
    pub test: String,
    /// What is said of it.
    pub outcome: LoadOutcome,
    /// Each requirement with what was seen, in the order of the release file.
    pub reasons: Vec<LoadReason>,
    /// From the first request until the last answer, in milliseconds.
    pub took_ms: u64,
    /// Requests that had their time at a constant rate, to each side; 0 for clients, which have none.
    pub due: u64,
    /// Of these, not sent because this machine had no time for them.
    pub missed: u64,
    /// What came of the requests: of all to the candidate, then of each scenario; then the same of stable.
    pub shares: Vec<LoadShare>,
}

/// What is said of a load test, or of one requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadOutcome {
    /// The candidate held what was asked of it.
    Passed,
    /// It did not.
    Failed,
    /// The test could not be run as it was meant to be, which says nothing about the candidate.
    Inconclusive,
}

/// One requirement of a load test, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReason {
    /// What came of it.
    pub outcome: LoadOutcome,
    /// What was seen, and what was asked for.
    pub text: String,
}

/// What came of the requests of one scenario to one side. Latency is from when a request was due until its answer was whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadShare {
    /// To whom.
    pub track: Track,
    /// The scenario; none for all of them together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// Requests, failed ones among them.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// How, in words; empty where none did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failures: String,
    /// The mean latency, in microseconds.
    pub latency_us_mean: u64,
    /// The median.
    pub latency_us_p50: u64,
    /// 95 of 100 requests took no longer.
    pub latency_us_p95: u64,
    /// 99 of 100 requests took no longer.
    pub latency_us_p99: u64,
    /// The longest.
    pub latency_us_max: u64,
    /// All latencies in microseconds, as HdrHistogram writes them (V2, base64).
    pub histogram: String,
}

/// Where a load test is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadProgress {
    /// How long it has run, in milliseconds.
    pub passed_ms: u64,
    /// For how long it sends requests.
    pub span_ms: u64,
    /// Answers of the candidate, and requests given up, so far.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// The median latency so far, in microseconds.
    pub latency_us_p50: u64,
    /// The 99th percentile so far.
    pub latency_us_p99: u64,
}

impl LoadResult {
    /// Returns what came of all requests to the candidate.
    pub fn candidate(&self) -> Option<&LoadShare> {
        self.shares.iter().find(|share| share.track == Track::Candidate && share.scenario.is_none())
    }

    /// Returns the result in a line for people. A test that was held says its numbers, another one says why.
    pub fn line(&self) -> String {
        let word = match self.outcome {
            LoadOutcome::Passed => "passed",
            LoadOutcome::Failed => "failed",
            LoadOutcome::Inconclusive => "inconclusive",
        };
        let numbers = self.candidate().map(ToString::to_string).unwrap_or_default();
        let why = match self.outcome {
            LoadOutcome::Passed => numbers,
            _ => self.why(),
        };
        format!("{} {word}: {why}", self.test)
    }

    /// Returns the requirements that decided.
    pub fn why(&self) -> String {
        let decided = self.reasons.iter().filter(|reason| reason.outcome == self.outcome);
        decided.map(|reason| reason.text.as_str()).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for LoadShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadShare { requests, failed, .. } = self;
        let [mean, p50, p95, p99] =
            [self.latency_us_mean, self.latency_us_p50, self.latency_us_p95, self.latency_us_p99].map(millis);
        write!(f, "{requests} requests, {failed} failed, mean {mean}, p50 {p50}, p95 {p95}, p99 {p99}")
    }
}

impl fmt::Display for LoadProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LoadProgress { passed_ms, span_ms, requests, failed, .. } = self;
        let (passed, span) = (passed_ms.min(span_ms) / 1000, span_ms.div_ceil(1000));
        let [p50, p99] = [self.latency_us_p50, self.latency_us_p99].map(millis);
        write!(f, "{passed} of {span} s, {requests} requests, {failed} failed, p50 {p50}, p99 {p99}")
    }
}

/// Prints microseconds for people: `0.4 ms`, `1500 ms`.
fn millis(us: u64) -> String {
    if us >= 1_000_000 {
        format!("{} ms", us / 1000)
    } else {
        format!("{}.{} ms", us / 1000, us % 1000 / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(outcome: LoadOutcome) -> LoadResult {
        LoadResult {
            test: "GET /, 2 clients for 1s".into(),
            outcome,
            reasons: vec![
                LoadReason { outcome: LoadOutcome::Passed, text: "20 requests, 1 needed".into() },
                LoadReason { outcome, text: "p99 1500 ms, 900.0 ms allowed".into() },
            ],
            took_ms: 1010,
            due: 0,
            missed: 0,
            shares: vec![LoadShare {
                track: Track::Candidate,
                scenario: None,
                requests: 20,
                failed: 0,
                failures: String::new(),
                latency_us_mean: 40_100,
                latency_us_p50: 400,
                latency_us_p95: 2_000,
                latency_us_p99: 1_500_000,
                latency_us_max: 1_500_000,
                histogram: String::new(),
            }],
        }
    }

    #[test]
    fn a_line_says_the_numbers_or_why() {
        assert_eq!(
            result(LoadOutcome::Passed).line(),
            "GET /, 2 clients for 1s passed: 20 requests, 0 failed, mean 40.1 ms, p50 0.4 ms, p95 2.0 ms, p99 1500 ms"
        );
        assert_eq!(
            result(LoadOutcome::Failed).line(),
            "GET /, 2 clients for 1s failed: p99 1500 ms, 900.0 ms allowed"
        );
    }

    #[test]
    fn progress_is_one_line() {
        let progress =
            LoadProgress { passed_ms: 12_400, span_ms: 30_000, requests: 2480, ..LoadProgress::default() };
        assert_eq!(progress.to_string(), "12 of 30 s, 2480 requests, 0 failed, p50 0.0 ms, p99 0.0 ms");
    }
}
