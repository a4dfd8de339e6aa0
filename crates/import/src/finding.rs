//! What became of a key of the input.

use std::fmt;

use serde::Serialize;

/// A tool whose files can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// A compose file.
    Compose,
    /// Kamal's `deploy.yml`.
    Kamal,
}

impl Tool {
    /// Returns how people call its file.
    pub fn file(self) -> &'static str {
        match self {
            Tool::Compose => "compose file",
            Tool::Kamal => "Kamal file",
        }
    }
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It means the same in the release file.
    Honoured,
    /// It is in the release file, or happens without it, and not in all the same.
    Differently,
    /// It is not.
    NotHonoured,
}

impl Fate {
    /// Returns the fate in words.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Honoured => "honoured",
            Fate::Differently => "honoured differently",
            Fate::NotHonoured => "not honoured",
        }
    }
}

/// What became of one key of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The key, such as `services.web.ports[0]`.
    pub key: String,
    /// Where it stands: the line, from 1.
    pub line: u64,
    /// The column, from 1, in characters.
    pub column: u64,
    /// What became of it.
    pub fate: Fate,
    /// The key of the release file that it became; empty where there is none.
    pub becomes: String,
    /// What that means for you; empty where it means the same.
    pub what: String,
    /// What to do; empty where nothing is left to do.
    pub next: String,
}

impl fmt::Display for Finding {
    /// Writes `services.web.ports[0] (line 8): what`, and below it what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {}):", self.key, self.line)?;
        if !self.becomes.is_empty() {
            write!(f, " becomes {}{}", self.becomes, if self.what.is_empty() { "" } else { ";" })?;
        }
        if !self.what.is_empty() {
            write!(f, " {}", self.what)?;
        }
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}
