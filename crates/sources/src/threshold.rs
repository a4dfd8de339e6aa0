//! Numbers against limits: what the measurements of one bake come to.
//!
//! Pure: readings and milliseconds of any clock that only goes forward come in. The words are Argo Rollouts' where the rules
//! are; three are not. An answer that does not come is nobody's failure, however often. Without data nothing is concluded.
//! And the same sample is not counted twice: asking more often than a store samples proves nothing more.

use cutover_core::file::{Condition, Metric};
use serde::{Deserialize, Serialize};

use crate::source::{AskError, AskErrorKind, Found, Reading};
use crate::words::number;

/// A store that did not answer is asked again after this, or sooner if that is the interval.
const AGAIN_MS: u64 = 10_000;

/// What is asked of a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// From the beginning of the bake to the first measurement.
    pub initial_delay_ms: u64,
    /// From one measurement to the next.
    pub interval_ms: u64,
    /// After so many numbers it is complete, and with fewer inconclusive; none: one is enough, and it goes on.
    pub count: Option<u32>,
    /// More failed ones fail it.
    pub failure_limit: u32,
    /// More inconclusive ones make it inconclusive.
    pub inconclusive_limit: Option<u32>,
    /// More without an answer in a row are an outage worth telling.
    pub consecutive_error_limit: u32,
    /// The least and the largest number that succeed.
    pub range: (Option<f64>, Option<f64>),
    /// What holds for numbers that succeed.
    pub success: Option<Condition>,
    /// What holds for numbers that fail.
    pub failure: Option<Condition>,
}

impl Rules {
    /// Takes the rules of a release file's metric.
    pub fn of(metric: &Metric) -> Rules {
        Rules {
            initial_delay_ms: metric.first_after().ms(),
            interval_ms: metric.interval.ms(),
            count: metric.count,
            failure_limit: metric.failure_limit,
            inconclusive_limit: metric.inconclusive_limit,
            consecutive_error_limit: metric.consecutive_error_limit,
            range: (metric.min, metric.max),
            success: metric.success_condition.clone(),
            failure: metric.failure_condition.clone(),
        }
    }

    fn judge(&self, value: f64) -> (Phase, String) {
        let said = number(value);
        let (min, max) = self.range;
        if let Some(min) = min.filter(|min| value < *min) {
            return (Phase::Failed, format!("{said} is less than {}", number(min)));
        }
        if let Some(max) = max.filter(|max| value > *max) {
            return (Phase::Failed, format!("{said} is more than {}", number(max)));
        }
        let success = self.success.as_ref().map(|condition| (condition, condition.holds(value)));
        let failure = self.failure.as_ref().map(|condition| (condition, condition.holds(value)));
        match (success, failure) {
            (_, Some((condition, true))) => (Phase::Failed, format!("{said}: {condition}")),
            (Some((condition, false)), None) => (Phase::Failed, format!("{said}, not {condition}")),
            (Some((_, false)), Some((_, false))) => {
                (Phase::Inconclusive, format!("{said} neither succeeds nor fails"))
            }
            _ => (Phase::Succeeded, said),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Succeeded,
    Failed,
    Inconclusive,
    Error,
}

/// The measurements of one bake.
#[derive(Clone, Debug)]
pub struct Analysis {
    rules: Rules,
    next_ms: u64,
    tally: Measured,
}

/// What was measured in a bake so far, to be written down and gone on with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    succeeded: u32,
    failed: u32,
    inconclusive: u32,
    errors_in_a_row: u32,
    outage_told: bool,
    sampled_at_ms: Option<u64>,
    last: Option<(Phase, String)>,
    last_failure: String,
}

/// Where an analysis stands, in words with numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// More failures than are forgiven; final.
    Failed(String),
    /// The last question had no answer.
    Outage(String),
    /// Nothing is concluded: no data, or too little.
    Inconclusive(String),
    /// What was measured holds.
    Passed(String),
}

impl Analysis {
    /// Begins the measurements of a bake.
    pub fn new(rules: Rules, now_ms: u64) -> Analysis {
        Analysis { next_ms: now_ms.saturating_add(rules.initial_delay_ms), rules, tally: Measured::default() }
    }

    /// Goes on with the measurements of a bake that somebody else began. The next one is due an interval from now: when
    /// the last one was is not known.
    pub fn resume(rules: Rules, measured: Measured, now_ms: u64) -> Analysis {
        Analysis { next_ms: now_ms.saturating_add(rules.interval_ms), rules, tally: measured }
    }

