//! What the checks of a release came to: one result for each question and instance, as evidence in the journal.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::fault::Blame;
use crate::ids::InstanceId;

/// What one check said of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Which kind of check it was.
    pub kind: CheckKind,
    /// What was asked: `GET /health`, `run ./smoke.sh`, or the name that the release file gives it.
    pub check: String,
    /// Who was asked.
    pub instance: InstanceId,
    /// What came of it.
    pub outcome: CheckOutcome,
    /// Whose fault it is; none where it passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blame: Option<Blame>,
    /// How long it took: of a health check from the first try to the one that decided, of a smoke test the test alone.
    pub duration_us: u64,
    /// How often it was tried.
    pub tries: u32,
    /// The answer where it passed, the cause where it did not: `200`, `answered 503, expected 200-399`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What shows it: the last lines of a command's output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

/// The kinds of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// Asked again and again until it passes.
    Health,
    /// Asked once.
    Smoke,
}

impl CheckKind {
    /// Returns the kind in words, for one or for several.
    pub fn words(self, many: bool) -> &'static str {
        match (self, many) {
            (CheckKind::Health, false) => "health check",
            (CheckKind::Health, true) => "health checks",
            (CheckKind::Smoke, false) => "smoke test",
            (CheckKind::Smoke, true) => "smoke tests",
        }
    }
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// The answer was as it should be.
    Passed,
    /// There was an answer, and it was wrong.
    Failed,
    /// There was no answer to judge: nobody listened, it did not come in time, or the check could not be run.
    Error,
}

impl CheckResult {
    /// Tells whether it passed.
    pub fn passed(&self) -> bool {
        self.outcome == CheckOutcome::Passed
    }

    /// Returns the result in a line for people: `GET /health passed in 40ms`.
    pub fn line(&self) -> String {
        let took = took(self.duration_us);
        match self.outcome {
            CheckOutcome::Passed => format!("{} passed in {took}", self.check),
            CheckOutcome::Failed => format!("{} failed: {}", self.check, self.detail),
            CheckOutcome::Error => format!("{} had no answer: {}", self.check, self.detail),
        }
    }
}

/// Says in one line what checks that passed came to.
pub fn summary(results: &[CheckResult]) -> String {
    let Some(first) = results.first() else { return String::new() };
    let slowest = results.iter().max_by_key(|result| result.duration_us).unwrap_or(first);
    if first.kind != CheckKind::Health {
        let many = first.kind.words(results.len() != 1);
        let passed = results.iter().filter(|result| result.passed()).count();
        return format!("{passed} of {} {many} passed on instance {}", results.len(), first.instance);
    }
    let of = |instance: &InstanceId| {
        let mut text = String::new();
        for result in results.iter().filter(|result| &result.instance == instance) {
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{separator}{}", result.line());
        }
        text
    };
    let mut instances: Vec<&InstanceId> = results.iter().map(|result| &result.instance).collect();
    instances.dedup();
    match instances.len() {
        1 => of(&first.instance),
        count => format!("{count} instances, the slowest: {}", of(&slowest.instance)),
    }
}

/// Keeps the newest results: those of checks that were asked again replace what they said before.
pub fn merge(kept: &mut Vec<CheckResult>, newer: &[CheckResult]) {
    let key = |result: &CheckResult| (result.kind, result.check.clone(), result.instance.clone());
    kept.retain(|old| !newer.iter().any(|new| key(new) == key(old)));
    kept.extend_from_slice(newer);
}

/// Prints microseconds for people: `40ms`, `1.4s`.
pub fn took(us: u64) -> String {
    if us < 100_000 {
        format!("{}ms", us / 1000)
    } else {
        format!("{}.{}s", us / 1_000_000, us % 1_000_000 / 100_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(kind: CheckKind, check: &str, instance: &str, duration_us: u64) -> CheckResult {
        CheckResult {
            kind,
            check: check.into(),
            instance: instance.into(),
            outcome: CheckOutcome::Passed,
            blame: None,
            duration_us,
            tries: 1,
            detail: String::new(),
            output: Vec::new(),
        }
    }

    #[test]
    fn a_summary_names_every_check_of_the_slowest_instance() {
        let one = [
            result(CheckKind::Health, "GET /health", "a", 40_000),
            result(CheckKind::Health, "GET /ready", "a", 1_450_000),
        ];
        assert_eq!(summary(&one), "GET /health passed in 40ms; GET /ready passed in 1.4s");
        let two = [one[0].clone(), result(CheckKind::Health, "GET /health", "b", 90_000)];
        assert_eq!(summary(&two), "2 instances, the slowest: GET /health passed in 90ms");
        let smoke = [result(CheckKind::Smoke, "GET /api", "a", 1)];
        assert_eq!(summary(&smoke), "1 of 1 smoke test passed on instance a");
        assert_eq!(summary(&[]), "");
    }

    #[test]
    fn what_is_asked_again_replaces_what_was_said_before() {
        let old = result(CheckKind::Health, "GET /health", "a", 1);
        let twice = [result(CheckKind::Smoke, "POST /", "a", 1), result(CheckKind::Smoke, "POST /", "a", 2)];
        let mut kept = vec![old.clone()];
        merge(&mut kept, &twice);
        assert_eq!(kept.len(), 3, "two tests of one name stand beside each other");
        let again = [CheckResult { outcome: CheckOutcome::Failed, ..old }];
        merge(&mut kept, &again);
        assert_eq!((kept.len(), kept[2].outcome), (3, CheckOutcome::Failed));
    }
}
