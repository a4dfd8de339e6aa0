//! A file as a tree of values, each with its place; and finding, merging and cutting in it.
//!
//! Between the text and the types lies a tree, because two things need it: an environment is laid over the base
//! before either is complete, and a mistake must be shown where it stands, in the base or in the environment.

use std::fmt;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl Place {
    /// Where every file begins.
    pub const START: Place = Place { line: 1, column: 1 };
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins; of an alias, where that begins which it stands for.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// What a value can be.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A single value.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// Keys with values, in the order of the file; each key once.
    Map(Vec<Entry>),
}

/// A single value, in the spelling of the file: `1.10` stays `1.10`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// What YAML takes it for.
    pub kind: Kind,
    /// How it is written; a text without its quotes.
    pub text: String,
}

/// What YAML takes a scalar for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A text.
    Text,
}

/// A key, where it stands, and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub place: Place,
    /// Its value.
    pub value: Node,
}

impl Node {
    pub(super) fn empty_map(place: Place) -> Node {
        Node { place, value: Value::Map(Vec::new()) }
    }

    /// Tells whether nothing is written there.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(Scalar { kind: Kind::Null, .. }))
    }

    /// Takes an entry out of a mapping.
    pub(super) fn take(&mut self, key: &str) -> Option<Entry> {
        let Value::Map(entries) = &mut self.value else { return None };
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index))
    }

    /// Returns the place of the value at `path` (`platform.local.command`, `checks.health[1].path`), or of its nearest
    /// parent.
    pub(super) fn find(&self, path: &str) -> Place {
        match &self.value {
            // A key may contain dots itself, as a variable's name in `env`: the longest that fits is meant.
            Value::Map(entries) => entries
                .iter()
                .filter_map(|entry| {
                    let rest = path.strip_prefix(entry.key.as_str())?;
                    (rest.is_empty() || rest.starts_with(['.', '['])).then_some((entry, rest))
                })
                .max_by_key(|(entry, _)| entry.key.len())
                .map_or(self.place, |(entry, rest)| entry.value.find(rest.strip_prefix('.').unwrap_or(rest))),
            Value::List(items) => {
                let index = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                let item = index.and_then(|(i, rest)| Some((items.get(i.parse::<usize>().ok()?)?, rest)));
                item.map_or(self.place, |(item, rest)| item.find(rest.strip_prefix('.').unwrap_or(rest)))
            }
            Value::Scalar(_) => self.place,
        }
    }

    /// Returns the path of the value at `place`; none where nothing begins there, and for the root.
    pub(super) fn path_of(&self, place: Place) -> Option<String> {
        match &self.value {
            Value::Map(entries) => entries.iter().find_map(|Entry { key, value, .. }| {
                if value.place == place {
                    return Some(key.clone());
                }
                let rest = value.path_of(place)?;
                let dot = if rest.starts_with('[') { "" } else { "." };
                Some(format!("{key}{dot}{rest}"))
            }),
            Value::List(items) => items.iter().enumerate().find_map(|(i, item)| {
                if item.place == place {
                    return Some(format!("[{i}]"));
                }
                let rest = item.path_of(place)?;
                let dot = if rest.starts_with('[') { "" } else { "." };
                Some(format!("[{i}]{dot}{rest}"))
            }),
            Value::Scalar(_) => None,
        }
    }

    /// Cuts out the entries whose key (`of_key`) or value, or the items which, stand at `place`. Returns the places of
    /// the values around them, none if nothing was cut.
    pub(super) fn cut(&mut self, place: Place, of_key: bool) -> Vec<Place> {
        let mut around = Vec::new();
        let before = self.len();
        match &mut self.value {
            Value::Map(entries) => {
                entries.retain(|entry| if of_key { entry.place } else { entry.value.place } != place);
                around = entries.iter_mut().flat_map(|entry| entry.value.cut(place, of_key)).collect();
            }
            Value::List(items) => {
                items.retain(|item| of_key || item.place != place);
                around = items.iter_mut().flat_map(|item| item.cut(place, of_key)).collect();
            }
            Value::Scalar(_) => {}
        }
        if self.len() < before || !around.is_empty() {
            around.push(self.place);
        }
        around
    }

    fn len(&self) -> usize {
        match &self.value {
            Value::Map(entries) => entries.len(),
            Value::List(items) => items.len(),
            Value::Scalar(_) => 0,
        }
    }

    /// Says what it is, as a message calls it: `a list`, `the text "10"`.
    pub fn noun(&self) -> String {
        match &self.value {
            Value::Scalar(scalar) => match scalar.kind {
                Kind::Null => "nothing".into(),
                Kind::Bool | Kind::Number => format!("`{}`", short(&scalar.text)),
                Kind::Text => format!("the text \"{}\"", short(&scalar.text)),
            },
            Value::List(_) => "a list".into(),
            Value::Map(_) => "keys with values".into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Cuts a text that a message quotes, and takes out what would break its line or a terminal.
pub fn short(text: &str) -> String {
    let mut short: String = text.chars().take(60).map(visible).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}

/// A character as a terminal can show it.
pub(super) fn visible(c: char) -> char {
    // The direction marks could make a message read differently from what it says.
    let hidden = c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if hidden { '\u{fffd}' } else { c }
}
