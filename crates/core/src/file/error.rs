//! What is wrong with a release file: where, what was expected, what to write instead.

use std::fmt;

/// One mistake in a release file, at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) what: String,
    pub(super) hint: String,
}

impl FileError {
    /// Returns the line, from 1; 0 where the place is unknown.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Returns the column, from 1; 0 where the place is unknown.
    pub fn column(&self) -> u64 {
        self.column
    }

    /// Returns what is wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Returns what to write instead; empty where nothing more can be said.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

/// All mistakes found in one release file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileErrors {
    name: String,
    source: String,
    errors: Vec<FileError>,
}

impl FileErrors {
    pub(super) fn new(name: &str, source: &str, errors: Vec<FileError>) -> Self {
        Self { name: name.into(), source: source.into(), errors }
    }

    /// Returns the mistakes, in the order of the file.
    pub fn errors(&self) -> &[FileError] {
        &self.errors
    }
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            let FileError { line, column, what, hint } = error;
            if *line == 0 {
                write!(f, "{}: {what}", self.name)?;
            } else {
                write!(f, "{}:{line}:{column}: {what}", self.name)?;
                let text = usize::try_from(*line).ok().and_then(|l| self.source.lines().nth(l - 1));
                if let Some(text) = text.filter(|text| text.len() <= 200) {
                    let number = line.to_string();
                    let pad = " ".repeat(number.len());
                    let before = usize::try_from(*column).unwrap_or(1).saturating_sub(1);
                    write!(f, "\n  {number} | {text}\n  {pad} | {}^", " ".repeat(before.min(200)))?;
                }
            }
            if !hint.is_empty() {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for FileErrors {}
