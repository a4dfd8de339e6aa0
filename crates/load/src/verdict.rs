//! From what a test showed to whether it is enough.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::report::{Report, Summary};
use crate::spec::{Pace, Side};

/// What the candidate must hold under load, over all scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requirements {
    /// The least share of requests that succeed, in basis points.
    pub success_bp: u16,
    /// The largest mean latency.
    pub mean: Option<Duration>,
    /// The largest median.
    pub p50: Option<Duration>,
    /// The largest 95th percentile.
    pub p95: Option<Duration>,
    /// The largest 99th percentile.
    pub p99: Option<Duration>,
    /// How many requests there must have been.
    pub requests: u64,
}

/// Is it enough?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Yes.
    Pass,
    /// No, and it is the candidate's own fault.
    Fail,
    /// The test could not be run as it was meant to be; this says nothing about the candidate, and is never a pass.
    Inconclusive,
}

/// Whether it is enough, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The worst of the reasons.
    pub judgement: Judgement,
    /// One for each requirement, in the order of the release file.
    pub reasons: Vec<Reason>,
}

/// One requirement, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What came of it.
    pub judgement: Judgement,
    /// What was seen, and what was asked for: "mean 2.4 ms, 2s allowed".
    pub text: String,
}

/// Returns the least number of requests of a test, where nothing else is said: a tenth of a request per client and second in a
/// closed loop; half of what is due at a constant rate.
pub fn least_requests(pace: &Pace, span: Duration) -> u64 {
    let least = match pace {
        Pace::Clients { count, .. } => *count as f64 * span.as_secs_f64() / 10.0,
        Pace::Rate { per_1000_s, .. } => *per_1000_s as f64 / 1000.0 * span.as_secs_f64() / 2.0,
    };
    (least.ceil() as u64).max(1)
}

impl Requirements {
    /// Says whether the candidate held them.
    pub fn verdict(&self, report: &Report) -> Verdict {
        let nothing = Summary::default();
        let seen = report.total(Side::Candidate).unwrap_or(&nothing);
        let starved = report.starved();
        // What a machine without time measures is no evidence against the candidate.
        let held = |holds: bool, text: String| match (holds, starved) {
            (true, _) => Reason { judgement: Judgement::Pass, text },
            (false, true) => Reason { judgement: Judgement::Inconclusive, text },
            (false, false) => Reason { judgement: Judgement::Fail, text },
        };
        let mut reasons = vec![self.success(seen)];
        let limits = [
            ("mean", self.mean, seen.mean_us),
            ("p50", self.p50, seen.p50_us),
            ("p95", self.p95, seen.p95_us),
            ("p99", self.p99, seen.p99_us),
        ];
        for (name, limit, us) in limits {
            let Some(limit) = limit else { continue };
            let text = format!("{name} {}, {} allowed", millis(us), millis(micros(limit)));
            reasons.push(held(seen.requests > 0 && us <= micros(limit), text));
        }
        let text = format!("{} requests, {} needed", seen.requests, self.requests);
        reasons.push(held(seen.requests >= self.requests.max(1), text));
        if starved {
            let text = format!(
                "{} of {} requests were not sent: this machine had no time for them",
                report.sent.missed, report.sent.due
            );
            reasons.push(Reason { judgement: Judgement::Inconclusive, text });
        }
        if let Some(compared) = &report.compared {
            reasons.push(compared.reason());
        }
        let any = |judgement| reasons.iter().any(|reason| reason.judgement == judgement);
        let judgement = match () {
            () if any(Judgement::Fail) => Judgement::Fail,
            () if any(Judgement::Inconclusive) => Judgement::Inconclusive,
            () => Judgement::Pass,
        };
        Verdict { judgement, reasons }
    }

    fn success(&self, seen: &Summary) -> Reason {
        let good = seen.requests - seen.failed.min(seen.requests);
        let holds = u128::from(good) * 10_000 >= u128::from(self.success_bp) * u128::from(seen.requests);
        let mut text = format!(
            "{good} of {} requests succeeded ({}), {} needed",
            seen.requests,
            percent(good, seen.requests),
            percent(u64::from(self.success_bp), 10_000)
        );
        if seen.failed > 0 {
            text = format!("{text}: {}, the first: {}", seen.failures, seen.first_failure);
        }
        let judgement = if holds { Judgement::Pass } else { Judgement::Fail };
        Reason { judgement, text }
    }
}

