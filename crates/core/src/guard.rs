//! Guards: plain thresholds over a track's requests, with the evidence. The judge stands beside them (crates/judge).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::file::Guard;

/// What a track's requests came to since the last shift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests whose outcome is known.
    pub requests: u64,
    /// Of these, answered with a server error (5xx), cut, or not at all.
    pub failed: u64,
    /// Sum of the times to answer, in microseconds.
    pub latency_us_sum: u64,
    /// The time to answer that 95 % of requests stay below, in microseconds.
    pub latency_us_p95: u64,
}

impl Counts {
    /// Returns the mean time to answer in microseconds, zero without requests.
    pub fn latency_us_mean(&self) -> u64 {
        self.latency_us_sum.checked_div(self.requests).unwrap_or(0)
    }
}

/// Pass, fail or inconclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Enough requests, and all thresholds held.
    Pass,
    /// A threshold is broken.
    Fail,
    /// Too few requests to say.
    Inconclusive,
}

/// A judgement with its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The judgement.
    pub judgement: Judgement,
    /// What it rests on, in words.
    pub why: String,
    /// The candidate's requests.
    pub counts: Counts,
    /// The last closed epoch of the judge, after which this can be computed again; none where thresholds decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.judgement {
            Judgement::Pass => "pass",
            Judgement::Fail => "fail",
            Judgement::Inconclusive => "inconclusive",
        };
        write!(f, "{word}: {}", self.why)
    }
}

/// Returns what `counts` say about `guard`. No data is never a pass.
pub fn judge(guard: &Guard, counts: Counts) -> Verdict {
    let Counts { requests, failed, .. } = counts;
    let verdict = |judgement, why: String| Verdict { judgement, why, counts, epoch: None };
    if requests < guard.min_requests {
        let why = format!("{requests} requests, {} needed to say anything", guard.min_requests);
        return verdict(Judgement::Inconclusive, why);
    }
    let least = u128::from(guard.success.bp());
    if u128::from(requests - failed.min(requests)) * 10_000 < least * u128::from(requests) {
        let why = format!(
            "{failed} of {requests} requests failed ({}), the guard wants {} to succeed",
            percent(failed, requests),
            guard.success
        );
        return verdict(Judgement::Fail, why);
    }
    let limits = [("mean", guard.mean, counts.latency_us_mean()), ("p95", guard.p95, counts.latency_us_p95)];
    for (name, limit, seen) in limits {
        if let Some(limit) = limit.filter(|limit| seen > limit.ms().saturating_mul(1000)) {
            let why = format!("{name} {} over {requests} requests, the guard allows {limit}", millis(seen));
            return verdict(Judgement::Fail, why);
        }
    }
    let why = format!(
        "{} of {requests} requests succeeded, mean {}, p95 {}",
        requests - failed.min(requests),
        millis(counts.latency_us_mean()),
        millis(counts.latency_us_p95)
    );
    verdict(Judgement::Pass, why)
}

fn percent(part: u64, whole: u64) -> String {
    let tenths = (u128::from(part) * 1000).checked_div(u128::from(whole)).unwrap_or(0);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn millis(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Span, Weight};

    fn said(guard: &Guard, requests: u64, failed: u64, mean_ms: u64) -> String {
        let counts = Counts {
            requests,
            failed,
            latency_us_sum: requests * mean_ms * 1000,
            latency_us_p95: mean_ms * 2000,
        };
        judge(guard, counts).to_string()
    }

    #[test]
    fn no_data_is_never_a_pass() {
        let guard = Guard::default();
        assert_eq!(said(&guard, 0, 0, 0), "inconclusive: 0 requests, 20 needed to say anything");
        assert_eq!(said(&guard, 19, 19, 0), "inconclusive: 19 requests, 20 needed to say anything");
    }

    #[test]
    fn the_threshold_is_exact() {
        let guard = Guard { success: Weight::from_bp(9900), ..Guard::default() };
        assert!(said(&guard, 100, 1, 3).starts_with("pass: 99 of 100"));
        assert_eq!(
            said(&guard, 100, 2, 3),
            "fail: 2 of 100 requests failed (2.0 %), the guard wants 99% to succeed"
        );
    }

    #[test]
    fn slow_is_worse_too() {
        let guard =
            Guard { mean: Some(Span::from_ms(50)), p95: Some(Span::from_ms(500)), ..Guard::default() };
        assert!(said(&guard, 100, 0, 50).starts_with("pass"));
        assert_eq!(said(&guard, 100, 0, 51), "fail: mean 51.0 ms over 100 requests, the guard allows 50ms");
        let guard = Guard { mean: None, ..guard };
        assert_eq!(said(&guard, 100, 0, 251), "fail: p95 502.0 ms over 100 requests, the guard allows 500ms");
    }
}
