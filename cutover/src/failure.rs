//! A command that failed: what, what to do next, and the exit code.

use std::fmt;

use cutover_core::Fault;
use cutover_engine::EngineError;
use cutover_engine::store::StoreError;
use serde::{Deserialize, Serialize};

use crate::exit;

/// Why a command failed. Travels as it is from the server to the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// What failed, where and why.
    pub(crate) what: String,
    /// What to do next; may be empty.
    #[serde(default)]
    pub(crate) hint: String,
    /// Lines that show it.
    #[serde(default)]
    pub(crate) lines: Vec<String>,
    /// The exit code of the command.
    pub(crate) exit: u8,
}

impl Failure {
    pub(crate) fn new(exit: u8, what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: String::new(), lines: Vec::new(), exit }
    }

    /// cutover itself failed to do `what`.
    pub(crate) fn own(what: impl Into<String>) -> Self {
        Self::new(exit::FAILED, what)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for line in &self.lines {
            write!(f, "\n  | {line}")?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  next: {}", self.hint)?;
        }
        Ok(())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let exit = match fault.blame {
            cutover_core::Blame::Cutover => exit::FAILED,
            _ => exit::REFUSED,
        };
        Failure { what: fault.what, hint: fault.hint, lines: fault.lines, exit }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let lines = error.fault().map(|fault| fault.lines.clone()).unwrap_or_default();
        Failure { what: error.to_string(), hint: error.hint().to_string(), lines, exit: error.exit_code() }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::own(error.to_string()).hint(error.hint())
    }
}