    /// Returns what was measured so far.
    pub fn measured(&self) -> &Measured {
        &self.tally
    }

    /// Returns when the next measurement is due; none where all are made.
    pub fn next_ms(&self) -> Option<u64> {
        let complete =
            self.rules.count.is_some_and(|count| self.tally.succeeded + self.tally.failed >= count);
        (!complete && !self.has_failed()).then_some(self.next_ms)
    }

    /// Tells whether a verdict at the end of the bake needs one more measurement: there is none yet, or the last one
    /// concluded nothing.
    pub fn is_open(&self) -> bool {
        let concluded = matches!(self.tally.last, Some((Phase::Succeeded | Phase::Failed, _)));
        self.next_ms().is_some() && !concluded
    }

    /// Takes what was measured.
    pub fn record(&mut self, measured: &Result<Reading, AskError>, now_ms: u64) {
        let mut pause = self.rules.interval_ms;
        let (phase, said) = match measured {
            Ok(Reading { found: Found::Value(value), sampled_at_ms, .. }) => {
                self.tally.errors_in_a_row = 0;
                if sampled_at_ms.is_some() && *sampled_at_ms == self.tally.sampled_at_ms {
                    self.next_ms = now_ms.saturating_add(pause);
                    // The answer ends an outage, and the sample says again what it said.
                    if matches!(self.tally.last, Some((Phase::Error, _))) {
                        self.tally.last = Some(self.with_age(*value, measured));
                    }
                    return;
                }
                self.tally.sampled_at_ms = *sampled_at_ms;
                self.with_age(*value, measured)
            }
            Ok(Reading { found: Found::State { good, said }, .. }) => {
                (if *good { Phase::Succeeded } else { Phase::Failed }, said.clone())
            }
            Ok(_) => (Phase::Error, "counters instead of a number".into()),
            Err(error) if error.kind == AskErrorKind::NoData => (Phase::Inconclusive, error.what.clone()),
            Err(error) => (Phase::Error, error.what.clone()),
        };
        match phase {
            Phase::Succeeded => self.tally.succeeded += 1,
            Phase::Failed => {
                self.tally.failed += 1;
                self.tally.last_failure.clone_from(&said);
            }
            Phase::Inconclusive => self.tally.inconclusive += 1,
            Phase::Error => {
                self.tally.errors_in_a_row += 1;
                pause = pause.min(AGAIN_MS);
            }
        }
        if phase != Phase::Error {
            self.tally.errors_in_a_row = 0;
            self.tally.outage_told = false;
        }
        self.tally.last = Some((phase, said));
        // From now on, not from when it was due: what a sleeping machine missed is not made up for.
        self.next_ms = now_ms.saturating_add(pause);
    }

    fn with_age(&self, value: f64, measured: &Result<Reading, AskError>) -> (Phase, String) {
        let age = measured.as_ref().map(Reading::age).unwrap_or_default();
        let (phase, said) = self.rules.judge(value);
        (phase, if age.is_empty() { said } else { format!("{said} ({age})") })
    }

    /// Tells once that the store has not answered more often in a row than is let pass.
    pub fn outage(&mut self) -> Option<String> {
        let told = self.tally.errors_in_a_row > self.rules.consecutive_error_limit && !self.tally.outage_told;
        told.then(|| {
            self.tally.outage_told = true;
            format!("{} ({} times in a row)", self.last_said(), self.tally.errors_in_a_row)
        })
    }

    fn has_failed(&self) -> bool {
        self.tally.failed > self.rules.failure_limit
    }

    fn last_said(&self) -> &str {
        self.tally.last.as_ref().map_or("", |(_, said)| said)
    }

