//! Environments: what a release file says differently for staging, for production.
//!
//! An environment is laid over the base: keys with values are merged, everything else is replaced, and `null` removes.

use super::error::FileError;
use super::read::nearest;
use super::tree::{Entry, Node, Place, Value, short};

/// Where the choices of a release file are: one key of several. An environment that chooses another one does not add
/// to the base's choice, it takes its place.
const CHOICES: [&str; 2] = ["platform", "strategy"];

/// A base with an environment laid over it.
pub(super) struct Merged {
    pub(super) root: Node,
    /// The keys that the environment removed, with the place of the mapping that had them.
    pub(super) removed: Vec<(Place, Entry)>,
    /// What the environment removes although it is not there.
    pub(super) mistakes: Vec<FileError>,
}

/// Lays `overlay` over `base`.
pub(super) fn merge(base: &Node, overlay: &Node) -> Merged {
    let mut merged = Merged { root: base.clone(), removed: Vec::new(), mistakes: Vec::new() };
    let Value::Map(over) = &overlay.value else { return merged };
    let mut root = base.clone();
    merged.lay(&mut root, over, "");
    merged.root = root;
    merged
}

impl Merged {
    fn lay(&mut self, base: &mut Node, overlay: &[Entry], path: &str) {
        let place = base.place;
        let Value::Map(entries) = &mut base.value else { return };
        let chosen = |entry: &Entry| !entry.value.is_null();
        if CHOICES.contains(&path) && overlay.iter().any(chosen) {
            entries.retain(|entry| overlay.iter().any(|over| over.key == entry.key));
        }
        for over in overlay {
            let at = entries.iter().position(|entry| entry.key == over.key);
            match at {
                Some(at) if over.value.is_null() => {
                    entries.remove(at);
                    self.removed.push((place, over.clone()));
                }
                None if over.value.is_null() => {
                    let known: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
                    let hint = match nearest(&over.key, &known) {
                        Some(key) => format!("did you mean `{key}`?"),
                        None => "leave the key out".into(),
                    };
                    let what = format!("there is no `{}` in the base to remove", short(&over.key));
                    self.mistakes.push(FileError::new(over.place, what, hint));
                }
                Some(at) => {
                    let entry = &mut entries[at];
                    let child =
                        if path.is_empty() { over.key.clone() } else { format!("{path}.{}", over.key) };
                    match (&entry.value.value, &over.value.value) {
                        (Value::Map(_), Value::Map(below)) => self.lay(&mut entry.value, below, &child),
                        _ => *entry = over.clone(),
                    }
                }
                None => entries.push(Entry { value: self.whole(&over.value), ..over.clone() }),
            }
        }
    }

    /// What an environment adds that the base has not: there is nothing that a `null` in it could remove.
    fn whole(&mut self, value: &Node) -> Node {
        let mut node = value.clone();
        if let Value::Map(entries) = &value.value {
            node = Node::empty_map(value.place);
            self.lay(&mut node, entries, "-");
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::yaml;

    /// Lays one text over another and prints what comes out, without places.
    fn laid(base: &str, overlay: &str) -> String {
        fn print(node: &Node) -> String {
            match &node.value {
                Value::Scalar(scalar) => scalar.text.clone(),
                Value::List(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(", ")),
                Value::Map(entries) => {
                    let entries =
                        entries.iter().map(|entry| format!("{}: {}", entry.key, print(&entry.value)));
                    format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
                }
            }
        }
        let read = |text| yaml::read(text, &crate::file::foreign::RELEASE_FILE).unwrap();
        let once = merge(&read(base), &read(overlay));
        // Laying it over what came out changes nothing any more.
        assert_eq!(print(&merge(&once.root, &read(overlay)).root), print(&once.root), "{base} + {overlay}");
        format!("{}{}", print(&once.root), if once.mistakes.is_empty() { "" } else { " with mistakes" })
    }

    #[test]
    fn keys_are_merged_and_everything_else_is_replaced() {
        for (base, overlay, wanted) in [
            ("{a: 1, b: {c: 2, d: 3}}", "{b: {d: 4, e: 5}}", "{a: 1, b: {c: 2, d: 4, e: 5}}"),
            ("{a: [1, 2], b: 3}", "{a: [4]}", "{a: [4], b: 3}"),
            ("{a: [{b: 1}]}", "{a: [{c: 2}]}", "{a: [{c: 2}]}"),
            ("{a: {b: 1}}", "{a: 2}", "{a: 2}"),
            ("{a: 1}", "{a: {b: 2}}", "{a: {b: 2}}"),
            ("{a: 1, b: {c: 2}}", "{a: null, b: {c: ~}}", "{b: {}}"),
            ("{a: 1}", "{b: null}", "{a: 1} with mistakes"),
            ("{a: 1}", "{b: {c: null, d: 2}}", "{a: 1, b: {d: 2}} with mistakes"),
            ("{a: 1}", "{}", "{a: 1}"),
        ] {
            assert_eq!(laid(base, overlay), wanted, "{base} + {overlay}");
        }
    }

    #[test]
    fn another_choice_takes_the_place_of_the_bases() {
        for (base, overlay, wanted) in [
            (
                "{strategy: {blue_green: {}}}",
                "{strategy: {rolling: {surge: 1}}}",
                "{strategy: {rolling: {surge: 1}}}",
            ),
            (
                "{strategy: {rolling: {a: 1, b: 2}}}",
                "{strategy: {rolling: {b: 3}}}",
                "{strategy: {rolling: {a: 1, b: 3}}}",
            ),
            ("{platform: {local: {a: 1}}}", "{platform: {docker: {b: 2}}}", "{platform: {docker: {b: 2}}}"),
            ("{platform: {local: {a: 1}}}", "{platform: {}}", "{platform: {local: {a: 1}}}"),
        ] {
            assert_eq!(laid(base, overlay), wanted, "{base} + {overlay}");
        }
    }
}
