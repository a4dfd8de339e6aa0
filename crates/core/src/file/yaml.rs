//! Reads YAML into a tree with places, and says what is wrong with it in the words of somebody who writes the file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, Options, Spanned};

use super::error::FileError;
use super::foreign::Words;
use super::tree::{Entry, Kind, Node, Place, Scalar, Value, short};

/// The largest file that is read. The largest sensible one has a few KiB; what is larger is another file.
pub(super) const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 32;
const MAX_NODES: usize = 20_000;

/// Reads `source`, which `source::decode` has looked at.
pub(super) fn read(source: &str, words: &Words) -> Result<Node, FileError> {
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(source, options()) {
        Ok(root) => Ok(node(root, source)),
        Err(error) => Err(explain(&error, source, words)),
    }
}

/// Small limits: an alias that multiplies itself must end in a message, not in memory.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 3 * MAX_NODES,
            max_aliases: 1000,
            max_anchors: 1000,
            max_documents: 2,
            max_total_scalar_bytes: MAX_BYTES,
            max_recorded_anchor_events: MAX_NODES,
            max_recorded_anchor_bytes: MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: 16,
        },
        merge_keys: MergeKeyPolicy::Merge,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// A value as the library gives it.
enum Raw {
    Scalar(Kind, String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn place(location: &Location) -> Place {
    // Some of the library's errors know no place; the file's beginning is better than none.
    Place { line: location.line().max(1), column: location.column().max(1) }
}

fn node(raw: Spanned<Raw>, source: &str) -> Node {
    // Of an alias, the place of what it stands for: that is the text to look at.
    let place = place(&raw.defined);
    let value = match raw.value {
        Raw::Scalar(kind, text) => {
            // `1.10` and `0x10` are texts to most keys: what counts is how they are written.
            let spelled = || {
                let span = raw.defined.span();
                let (from, len) = (span.byte_offset()?, span.byte_len()?);
                let from = usize::try_from(from).ok()?;
                source.get(from..from.checked_add(usize::try_from(len).ok()?)?).map(str::to_string)
            };
            let text = match kind {
                Kind::Text => text,
                _ => spelled().unwrap_or(text),
            };
            Value::Scalar(Scalar { kind, text })
        }
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, source)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    place: self::place(&key.defined),
                    key: key.value,
                    value: node(value, source),
                })
                .collect(),
        ),
    };
    Node { place, value }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;

        macro_rules! scalar {
            ($($visit:ident: $type:ty => $kind:ident),*) => {
                $(fn $visit<E>(self, value: $type) -> Result<Raw, E> {
                    Ok(Raw::Scalar(Kind::$kind, value.to_string()))
                })*
            };
        }

        impl<'de> Visitor<'de> for RawVisitor {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number, a list or keys with values")
            }

            scalar!(visit_bool: bool => Bool, visit_i64: i64 => Number, visit_u64: u64 => Number,
                visit_i128: i128 => Number, visit_u128: u128 => Number, visit_f64: f64 => Number,
                visit_str: &str => Text);

            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Kind::Null, String::new()))
            }

            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Scalar(Kind::Null, String::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Raw::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Raw::Map(entries))
            }
        }

        deserializer.deserialize_any(RawVisitor)
    }
}

/// Says where and what is wrong with the YAML itself.
fn explain(error: &Error, source: &str, words: &Words) -> FileError {
    let place = error.location().as_ref().map_or(Place::START, place);
    let error = error.without_snippet();
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    // The place is printed once, in front.
    let text = text.find(" at line ").or_else(|| text.find(" (line ")).map_or(text, |cut| &text[..cut]);
    let too_much = match error {
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => true,
        _ => text.contains("budget breached") || text.contains("recursion limit"),
    };
    if too_much {
        let what = format!("this file holds more than {}: too many values, levels or aliases", words.any);
        let most = format!(
            "at most {MAX_NODES} values with aliases written out, and {MAX_DEPTH} levels; is this the right file?"
        );
        return FileError::new(place, what, most);
    }
    if let Error::DuplicateMappingKey { key, .. } = error {
        let key = key.as_deref().map_or_else(|| "a key".into(), |key| format!("the key `{}`", short(key)));
        return FileError::new(place, format!("{key} stands here twice"), "keep one of them");
    }
    super::syntax::explain(place, text, source, words)
}
