//! A value of the input, with the path that leads to it.

use std::fmt;

use cutover_core::file::foreign::{Entry, Node, Place, Scalar, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Key(String),
    Index(usize),
}

/// The way to a value. Sorted, a value comes right before what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(pub(crate) Vec<Part>);

impl Path {
    fn with(&self, part: Part) -> Path {
        let mut parts = self.0.clone();
        parts.push(part);
        Path(parts)
    }

    pub(crate) fn is_within(&self, other: &Path) -> bool {
        self.0.starts_with(&other.0)
    }

    /// The keys alone, without indexes.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Key(key) => Some(key.as_str()),
            Part::Index(_) => None,
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.iter().enumerate() {
            match part {
                Part::Key(key) if i == 0 => f.write_str(key)?,
                Part::Key(key) => write!(f, ".{key}")?,
                Part::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A value and where it was found.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    pub(crate) path: Path,
    /// Where its key begins; of an item, the item.
    pub(crate) place: Place,
    pub(crate) node: &'a Node,
}

/// `KEY: value` of a mapping, or `KEY=value` of a list.
pub(crate) struct Pair<'a> {
    pub(crate) key: &'a str,
    /// None where only the key is written.
    pub(crate) value: Option<&'a str>,
    pub(crate) at: Cursor<'a>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Cursor { path: Path::default(), place: node.place, node }
    }

    pub(crate) fn key(&self) -> &str {
        self.path.keys().last().unwrap_or_default()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Cursor<'a>> {
        let Value::Map(entries) = &self.node.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| self.entry(entry))
    }

    /// Follows several keys.
    pub(crate) fn find(&self, keys: &[&str]) -> Option<Cursor<'a>> {
        keys.iter().try_fold(self.clone(), |at, key| at.get(key))
    }

    fn entry(&self, entry: &'a Entry) -> Cursor<'a> {
        let path = self.path.with(Part::Key(entry.key.clone()));
        Cursor { path, place: entry.place, node: &entry.value }
    }

    pub(crate) fn entries(&self) -> Vec<(&'a str, Cursor<'a>)> {
        match &self.node.value {
            Value::Map(entries) => {
                entries.iter().map(|entry| (entry.key.as_str(), self.entry(entry))).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn items(&self) -> Vec<Cursor<'a>> {
        let Value::List(items) = &self.node.value else { return Vec::new() };
        let item = |(i, node): (usize, &'a Node)| Cursor {
            path: self.path.with(Part::Index(i)),
            place: node.place,
            node,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// What is in it, whatever it is.
    pub(crate) fn children(&self) -> Vec<Cursor<'a>> {
        self.entries().into_iter().map(|(_, at)| at).chain(self.items()).collect()
    }

    /// The items of a list, or the value itself where only one is written.
    pub(crate) fn each(&self) -> Vec<Cursor<'a>> {
        if self.text().is_some() { vec![self.clone()] } else { self.items() }
    }

    /// How a single value is written; none for nothing, lists and mappings.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar(Scalar { text, .. }) if !self.node.is_null() => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(crate) fn truth(&self) -> bool {
        self.text().is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    /// The texts of a list; none where one of its items is no text.
    pub(crate) fn texts(&self) -> Option<Vec<&'a str>> {
        if !self.is_list() {
            return None;
        }
        self.items().iter().map(Cursor::text).collect()
    }

    /// The pairs of a mapping or of a list.
    pub(crate) fn pairs(&self) -> Vec<Pair<'a>> {
        let mapped = self.entries().into_iter().filter_map(|(key, at)| {
            (at.is_null() || at.text().is_some()).then(|| Pair { key, value: at.text(), at })
        });
        let listed = self.items().into_iter().filter_map(|at| {
            let text = at.text()?;
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (text, None),
            };
            Some(Pair { key, value, at })
        });
        mapped.chain(listed).collect()
    }
}
