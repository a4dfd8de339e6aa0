//! Fills in `${VARIABLES}` as the compose specification says.

use std::collections::BTreeMap;

use crate::secret;

/// References that hold references are followed so deep, and no deeper.
const MOST_DEEP: usize = 8;

/// The variables that a file may refer to: those of the shell and of the `.env` beside it.
pub(crate) struct Variables<'a>(pub(crate) &'a BTreeMap<String, String>);

/// A text, filled in.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Filled {
    pub(crate) text: String,
    /// Variables without value and default; nothing stands in their place.
    pub(crate) unset: Vec<String>,
    /// Variables whose value was found.
    pub(crate) set: Vec<String>,
    /// Variables whose default was taken.
    pub(crate) defaults: Vec<String>,
}

impl Filled {
    /// Tells whether the text is as it is written, but for `$$`.
    pub(crate) fn is_plain(&self) -> bool {
        self.unset.is_empty() && self.set.is_empty() && self.defaults.is_empty()
    }

    /// Returns all variables, as a message names them.
    pub(crate) fn names(&self) -> String {
        let names = self.unset.iter().chain(&self.set).chain(&self.defaults);
        names.map(|name| format!("${{{name}}}")).collect::<Vec<_>>().join(", ")
    }
}

impl Variables<'_> {
    /// A variable that holds a secret has no value here: it would end in a file.
    fn value(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?;
        (!secret::is_secret(name, value)).then_some(value.as_str())
    }

    pub(crate) fn fill(&self, text: &str) -> Filled {
        let mut filled = Filled::default();
        filled.text = self.filled(text, &mut filled, 0);
        filled
    }

    fn filled(&self, text: &str, into: &mut Filled, depth: usize) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out += &rest[..at];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix('$') {
                out.push('$');
                rest = behind;
            } else if let Some((inside, behind)) = braced(rest).filter(|_| depth < MOST_DEEP) {
                out += &self.reference(inside, into, depth);
                rest = behind;
            } else {
                let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
                let name = &rest[..end];
                match is_name(name) {
                    true => out += &self.plain(name, into),
                    // A lone `$` is itself.
                    false => {
                        out.push('$');
                        out += name;
                    }
                }
                rest = &rest[end..];
            }
        }
        out + rest
    }

    fn plain(&self, name: &str, into: &mut Filled) -> String {
        match self.value(name) {
            Some(value) => {
                note(&mut into.set, name);
                value.to_string()
            }
            None => {
                note(&mut into.unset, name);
                String::new()
            }
        }
    }

    /// `NAME`, `NAME:-default`, `NAME-default`, `NAME:?error`, `NAME?error`, `NAME:+instead`, `NAME+instead`.
    fn reference(&self, inside: &str, into: &mut Filled, depth: usize) -> String {
        let end = inside.find(|c: char| !is_word(c)).unwrap_or(inside.len());
        let (name, operator) = inside.split_at(end);
        if !is_name(name) {
            return format!("${{{inside}}}");
        }
        let value = self.value(name).map(str::to_string);
        let (colon, operator) = match operator.strip_prefix(':') {
            Some(rest) => (true, rest),
            None => (false, operator),
        };
        let given = value.filter(|value| !(colon && value.is_empty()));
        let mut chars = operator.chars();
        match (chars.next(), given) {
            (Some('-'), None) => {
                note(&mut into.defaults, name);
                self.filled(chars.as_str(), into, depth + 1)
            }
            (Some('+'), Some(_)) => {
                note(&mut into.set, name);
                self.filled(chars.as_str(), into, depth + 1)
            }
            (Some('+'), None) => {
                note(&mut into.defaults, name);
                String::new()
            }
            (_, Some(value)) => {
                note(&mut into.set, name);
                value
            }
            (_, None) => {
                note(&mut into.unset, name);
                String::new()
            }
        }
    }
}

fn note(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|known| known == name) {
        names.push(name.to_string());
    }
}

/// Splits what follows `$` at the brace that closes the one it begins with.
fn braced(rest: &str) -> Option<(&str, &str)> {
    let inside = rest.strip_prefix('{')?;
    let mut open = 1;
    for (at, c) in inside.char_indices() {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some((&inside[..at], &inside[at + 1..]));
        }
    }
    None
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Filled {
        let known = [("TAG", "1.4"), ("EMPTY", ""), ("DB_PASSWORD", "hunter2")];
        let known = known.map(|(name, value)| (name.to_string(), value.to_string()));
        Variables(&BTreeMap::from(known)).fill(text)
    }

    #[test]
    fn variables_are_filled_in_as_the_specification_says() {
        for (text, filled) in [
            ("shop:${TAG}", "shop:1.4"),
            ("shop:$TAG-x", "shop:1.4-x"),
            ("${NONE:-a}${NONE-b}${EMPTY:-c}${EMPTY-d}", "abc"),
            ("${TAG:-a}${TAG:+b}${NONE:+c}${EMPTY+d}${EMPTY:+e}", "1.4bd"),
            ("${NONE:-${OTHER:-${TAG}}}", "1.4"),
            ("$$TAG costs 5$ or $5", "$TAG costs 5$ or $5"),
            ("${TAG:?needed}${NONE:?needed}", "1.4"),
            ("${", "${"),
            ("${1x}", "${1x}"),
        ] {
            assert_eq!(fill(text).text, filled, "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_named_and_secrets_have_none() {
        assert_eq!(fill("${NONE}/$TAG/${OTHER:-x}").names(), "${NONE}, ${TAG}, ${OTHER}");
        let secret = fill("--password ${DB_PASSWORD}");
        assert_eq!(
            (secret.text.as_str(), secret.unset.as_slice()),
            ("--password ", ["DB_PASSWORD".to_string()].as_slice())
        );
        assert!(fill("a$$b").is_plain());
    }

    #[test]
    fn a_text_that_refers_to_itself_ends() {
        let deep = "${A:-".repeat(1000) + &"}".repeat(1000);
        assert!(fill(&deep).text.len() < deep.len());
    }
}
