//! What is said of a candidate, in numbers and in words.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::baseline::fraction;
use crate::experts::LIST;
use crate::guard::SharedFailure;
use crate::ledger::{Ledger, Scraped};
use crate::math::{Nats, exp, from_nats, nats};
use crate::outcome::{Arm, Counts};
use crate::terms::Terms;

/// May the release go on?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes: it is proven that the candidate is not worse than stable by the margin or more.
    Pass(Passed),
    /// No: it is proven that the candidate is worse.
    Fail(Box<Failure>),
    /// Neither is proven. This is never a pass.
    Inconclusive(Inconclusive),
}

/// Proof that the candidate may have more traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passed {
    /// The margin that was asked for, in parts per billion of requests.
    pub margin_ppb: u64,
    /// Whether latency was asked for, too.
    pub latency: bool,
    /// What was seen.
    pub seen: Seen,
}

/// Proof that the candidate is worse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What it does: "about 2.0 percentage points more errors than stable".
    pub suspicion: String,
    /// The logarithm of the odds against a candidate that is as good as stable, in units of 2⁻³² nats.
    pub wealth: Nats,
    /// The odds that were needed: 100 for an error of 1 %.
    pub needed: u64,
    /// The epoch in which it was proven.
    pub epoch: u32,
    /// What stable's error rate was taken to be, in parts per billion.
    pub errors_ppb: u64,
    /// What was seen.
    pub seen: Seen,
}

/// Requests of both arms over the whole release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Stable's.
    pub stable: Scraped,
    /// The candidate's.
    pub candidate: Scraped,
}

/// Why there is no verdict, and what it would take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inconclusive {
    /// Why.
    pub cause: Cause,
    /// The smallest margin of errors that is proven so far, in parts per billion.
    pub proven_ppb: Option<u64>,
    /// What it takes if the candidate is as good as stable. None if more requests would not help.
    pub needs: Option<Needs>,
    /// What was seen.
    pub seen: Seen,
}

/// Why there is no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Too few requests so far.
    Evidence,
    /// The candidate has had no request at all.
    NoTraffic,
    /// The candidate warms up, or the shortest time of a step has not passed.
    TooSoon,
    /// Stable fails as well: take the candidate's traffic away, find out what they share, do not blame the release.
    Shared(SharedFailure),
    /// The requests were not split as they were meant to be, by arm: stable's, the candidate's.
    WrongSplit([u64; 2]),
    /// Latency is asked for, and stable's is not known well enough.
    LatencyUnknown,
}

/// What a proof takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// Requests to the candidate, beyond those it had.
    pub candidate_requests: u64,
    /// Seconds that they take at the current rate; none without traffic.
    pub seconds: Option<u64>,
}

impl Failure {
    pub(crate) fn new(expert: usize, wealth: f64, terms: &Terms, ledger: &Ledger, alpha: f64) -> Self {
        Failure {
            suspicion: LIST[expert].to_string(),
            wealth: nats(wealth),
            needed: (1.0 / alpha + 0.5) as u64,
            errors_ppb: terms.estimates.errors_ppb,
            epoch: terms.epoch,
            seen: Seen::of(ledger),
        }
    }
}

impl Seen {
    pub(crate) fn of(ledger: &Ledger) -> Seen {
        let mut seen = Seen { stable: Scraped::default(), candidate: Scraped::default() };
        seen.add(&ledger.totals);
        seen
    }

    pub(crate) fn add(&mut self, counts: &Counts) {
        for (arm, scraped) in [(Arm::Stable, &mut self.stable), (Arm::Candidate, &mut self.candidate)] {
            scraped.requests = scraped.requests.saturating_add(counts.requests(arm));
            scraped.errors = scraped.errors.saturating_add(counts.errors(arm));
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { stable, candidate } = self;
        write!(
            f,
            "{} of {} requests failed at the candidate, {} of {} at stable",
            candidate.errors, candidate.requests, stable.errors, stable.requests
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Pass(passed) => passed.fmt(f),
            Verdict::Fail(failure) => failure.fmt(f),
            Verdict::Inconclusive(inconclusive) => inconclusive.fmt(f),
        }
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let also = if self.latency { ", nor slower" } else { "" };
        write!(
            f,
            "pass: the candidate does not fail {} more often than stable{also}; {}",
            points(self.margin_ppb),
            self.seen
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // e¹⁶ is more than anybody reads.
        let odds = exp(from_nats(self.wealth).min(16.0));
        write!(
            f,
            "fail: the candidate is worse, as with {}; {}; were it as good as stable, so much evidence against it would \
             have a chance of 1 in {:.0} at most ({} are enough)",
            self.suspicion, self.seen, odds, self.needed
        )
    }
}

impl fmt::Display for Inconclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inconclusive: {}", self.cause)?;
        if let Some(proven) = self.proven_ppb {
            write!(f, "; proven so far: it does not fail {} more often", points(proven))?;
        }
        match self.needs {
            Some(Needs { candidate_requests, seconds: Some(seconds) }) => {
                write!(
                    f,
                    "; about {candidate_requests} more requests to the candidate are needed, {} at this rate",
                    time(seconds)
                )?;
            }
            Some(Needs { candidate_requests, seconds: None }) => {
                write!(
                    f,
                    "; about {candidate_requests} more requests to the candidate are needed, and none are coming"
                )?;
            }
            None => {}
        }
        write!(f, "; {}", self.seen)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Evidence => write!(f, "neither better nor worse is proven yet"),
            Cause::NoTraffic => write!(f, "the candidate has had no request yet"),
            Cause::TooSoon => write!(f, "the shortest time at this weight has not passed"),
            Cause::Shared(shared) => write!(
                f,
                "stable fails as well ({} of its last {} requests, {} before the release): look for what both depend on; \
                 the release is not to blame",
                shared.stable.errors,
                shared.stable.requests,
                percent(shared.before_ppb)
            ),
            Cause::WrongSplit([stable, candidate]) => write!(
                f,
                "the traffic was not split as it was meant to be (the candidate was given {candidate} of {} requests), so \
                 nothing can be compared: look for what reroutes requests",
                stable.saturating_add(*candidate)
            ),
            Cause::LatencyUnknown => write!(f, "stable's latency is not known well enough to compare with"),
        }
    }
}

/// "2.5 percentage points".
pub(crate) fn points(ppb: u64) -> String {
    format!("{} percentage points", trimmed(fraction(ppb) * 100.0))
}

fn percent(ppb: u64) -> String {
    format!("{} %", trimmed(fraction(ppb) * 100.0))
}

fn trimmed(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// "50 s", "12 min", "3 h 5 min".
pub(crate) fn time(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
