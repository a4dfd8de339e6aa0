//! From the tree to the types: a serde deserializer that knows where every value stands.

use serde::de::{self, Deserializer, Visitor};

use super::access::{Choice, Entries, Items};
use super::misfit::{Misfit, MisfitKind, NO_ADDRESS};
use super::tree::{Entry, Kind, Node, Scalar, Value, short};

/// Gives the place to whatever went wrong at or below a value.
pub(super) fn placed<T>(node: &Node, result: Result<T, Misfit>) -> Result<T, Misfit> {
    result.map_err(|misfit| misfit.at(node.place))
}

impl Node {
    fn scalar(&self, expected: &str, hint: &str) -> Result<&Scalar, Misfit> {
        match &self.value {
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => Err(Misfit::value(
                "a value is missing here",
                format!("write {expected} here, or remove what is empty"),
            )),
            Value::Scalar(scalar) => Ok(scalar),
            _ => Err(Misfit::value(format!("{expected} is expected here, not {}", self.noun()), hint)),
        }
        .map_err(|misfit| misfit.at(self.place))
    }

    fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if scalar.kind == Kind::Text => Some(&scalar.text),
            _ => None,
        }
    }

    fn whole(&self, least: i128, most: i128) -> Result<i128, Misfit> {
        let scalar = self.scalar("a whole number", "write one number, such as `2`")?;
        let digits = scalar.text.strip_prefix(['+', '-']).unwrap_or(&scalar.text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let what = format!("a whole number is expected here, not {}", self.noun());
            return Err(Misfit::value(what, "write digits alone, such as `2`").at(self.place));
        }
        // What does not even fit 128 bits is out of range as well.
        match scalar.text.parse::<i128>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => {
                let (word, hint) = match scalar.text.starts_with('-') {
                    true => ("low", format!("give at least {least}")),
                    false => ("large", format!("give at most {most}")),
                };
                Err(Misfit::value(format!("{} is too {word}", short(&scalar.text)), hint).at(self.place))
            }
        }
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ty),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            let number = self.whole(i128::from(<$type>::MIN), i128::from(<$type>::MAX))?;
            let number = <$type>::try_from(number).map_err(|_| Misfit::value("this number is too large", ""));
            placed(self, number.and_then(|number| visitor.$visit(number)))
        })*
    };
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar(Scalar { kind, text }) => placed(
                self,
                match kind {
                    Kind::Null => visitor.visit_unit(),
                    Kind::Bool => visitor.visit_bool(text.eq_ignore_ascii_case("true")),
                    Kind::Text => visitor.visit_borrowed_str(text),
                    Kind::Number => match (text.parse::<u64>(), text.parse::<i64>(), text.parse::<f64>()) {
                        (Ok(number), ..) => visitor.visit_u64(number),
                        (_, Ok(number), _) => visitor.visit_i64(number),
                        (.., Ok(number)) => visitor.visit_f64(number),
                        _ => visitor.visit_borrowed_str(text),
                    },
                },
            ),
        }
    }

    whole_numbers!(deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64);

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let scalar = self.scalar("a number", "write one number, such as `0.5`")?;
        match scalar.text.parse::<f64>() {
            Ok(number) if number.is_finite() => placed(self, visitor.visit_f64(number)),
            _ => {
                let what = format!("a number is expected here, not {}", self.noun());
                Err(Misfit::value(what, "such as `0.5`").at(self.place))
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let scalar = self.scalar("`true` or `false`", "write `true` or `false`")?;
        if scalar.kind == Kind::Bool {
            return placed(self, visitor.visit_bool(scalar.text.eq_ignore_ascii_case("true")));
        }
        let hint = match scalar.text.to_lowercase().as_str() {
            "yes" | "on" | "y" | "1" | "true" => "write `true`, without quotes",
            "no" | "off" | "n" | "0" | "false" => "write `false`, without quotes",
            _ => "write one of the two",
        };
        let what = format!("`true` or `false` is expected here, not {}", self.noun());
        Err(Misfit::value(what, hint).at(self.place))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let hint = match &self.value {
            Value::List(items) if items.len() == 1 => "write it without brackets and dash",
            _ => "write one value on this line",
        };
        let text = &self.scalar("a text", hint)?.text;
        placed(self, visitor.visit_borrowed_str(text)).map_err(|mut misfit| {
            if misfit.what == NO_ADDRESS
                && let Some(guess) = super::guess::address(text)
            {
                misfit.hint = format!("did you mean \"{guess}\"? {}", misfit.hint);
            }
            misfit
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        placed(self, if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) })
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        if self.is_null() {
            return placed(self, visitor.visit_unit());
        }
        Err(Misfit::value(format!("nothing is expected here, not {}", self.noun()), "remove it")
            .at(self.place))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        placed(self, visitor.visit_newtype_struct(self))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Value::List(items) = &self.value else {
            let what = match self.is_null() {
                true => "a list is expected here".to_string(),
                false => format!("a list is expected here, not {}", self.noun()),
            };
            let hint = match &self.value {
                // Words in one text are the commonest slip: `command: ./shop --quiet`.
                Value::Scalar(scalar) if scalar.kind != Kind::Null => {
                    let words: Vec<&str> = scalar.text.split_whitespace().take(8).collect();
                    format!("write it in brackets, such as `[{}]`", short(&words.join(", ")))
                }
                Value::Map(_) => "begin each item with a dash: `- key: value`".into(),
                _ => "write it in brackets, such as `[one, two]`".into(),
            };
            return Err(Misfit::value(what, hint).at(self.place));
        };
        placed(self, visitor.visit_seq(Items(items.iter())))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let Value::Map(entries) = &self.value else {
            let what = match self.is_null() {
                true => "keys with values are expected here".to_string(),
                false => format!("keys with values are expected here, not {}", self.noun()),
            };
            let hint = match &self.value {
                Value::List(_) => "write `key: value`, without the dash or the brackets",
                _ => "such as `{key: value}`, or one `key: value` a line",
            };
            return Err(Misfit::value(what, hint).at(self.place));
        };
        placed(self, visitor.visit_map(Entries { rest: entries.iter(), now: None }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let words: Vec<&str> = match &self.value {
            Value::Scalar(scalar) if scalar.kind == Kind::Text => scalar.text.split_whitespace().collect(),
            Value::List(items) => items.iter().filter_map(Node::text).collect(),
            _ => Vec::new(),
        };
        if words.is_empty() || !fields.contains(&"command") {
            return self.deserialize_map(visitor);
        }
        // The command alone, as a Procfile has it.
        let words: Vec<&str> = words.into_iter().take(8).collect();
        let what = format!("keys with values are expected here, not {}", self.noun());
        let hint = format!("did you mean `{{command: [{}]}}`?", short(&words.join(", ")));
        Err(Misfit::value(what, hint).at(self.place))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let list = || variants.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        match &self.value {
            Value::Map(entries) => match entries.as_slice() {
                [entry] => placed(self, visitor.visit_enum(Choice { node: self, entry: Some(entry) })),
                [] => Err(Misfit::value("a key is missing here", format!("expected one of: {}", list()))
                    .at(self.place)),
                // An unknown one among several is the better news.
                several => {
                    let known = |entry: &&Entry| variants.contains(&entry.key.as_str());
                    let (kind, entry) = match several.iter().find(|entry| !known(entry)) {
                        Some(entry) => (<Misfit as de::Error>::unknown_field(&entry.key, variants), entry),
                        None => (
                            Misfit::new(
                                MisfitKind::Key,
                                format!("`{}` and `{}` cannot be together", several[0].key, several[1].key),
                                "keep one of them",
                            ),
                            &several[1],
                        ),
                    };
                    Err(kind.at(entry.place))
                }
            },
            Value::Scalar(scalar) if scalar.kind != Kind::Null => {
                placed(self, visitor.visit_enum(Choice { node: self, entry: None }))
            }
            Value::Scalar(_) => {
                let what = format!("a value is missing here: {}", list());
                Err(Misfit::value(what, "write one of them with its keys, indented below").at(self.place))
            }
            Value::List(_) => {
                let hint = format!("write one of {} without the dash or the brackets", list());
                Err(Misfit::value(format!("one choice is expected here, not {}", self.noun()), hint)
                    .at(self.place))
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }
}
