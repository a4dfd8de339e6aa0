//! What went wrong at an edge: whose fault it is, whether to try again, and what a person can do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::CheckResult;
use crate::load::LoadResult;

/// Whose fault a failure is. Only the candidate's own fault fails a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The revision being released.
    Candidate,
    /// What it runs on: memory, disk, ports, the router.
    Platform,
    /// The release file or the machine's set-up.
    Configuration,
    /// cutover itself.
    Cutover,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blame::Candidate => "candidate",
            Blame::Platform => "platform",
            Blame::Configuration => "configuration",
            Blame::Cutover => "cutover",
        })
    }
}

/// What is known of the effect after the failure, and whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// It did not happen, and trying again gives the same.
    Final,
    /// It did not happen; it may succeed later.
    Retry,
    /// It may have happened, or may happen yet: the answer was lost. Repeating it is harmless.
    Unknown,
    /// The edge refused this driver: a newer one took over. Never repeated.
    Fenced,
}

/// A failed effect, in words for the operator: a fragment continuing "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Whose fault it is.
    pub blame: Blame,
    /// Whether to try again.
    pub after: After,
    /// What failed, where and why.
    pub what: String,
    /// What to do next, as a sentence or a command; empty where nothing helps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Lines that show it: the last output of an instance, the answer of a check.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// What was asked of instances where that failed, those that passed included. In the journal's record of the failure
    /// alone: who carries the fault further carries its words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<CheckResult>,
    /// What the load test came to that was not held; kept as `results` are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Box<LoadResult>>,
}

impl Fault {
    /// Makes a fault without hint or lines.
    pub fn new(blame: Blame, after: After, what: impl Into<String>) -> Self {
        let (hint, lines, results, load) = (String::new(), Vec::new(), Vec::new(), None);
        Self { blame, after, what: what.into(), hint, lines, results, load }
    }

    /// The candidate's own, final fault.
    pub fn candidate(what: impl Into<String>) -> Self {
        Self::new(Blame::Candidate, After::Final, what)
    }

    /// A platform's fault that may pass.
    pub fn platform(what: impl Into<String>) -> Self {
        Self::new(Blame::Platform, After::Retry, what)
    }

    /// A final fault of the release file or the machine's set-up.
    pub fn configuration(what: impl Into<String>) -> Self {
        Self::new(Blame::Configuration, After::Final, what)
    }

    /// cutover's own fault that may pass.
    pub fn cutover(what: impl Into<String>) -> Self {
        Self::new(Blame::Cutover, After::Retry, what)
    }

    /// The answer did not come in time; the effect may have happened.
    pub fn unknown(what: impl Into<String>) -> Self {
        Self::new(Blame::Platform, After::Unknown, what)
    }

    /// A newer driver took over.
    pub fn fenced(what: impl Into<String>) -> Self {
        Self::new(Blame::Cutover, After::Fenced, what)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Adds lines that show the failure.
    #[must_use]
    pub fn lines(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.lines.extend(lines);
        self
    }

    /// Adds what was asked of instances.
    #[must_use]
    pub fn results(mut self, results: Vec<CheckResult>) -> Self {
        self.results = results;
        self
    }

    /// Adds what a load test came to.
    #[must_use]
    pub fn load(mut self, result: LoadResult) -> Self {
        self.load = Some(Box::new(result));
        self
    }

    /// Returns the fault in words alone.
    #[must_use]
    pub fn words(&self) -> Fault {
        Fault { results: Vec::new(), load: None, ..self.clone() }
    }

    /// Makes it final: trying again gives the same.
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.after = After::Final;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}
