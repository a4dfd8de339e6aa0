//! What becomes of each key of the tools' files: one row each. The documentation is made from these rows.

use crate::cursor::Path;
use crate::finding::{Fate, Tool};
use crate::{compose, kamal};

/// A key of a tool's file, and what becomes of it as a rule. What a value makes different, its finding says.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The key's path; `*` stands for a name. Of compose's services only what follows `services.*`.
    pub key: &'static str,
    /// What becomes of it.
    pub fate: Fate,
    /// The key of the release file; empty where there is none.
    pub becomes: &'static str,
    /// What that means for you; empty where it means the same.
    pub what: &'static str,
    /// What to do; empty where nothing is left to do.
    pub next: &'static str,
}

pub(crate) const fn same(key: &'static str, becomes: &'static str) -> Field {
    Field { key, fate: Fate::Honoured, becomes, what: "", next: "" }
}

pub(crate) const fn differs(
    key: &'static str,
    becomes: &'static str,
    what: &'static str,
    next: &'static str,
) -> Field {
    Field { key, fate: Fate::Differently, becomes, what, next }
}

pub(crate) const fn left(key: &'static str, what: &'static str, next: &'static str) -> Field {
    Field { key, fate: Fate::NotHonoured, becomes: "", what, next }
}

/// Returns the keys of a tool's file: of compose those of a service, then those of the file.
pub fn fields(tool: Tool) -> impl Iterator<Item = &'static Field> {
    let [first, second] = tables(tool);
    first.iter().chain(second)
}

fn tables(tool: Tool) -> [&'static [Field]; 2] {
    match tool {
        Tool::Compose => [compose::fields::SERVICE, compose::fields::FILE],
        Tool::Kamal => [kamal::fields::FILE, &[]],
    }
}

/// The table and the part of a path that it speaks of.
fn place(tool: Tool, path: &Path) -> (&'static [Field], Vec<&str>) {
    let keys: Vec<&str> = path.keys().collect();
    match (tool, keys.as_slice()) {
        (Tool::Compose, ["services", _, rest @ ..]) if !rest.is_empty() => {
            (compose::fields::SERVICE, rest.to_vec())
        }
        (Tool::Compose, _) => (compose::fields::FILE, keys),
        // What a role has of its own means what it means for all of them.
        (Tool::Kamal, ["servers", _, own @ ("proxy" | "logging" | "env"), rest @ ..]) if !rest.is_empty() => {
            (kamal::fields::FILE, [&[*own], rest].concat())
        }
        (Tool::Kamal, _) => (kamal::fields::FILE, keys),
    }
}

/// Returns the row of a path; of a part that has none, that of the whole where it has no rows for parts: `env` speaks for
/// each of its variables.
pub(crate) fn of(tool: Tool, path: &Path) -> Option<&'static Field> {
    let (table, mut keys) = place(tool, path);
    loop {
        let named = |field: &&Field| fits(field.key, &keys) == Some(0);
        // A row that names the key speaks rather than one for any name.
        if let Some(field) = table.iter().filter(named).min_by_key(|field| field.key.matches('*').count()) {
            return Some(field);
        }
        keys.pop();
        if keys.is_empty() || parts(table, &keys) {
            return None;
        }
    }
}

/// Tells whether there are rows for parts of what stands at a path.
pub(crate) fn has_parts(tool: Tool, path: &Path) -> bool {
    let (table, keys) = place(tool, path);
    parts(table, &keys)
}

fn parts(table: &[Field], keys: &[&str]) -> bool {
    table.iter().any(|field| fits(field.key, keys).is_some_and(|rest| rest > 0))
}

/// How many keys of the pattern are left behind `keys`; none where they differ.
fn fits(pattern: &str, keys: &[&str]) -> Option<usize> {
    let mut parts = pattern.split('.');
    for key in keys {
        if !parts.next().is_some_and(|part| part == "*" || part == *key) {
            return None;
        }
    }
    Some(parts.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_once_and_says_enough() {
        for tool in [Tool::Compose, Tool::Kamal] {
            for table in tables(tool) {
                for (i, field) in table.iter().enumerate() {
                    assert!(!table[..i].iter().any(|other| other.key == field.key), "{} twice", field.key);
                    match field.fate {
                        Fate::Honoured => {
                            assert!(field.what.is_empty() && field.next.is_empty(), "{field:?}")
                        }
                        Fate::Differently => assert!(!field.what.is_empty(), "{field:?}"),
                        Fate::NotHonoured => {
                            assert!(!field.what.is_empty() && !field.next.is_empty(), "{field:?}");
                        }
                    }
                }
            }
        }
    }
}