impl fmt::Display for Verdict {
    /// What speaks against a pass; where nothing does, everything that was held.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.judgement {
            Judgement::Pass => "pass",
            Judgement::Fail => "fail",
            Judgement::Inconclusive => "inconclusive",
        };
        let said = self.reasons.iter().filter(|reason| reason.judgement == self.judgement);
        let said: Vec<&str> = said.map(|reason| reason.text.as_str()).collect();
        write!(f, "{word}: {}", said.join("; "))
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// "0.4 ms", "12.0 ms", "2000 ms".
fn millis(us: u64) -> String {
    if us >= 1_000_000 {
        format!("{} ms", us / 1000)
    } else {
        format!("{}.{} ms", us / 1000, us % 1000 / 100)
    }
}

/// "99.5 %"; rounded down, so that 100 % means all.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = (u128::from(part) * 10_000).checked_div(u128::from(whole)).unwrap_or(0);
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Failures, Sent, Share};

    const ASKED: Requirements = Requirements {
        success_bp: 9500,
        mean: Some(Duration::from_secs(2)),
        p50: None,
        p95: Some(Duration::from_millis(500)),
        p99: None,
        requests: 60,
    };

    fn said(summary: Summary, sent: Sent) -> String {
        let share = Share { side: Side::Candidate, scenario: None, summary };
        let report = Report { took_ms: 1, sent, shares: vec![share], compared: None };
        ASKED.verdict(&report).to_string()
    }

    fn seen(requests: u64, failed: u64, ms: u64) -> Summary {
        Summary {
            requests,
            failed,
            failures: Failures { status: failed, ..Failures::default() },
            first_failure: if failed > 0 { "answered 503".into() } else { String::new() },
            mean_us: ms * 1000,
            p95_us: ms * 2000,
            ..Summary::default()
        }
    }

    #[test]
    fn every_requirement_is_held_or_named() {
        let open = Sent::default();
        assert_eq!(
            said(seen(100, 5, 250), open),
            "pass: 95 of 100 requests succeeded (95 %), 95 % needed: 5 answered with another status, the first: answered 503; \
             mean 250.0 ms, 2000 ms allowed; p95 500.0 ms, 500.0 ms allowed; 100 requests, 60 needed"
        );
        assert_eq!(
            said(seen(100, 6, 251), open),
            "fail: 94 of 100 requests succeeded (94 %), 95 % needed: 6 answered with another status, the first: answered 503; \
             p95 502.0 ms, 500.0 ms allowed"
        );
        assert_eq!(said(seen(59, 0, 1), open), "fail: 59 requests, 60 needed");
    }

    #[test]
    fn nothing_is_never_a_pass() {
        assert_eq!(
            said(seen(0, 0, 0), Sent::default()),
            "fail: mean 0.0 ms, 2000 ms allowed; p95 0.0 ms, 500.0 ms allowed; 0 requests, 60 needed"
        );
    }

    #[test]
    fn a_machine_without_time_blames_nobody_for_what_it_measured() {
        let sent = Sent { due: 1000, missed: 51 };
        assert_eq!(
            said(seen(949, 0, 300), sent),
            "inconclusive: p95 600.0 ms, 500.0 ms allowed; 51 of 1000 requests were not sent: this machine had no time for \
             them"
        );
        // What was answered wrongly was answered wrongly.
        assert!(said(seen(949, 100, 300), sent).starts_with("fail: 849 of 949"));
        assert!(said(seen(950, 0, 1), Sent { due: 1000, missed: 50 }).starts_with("pass"));
    }

    #[test]
    fn the_least_volume_is_the_articles() {
        let clients = |count| Pace::Clients { count, pause: None };
        let half_a_minute = Duration::from_secs(30);
        for (count, least) in [(10, 30), (20, 60), (5, 15)] {
            assert_eq!(least_requests(&clients(count), half_a_minute), least);
        }
        assert_eq!(least_requests(&clients(1), Duration::from_secs(1)), 1);
        let rate = Pace::Rate { per_1000_s: 200_000, open: 1 };
        assert_eq!(least_requests(&rate, half_a_minute), 3000);
    }
}
