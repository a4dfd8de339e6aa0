//! What is said of a value that does not fit its type; also by the types themselves, through serde.

use std::fmt;

use serde::de;

use super::guess;
use super::read::unknown_key;
use super::tree::Place;

/// A value that does not fit its type.
#[derive(Debug)]
pub struct Misfit {
    /// Where; none until the deserializer that knows it has passed it on.
    pub(super) place: Option<Place>,
    pub(super) kind: MisfitKind,
    pub(super) what: String,
    pub(super) hint: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum MisfitKind {
    /// The key at the place is not known.
    Key,
    /// The value at the place.
    Value,
    /// The mapping at the place lacks this key.
    Missing(&'static str),
}

impl Misfit {
    pub(super) fn new(kind: MisfitKind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Misfit { place: None, kind, what: what.into(), hint: hint.into() }
    }

    pub(super) fn value(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(MisfitKind::Value, what, hint)
    }

    pub(super) fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }
}

pub(super) const NO_ADDRESS: &str = "this is not an address with a port";

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        match text.as_str() {
            "invalid socket address syntax" => Self::value(
                NO_ADDRESS,
                "Write an IP address and a port in quotes, such as \"127.0.0.1:8080\" or \"[::]:80\"",
            ),
            // Conditions and paths say themselves what to write.
            _ => match (text.rsplit_once("; write "), guess::quantity(&text)) {
                (Some((what, instead)), _) => Self::value(what, format!("write {instead}")),
                (None, Some((what, hint))) => Self::value(what, hint),
                (None, None) => Self::value(text, ""),
            },
        }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::value(format!("{found} does not fit here"), format!("expected: {expected}"))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self::value(format!("{length} values do not fit here"), format!("expected: {expected}"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let (what, hint) = unknown_key(field, expected, "key");
        Self::new(MisfitKind::Key, what, hint)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let (what, hint) = unknown_key(variant, expected, "value");
        Self::value(what, hint)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(MisfitKind::Missing(field), "", "")
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::value(format!("the key `{field}` stands here twice"), "keep one of them")
    }
}