    /// Returns where it stands; at the end of a bake this is its verdict.
    pub fn standing(&self) -> Standing {
        let conclusive = self.tally.succeeded + self.tally.failed;
        if self.has_failed() {
            let forgiven = match self.rules.failure_limit {
                0 => String::new(),
                limit => format!(", {limit} forgiven"),
            };
            return Standing::Failed(format!(
                "{}; {} of {conclusive} measurements failed{forgiven}",
                self.tally.last_failure, self.tally.failed
            ));
        }
        let last = self.last_said();
        if matches!(self.tally.last, Some((Phase::Error, _))) {
            return Standing::Outage(last.to_string());
        }
        let wanted = self.rules.count.unwrap_or(1);
        if conclusive < wanted {
            let why = if last.is_empty() { "nothing was measured" } else { last };
            return Standing::Inconclusive(format!("{why}; {conclusive} measurements, {wanted} needed"));
        }
        if let Some(limit) = self.rules.inconclusive_limit.filter(|limit| self.tally.inconclusive > *limit) {
            return Standing::Inconclusive(format!(
                "{last}; {} measurements without a conclusion, {limit} forgiven",
                self.tally.inconclusive
            ));
        }
        if matches!(self.tally.last, Some((Phase::Inconclusive, _))) {
            return Standing::Inconclusive(last.to_string());
        }
        Standing::Passed(format!("{last}; {} of {conclusive} measurements succeeded", self.tally.succeeded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            initial_delay_ms: 30_000,
            interval_ms: 30_000,
            count: None,
            failure_limit: 0,
            inconclusive_limit: None,
            consecutive_error_limit: 4,
            range: (None, Some(0.01)),
            success: None,
            failure: None,
        }
    }

    fn value(value: f64) -> Result<Reading, AskError> {
        Ok(Reading { found: Found::Value(value), sampled_at_ms: None, lag_ms: None, ahead_ms: None })
    }

    fn sample(number: f64, sampled_at_ms: u64) -> Result<Reading, AskError> {
        value(number).map(|reading| Reading { sampled_at_ms: Some(sampled_at_ms), ..reading })
    }

    fn down() -> Result<Reading, AskError> {
        Err(AskError::down("http://p does not answer: connection refused"))
    }

    fn nothing() -> Result<Reading, AskError> {
        Err(AskError::no_data("the query finds no series"))
    }

    /// Measures whenever it is due, and returns where that leads.
    fn run(rules: Rules, measured: &[Result<Reading, AskError>]) -> Analysis {
        let mut analysis = Analysis::new(rules, 0);
        for measured in measured {
            let Some(due) = analysis.next_ms() else { break };
            analysis.record(measured, due);
        }
        analysis
    }

    #[test]
    fn limits_are_included_and_one_failure_more_than_forgiven_fails() {
        let analysis = run(rules(), &[value(0.01), value(0.0)]);
        assert_eq!(analysis.standing(), Standing::Passed("0; 2 of 2 measurements succeeded".into()));
        let analysis = run(rules(), &[value(0.02)]);
        assert_eq!(
            analysis.standing(),
            Standing::Failed("0.02 is more than 0.01; 1 of 1 measurements failed".into())
        );
        let forgiving = Rules { failure_limit: 2, ..rules() };
        let analysis = run(forgiving.clone(), &[value(0.5), value(0.0), value(0.5), value(0.0)]);
        assert!(matches!(analysis.standing(), Standing::Passed(_)));
        // They accumulate: a success in between forgives nothing.
        let analysis =
            run(forgiving, &[value(0.5), value(0.0), value(0.5), value(0.0), value(0.7), value(0.0)]);
        assert_eq!(
            analysis.standing(),
            Standing::Failed("0.7 is more than 0.01; 3 of 5 measurements failed, 2 forgiven".into())
        );
        assert_eq!(analysis.next_ms(), None, "it is decided");
    }

    #[test]
    fn an_outage_never_fails_and_is_told_once() {
        let mut analysis = Analysis::new(rules(), 0);
        let mut told = Vec::new();
        for _ in 0..100 {
            let due = analysis.next_ms().unwrap();
            analysis.record(&down(), due);
            told.extend(analysis.outage());
        }
        assert_eq!(told, ["http://p does not answer: connection refused (5 times in a row)"]);
        assert_eq!(
            analysis.standing(),
            Standing::Outage("http://p does not answer: connection refused".into())
        );
        assert_eq!(analysis.next_ms(), Some(30_000 + 100 * 10_000), "asked again sooner than a number is");
        analysis.record(&value(0.0), 2_000_000);
        assert!(matches!(analysis.standing(), Standing::Passed(_)));
        for _ in 0..5 {
            analysis.record(&down(), 3_000_000);
        }
        assert!(analysis.outage().is_some(), "another outage is told again");
    }

    #[test]
    fn a_wrong_query_holds_as_an_outage_does() {
        let analysis = run(rules(), &[Err(AskError::wrong("the query answers with 2 series", ""))]);
        assert!(matches!(analysis.standing(), Standing::Outage(_)));
    }

    #[test]
    fn no_data_is_inconclusive_and_never_a_pass() {
        assert_eq!(
            run(rules(), &[]).standing(),
            Standing::Inconclusive("nothing was measured; 0 measurements, 1 needed".into())
        );
        let analysis = run(rules(), &[nothing(), nothing()]);
        assert_eq!(
            analysis.standing(),
            Standing::Inconclusive("the query finds no series; 0 measurements, 1 needed".into())
        );
        assert!(analysis.is_open(), "it is asked once more before the verdict");
        // Data that ends: what it said before is no word on now.
        let analysis = run(rules(), &[value(0.0), nothing()]);
        assert_eq!(analysis.standing(), Standing::Inconclusive("the query finds no series".into()));
        let analysis = run(rules(), &[nothing(), value(0.0)]);
        assert!(matches!(analysis.standing(), Standing::Passed(_)) && !analysis.is_open());
        let strict = Rules { inconclusive_limit: Some(0), ..rules() };
        assert!(matches!(run(strict, &[nothing(), value(0.0)]).standing(), Standing::Inconclusive(_)));
    }

    #[test]
    fn conditions_succeed_fail_or_say_nothing() {
        let of = |success: &str, failure: &str| Rules {
            range: (None, None),
            success: success.parse().ok(),
            failure: failure.parse().ok(),
            ..rules()
        };
        let stands = |rules, number| run(rules, &[value(number)]).standing();
        assert!(matches!(stands(of("result >= 0.95", ""), 0.95), Standing::Passed(_)));
        assert_eq!(
            stands(of("result >= 0.95", ""), 0.9),
            Standing::Failed("0.9, not result >= 0.95; 1 of 1 measurements failed".into())
        );
        assert!(matches!(stands(of("", "result > 5"), 5.0), Standing::Passed(_)));
        assert!(matches!(stands(of("", "result > 5"), 6.0), Standing::Failed(_)));
        assert!(matches!(stands(of("result > 0.9", "result < 0.5"), 0.7), Standing::Inconclusive(_)));
        assert!(
            matches!(stands(of("result > 0.1", "result < 0.5"), 0.3), Standing::Failed(_)),
            "failure comes first"
        );
    }

    #[test]
    fn count_ends_the_measurements_and_fewer_are_inconclusive() {
        let three = Rules { count: Some(3), ..rules() };
        let analysis = run(three.clone(), &[value(0.0), value(0.0)]);
        assert_eq!(analysis.standing(), Standing::Inconclusive("0; 2 measurements, 3 needed".into()));
        let analysis = run(three, &[value(0.0), nothing(), value(0.0), value(0.0), value(9.9)]);
        assert!(matches!(analysis.standing(), Standing::Passed(_)));
        assert_eq!(analysis.next_ms(), None);
    }

    #[test]
    fn the_same_sample_is_not_counted_twice() {
        let rules = Rules { failure_limit: 1, ..rules() };
        let analysis = run(rules.clone(), &[sample(0.5, 1_000), sample(0.5, 1_000), sample(0.5, 1_000)]);
        assert!(matches!(analysis.standing(), Standing::Passed(_)), "one failure, forgiven: {analysis:?}");
        let analysis = run(rules.clone(), &[sample(0.5, 1_000), sample(0.5, 1_000), sample(0.5, 61_000)]);
        assert!(matches!(analysis.standing(), Standing::Failed(_)));
        // A store that comes back with the sample of before is no outage any more.
        let analysis = run(rules, &[sample(0.0, 1_000), down(), sample(0.0, 1_000)]);
        assert!(matches!(analysis.standing(), Standing::Passed(_)));
    }

    #[test]
    fn missed_measurements_are_not_made_up_for() {
        let mut analysis = Analysis::new(rules(), 5_000);
        assert_eq!(analysis.next_ms(), Some(35_000));
        analysis.record(&value(0.0), 500_000);
        assert_eq!(analysis.next_ms(), Some(530_000));
    }

    #[test]
    fn how_old_a_number_is_stands_beside_it() {
        let measured = value(0.5).map(|reading| Reading { lag_ms: Some(12_000), ..reading });
        assert_eq!(
            run(rules(), &[measured]).standing(),
            Standing::Failed("0.5 is more than 0.01 (sampled 12s before); 1 of 1 measurements failed".into())
        );
    }
}
