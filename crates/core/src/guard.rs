//! Guards: plain thresholds over a track's requests, with the evidence. The judge stands beside them (crates/judge).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::file::Guard;
use crate::text::count;
use crate::units::Span;

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

/// How far the judge is with a candidate, while it waits for a proof that it is not worse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeProgress {
    /// Stable's requests since the candidate took its first, those that failed among them.
    pub stable_requests: u64,
    /// Those that failed.
    pub stable_failed: u64,
    /// The candidate's requests.
    pub candidate_requests: u64,
    /// Those that failed.
    pub candidate_failed: u64,
    /// How many more the candidate needs for a proof, if it is as good as stable; none where more do not help.
    pub more_requests: Option<u64>,
    /// How many seconds these take at the current rate; none where that is not known.
    pub seconds: Option<u64>,
    /// Why there is no proof yet, in words.
    pub why: String,
}

impl JudgeProgress {
    /// Returns the share of the requests of a proof that the candidate has had, in percent from 0 to 100.
    pub fn toward_proof(&self) -> Option<u64> {
        let whole = self.candidate_requests.saturating_add(self.more_requests?);
        let share = u128::from(self.candidate_requests) * 100;
        share.checked_div(u128::from(whole)).and_then(|percent| u64::try_from(percent).ok())
    }
}

impl fmt::Display for JudgeProgress {
    /// Writes `candidate 120 requests 0 failed, stable 1,080 requests 1 failed: 40 % of a proof, about 180 more requests in 15s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side =
            |requests: u64, failed: u64| format!("{} requests {} failed", count(requests), count(failed));
        write!(
            f,
            "candidate {}, stable {}: ",
            side(self.candidate_requests, self.candidate_failed),
            side(self.stable_requests, self.stable_failed)
        )?;
        let Some((percent, more)) = self.toward_proof().zip(self.more_requests) else {
            return f.write_str(&self.why);
        };
        write!(f, "{percent} % of a proof, about {} more requests", count(more))?;
        match self.seconds {
            Some(seconds) => write!(f, " in {}", Span::from_secs(seconds)),
            None => Ok(()),
        }
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
    use crate::units::Weight;

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
    fn a_proof_on_its_way_says_how_far_it_is() {
        let mut progress = JudgeProgress {
            stable_requests: 1080,
            stable_failed: 1,
            candidate_requests: 120,
            candidate_failed: 0,
            more_requests: Some(180),
            seconds: Some(75),
            why: "too few requests so far".into(),
        };
        let seen = "candidate 120 requests 0 failed, stable 1,080 requests 1 failed: ";
        assert_eq!(progress.to_string(), format!("{seen}40 % of a proof, about 180 more requests in 1m15s"));
        progress.seconds = None;
        assert_eq!(progress.to_string(), format!("{seen}40 % of a proof, about 180 more requests"));
        progress.more_requests = None;
        assert_eq!(progress.to_string(), format!("{seen}too few requests so far"));
        let none = JudgeProgress { candidate_requests: 0, more_requests: Some(0), ..progress };
        assert_eq!(none.toward_proof(), None);
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
