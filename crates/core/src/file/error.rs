//! What is wrong with a release file: where, what was expected, what to write instead.

use std::fmt;

use super::source;
use super::tree::{Place, visible};

/// A message that lists more mistakes helps nobody.
pub(super) const MOST_MISTAKES: usize = 20;

/// One mistake in a release file, at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    pub(super) place: Place,
    pub(super) what: String,
    pub(super) hint: String,
    pub(super) environments: Vec<String>,
}

impl FileError {
    pub(super) fn new(place: Place, what: impl Into<String>, hint: impl Into<String>) -> Self {
        FileError { place, what: what.into(), hint: hint.into(), environments: Vec::new() }
    }

    /// Returns the line, from 1.
    pub fn line(&self) -> u64 {
        self.place.line
    }

    /// Returns the column, from 1, in characters.
    pub fn column(&self) -> u64 {
        self.place.column
    }

    /// Returns the environments in which it is wrong; none where the base is wrong by itself.
    pub fn environments(&self) -> &[String] {
        &self.environments
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
    pub(super) fn new(name: &str, source: &str, mut errors: Vec<FileError>) -> Self {
        for error in &mut errors {
            error.place = source::inside(error.place, source);
            // What is quoted from the file must not act on the terminal that shows it.
            for text in [&mut error.what, &mut error.hint] {
                *text = text.chars().map(|c| if c == '\n' { c } else { visible(c) }).collect();
            }
        }
        errors.sort_by_key(|error| error.place);
        errors.truncate(MOST_MISTAKES);
        Self { name: name.into(), source: source.into(), errors }
    }

    /// Returns the mistakes, in the order of the file. Never empty.
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
            let FileError { place, what, hint, environments } = error;
            write!(f, "{}:{place}: {what}", self.name)?;
            match environments.as_slice() {
                [] => {}
                [one] => write!(f, " (environment {one})")?,
                several => write!(f, " (environments {})", several.join(", "))?,
            }
            let index = usize::try_from(place.line).unwrap_or(usize::MAX).saturating_sub(1);
            let line = source::lines(&self.source).nth(index);
            if let Some(line) = line.filter(|line| !line.trim().is_empty()) {
                let (text, before) = window(line, place.column);
                let pad = " ".repeat(place.line.to_string().len());
                write!(f, "\n  {} | {text}\n  {pad} | {before}^", place.line)?;
            }
            // A list of all keys helps once.
            let said = i > 0 && self.errors[i - 1].hint == *hint;
            if !hint.is_empty() && !said {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        if self.errors.len() >= MOST_MISTAKES {
            write!(f, "\nthese are the first {MOST_MISTAKES}; mend them to see what is left")?;
        }
        Ok(())
    }
}

/// The part of a line around `column` that fits a terminal, and what brings a caret below that column.
fn window(line: &str, column: u64) -> (String, String) {
    const WIDTH: usize = 120;
    let column = usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1);
    let chars: Vec<char> = line.chars().map(|c| if c == '\t' { c } else { visible(c) }).collect();
    let column = column.min(chars.len());
    let from = if chars.len() <= WIDTH { 0 } else { column.saturating_sub(WIDTH / 2) };
    let to = chars.len().min(from + WIDTH);
    let (head, tail) = (if from > 0 { "…" } else { "" }, if to < chars.len() { "…" } else { "" });
    let text: String = chars[from..to].iter().collect();
    // A tab is as wide as the terminal makes it: the caret's line has the same ones.
    let before: String = chars[from..column].iter().map(|c| if *c == '\t' { '\t' } else { ' ' }).collect();
    (format!("{head}{}{tail}", text.trim_end()), format!("{}{before}", if from > 0 { " " } else { "" }))
}

impl std::error::Error for FileErrors {}
