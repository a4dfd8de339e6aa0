//! What a source is: something that is asked, and its answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use cutover_judge::Scraped;

use crate::words::span;

/// The wall clock of this machine, in milliseconds since 1970.
pub type Wall = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Something that can be asked for a number, or for counters.
#[async_trait]
pub trait Source: Send + Sync {
    /// Asks once. Whoever asks sets the deadline: dropping the answer is harmless.
    ///
    /// # Errors
    /// That it does not answer, has no data, or does not understand; see [`AskErrorKind`].
    async fn ask(&self) -> Result<Reading, AskError>;
}

/// What a source answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The number, the state, or the counters.
    pub found: Found,
    /// When its newest sample was taken, in milliseconds since 1970 on the source's clock; none where it does not say.
    pub sampled_at_ms: Option<u64>,
    /// How old that sample was when it was asked for; none where it does not say.
    pub lag_ms: Option<u64>,
    /// By how much the source's clock is ahead of this machine's; negative behind, none where it does not say.
    pub ahead_ms: Option<i64>,
}

/// A number, a state, or counters.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// One finite number.
    Value(f64),
    /// Something that is good or bad by itself, such as alarms.
    State {
        /// Whether it is good.
        good: bool,
        /// What it is, in words.
        said: String,
    },
    /// What was counted so far of both arms, stable's first, by series.
    Counters([BTreeMap<String, Scraped>; 2]),
}

impl Reading {
    /// Says how old it is: "sampled 12 s before", or nothing where that is not known.
    pub fn age(&self) -> String {
        let mut text = self.lag_ms.map(|lag| format!("sampled {} before", span(lag))).unwrap_or_default();
        // Less is no wrong clock, but the time that the answer took.
        if let Some(ahead) = self.ahead_ms.filter(|ahead| ahead.unsigned_abs() >= 30_000) {
            let word = if ahead > 0 { "ahead" } else { "behind" };
            let comma = if text.is_empty() { "" } else { ", " };
            text += &format!("{comma}its clock is {} {word}", span(ahead.unsigned_abs()));
        }
        text
    }
}

/// Why a source has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskErrorKind {
    /// It does not answer, or with what no such store says: nothing is known, of nobody.
    Down,
    /// It answers, and has no number: no traffic, no sample, an old one, NaN.
    NoData,
    /// It answers that this cannot be asked, or answers something else than one number: the release file is wrong.
    Wrong,
}

/// Why a source has no answer, in words that continue "cannot measure …: ".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskError {
    /// Whose fault it is.
    pub kind: AskErrorKind,
    /// What went wrong, where.
    pub what: String,
    /// What to do; empty where nothing helps.
    pub hint: String,
}

impl AskError {
    /// The store does not answer.
    pub fn down(what: impl Into<String>) -> AskError {
        AskError { kind: AskErrorKind::Down, what: what.into(), hint: String::new() }
    }

    /// There is no number.
    pub fn no_data(what: impl Into<String>) -> AskError {
        AskError { kind: AskErrorKind::NoData, what: what.into(), hint: String::new() }
    }

    /// The question is wrong.
    pub fn wrong(what: impl Into<String>, hint: impl Into<String>) -> AskError {
        AskError { kind: AskErrorKind::Wrong, what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for AskError {}

/// Samples may be ahead of the clock that they are compared with by so much: clocks are never quite equal.
const AHEAD_MS: u64 = 5_000;

/// Returns how old a sample is that was taken at `sampled_ms` by a clock that shows `now_ms`.
///
/// # Errors
/// There is no data where it is older than `max_age_ms`, or from the future: a clock was set, and which of all samples are
/// of now cannot be told.
pub fn lag(sampled_ms: u64, now_ms: u64, max_age_ms: u64) -> Result<u64, AskError> {
    if sampled_ms > now_ms.saturating_add(AHEAD_MS) {
        let ahead = span(sampled_ms - now_ms);
        return Err(AskError::no_data(format!(
            "its newest sample is {ahead} in the future: a clock is wrong"
        )));
    }
    let lag = now_ms.saturating_sub(sampled_ms);
    if lag > max_age_ms {
        let what =
            format!("its newest sample is {} old, at most {} are allowed", span(lag), span(max_age_ms));
        return Err(AskError::no_data(what));
    }
    Ok(lag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_is_old_or_from_the_future_is_no_data() {
        assert_eq!(lag(90_000, 100_000, 60_000), Ok(10_000));
        assert_eq!(lag(104_000, 100_000, 60_000), Ok(0));
        let old = lag(10_000, 100_000, 60_000).unwrap_err();
        assert_eq!(
            (old.kind, old.what.as_str()),
            (AskErrorKind::NoData, "its newest sample is 1m30s old, at most 1m are allowed",)
        );
        let future = lag(3_700_000, 100_000, 60_000).unwrap_err();
        assert_eq!(
            (future.kind, future.what.as_str()),
            (AskErrorKind::NoData, "its newest sample is 1h in the future: a clock is wrong",)
        );
    }

    #[test]
    fn a_reading_says_how_old_it_is_and_whose_clock_is_wrong() {
        let reading =
            |lag_ms, ahead_ms| Reading { found: Found::Value(1.0), sampled_at_ms: None, lag_ms, ahead_ms };
        assert_eq!(reading(Some(12_300), Some(200)).age(), "sampled 12s before");
        assert_eq!(
            reading(Some(400), Some(-90_000)).age(),
            "sampled 400ms before, its clock is 1m30s behind"
        );
        assert_eq!(reading(None, None).age(), "");
    }
}
