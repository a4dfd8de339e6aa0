//! What of an answer is looked at: JSON paths, wishes for what stands there, captures, and texts that use them.

use std::collections::BTreeMap;

use serde_json::Value;

/// The way to one value of a JSON document: `$.items[0].name`, `$['first name']`, `$[-1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Key(String),
    /// From the end where negative.
    Index(i64),
}

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    /// When it is none: the text says why.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        let wrong = |why: &str| Err(format!("`{text}` is not a JSON path: {why}"));
        let Some(mut rest) = text.strip_prefix('$') else { return wrong("it begins with $") };
        let mut parts = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                if end == 0 {
                    return wrong("a key is missing after the point");
                }
                parts.push(Part::Key(after[..end].into()));
                rest = &after[end..];
            } else if let Some(after) = rest.strip_prefix('[') {
                let quote = after.chars().next().filter(|c| ['\'', '"'].contains(c));
                let (part, left) = match quote {
                    Some(quote) => {
                        let Some((key, left)) = after[1..].split_once(quote) else {
                            return wrong("a quote is not closed");
                        };
                        (Part::Key(key.into()), left.strip_prefix(']'))
                    }
                    None => {
                        let Some((index, left)) = after.split_once(']') else {
                            return wrong("a bracket is not closed");
                        };
                        let Ok(index) = index.parse() else {
                            return wrong("in brackets stands a number, or a key in quotes");
                        };
                        (Part::Index(index), Some(left))
                    }
                };
                let Some(left) = left else { return wrong("a bracket is not closed") };
                parts.push(part);
                rest = left;
            } else {
                return wrong("keys follow a point, numbers stand in brackets");
            }
        }
        Ok(JsonPath(parts))
    }

    /// Returns what stands there; none where nothing does.
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, part| match part {
            Part::Key(key) => value.get(key),
            Part::Index(index) => {
                let items = value.as_array()?;
                let from_end = || items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?);
                items.get(usize::try_from(*index).ok().or_else(from_end)?)
            }
        })
    }
}

/// What shall stand at a JSON path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonWish {
    equals: Option<Value>,
    min: Option<f64>,
    max: Option<f64>,
    contains: Option<Value>,
    length: Option<u64>,
    exists: Option<bool>,
}

impl JsonWish {
    /// Reads a wish: a map says what holds, anything else is the value itself.
    ///
    /// # Errors
    /// When the map says something unknown, or with a value that cannot be.
    pub fn parse(value: &Value) -> Result<JsonWish, String> {
        let Value::Object(entries) = value else {
            return Ok(JsonWish { equals: Some(value.clone()), ..JsonWish::default() });
        };
        let mut wish = JsonWish::default();
        if entries.is_empty() {
            return Err("nothing is wished for".into());
        }
        for (key, value) in entries {
            let wrong = |what: &str| format!("`{key}` is {what}");
            match key.as_str() {
                "equals" => wish.equals = Some(value.clone()),
                "min" => wish.min = Some(value.as_f64().ok_or_else(|| wrong("a number"))?),
                "max" => wish.max = Some(value.as_f64().ok_or_else(|| wrong("a number"))?),
                "contains" => wish.contains = Some(value.clone()),
                "length" => wish.length = Some(value.as_u64().ok_or_else(|| wrong("a whole number"))?),
                "exists" => wish.exists = Some(value.as_bool().ok_or_else(|| wrong("true or false"))?),
                _ => return Err(format!("`{key}` says nothing of a value")),
            }
        }
        Ok(wish)
    }

    /// Compares with what stands there; the error says what is wrong, as a fragment: `is 3, expected 4`.
    pub fn holds(&self, found: Option<&Value>) -> Result<(), String> {
        let Some(found) = found else {
            return if self.exists == Some(false) { Ok(()) } else { Err("is not there".into()) };
        };
        if self.exists == Some(false) {
            return Err(format!("is {}, expected none", short(found)));
        }
        if let Some(equals) = &self.equals
            && !same(found, equals)
        {
            return Err(format!("is {}, expected {}", short(found), short(equals)));
        }
        for (limit, word, broken) in [
            (self.min, "at least", (|number, limit| number < limit) as fn(f64, f64) -> bool),
            (self.max, "at most", |number, limit| number > limit),
        ] {
            if let Some(limit) = limit
                && found.as_f64().is_none_or(|number| broken(number, limit))
            {
                return Err(format!("is {}, expected {word} {limit}", short(found)));
            }
        }
        if let Some(part) = &self.contains {
            let inside = match found {
                Value::String(text) => part.as_str().is_some_and(|part| text.contains(part)),
                Value::Array(items) => items.iter().any(|item| same(item, part)),
                Value::Object(entries) => part.as_str().is_some_and(|key| entries.contains_key(key)),
                _ => false,
            };
            if !inside {
                return Err(format!("is {}, which does not contain {}", short(found), short(part)));
            }
        }
        if let Some(wanted) = self.length {
            let length = match found {
                Value::String(text) => text.chars().count(),
                Value::Array(items) => items.len(),
                Value::Object(entries) => entries.len(),
                _ => return Err(format!("is {}, which has no length", short(found))),
            };
            if length as u64 != wanted {
                return Err(format!("has length {length}, expected {wanted}"));
            }
        }
        Ok(())
    }
}

/// `1` and `1.0` are the same number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(_), Value::Number(_)) => one == other || one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 {
        text
    } else {
        format!("{}…", text.chars().take(79).collect::<String>())
    }
}

/// Where a captured value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capture {
    /// The body, at a JSON path.
    Json(JsonPath),
    /// A header.
    Header(String),
}

impl Capture {
    /// Reads `$.id` or `header Location`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Capture, String> {
        match text.strip_prefix("header ").map(str::trim) {
            Some(name) if !name.is_empty() && !name.contains(char::is_whitespace) => {
                Ok(Capture::Header(name.into()))
            }
            Some(_) => Err(format!("`{text}` names no header")),
            None => JsonPath::parse(text).map(Capture::Json),
        }
    }
}

/// A text in pieces: what stands there, and the names of captured values.
fn pieces(text: &str) -> Vec<Result<&str, &str>> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("${") {
        // `$${` is a `${` of its own.
        if rest[..at].ends_with('$') {
            pieces.push(Ok(&rest[..at]));
            pieces.push(Ok("{"));
            rest = &rest[at + 2..];
            continue;
        }
        let Some((name, after)) = rest[at + 2..].split_once('}') else { break };
        pieces.push(Ok(&rest[..at]));
        pieces.push(Err(name));
        rest = after;
    }
    pieces.push(Ok(rest));
    pieces
}

/// Returns the names of the captured values that `text` uses.
pub(super) fn names(text: &str) -> Vec<&str> {
    pieces(text).into_iter().filter_map(Result::err).collect()
}

/// What was captured, by name.
pub type Captured = BTreeMap<String, Value>;

/// Puts captured values in their places.
///
/// # Errors
/// The name of one that is missing.
pub fn filled(text: &str, captured: &Captured) -> Result<String, String> {
    let piece = |piece: Result<&str, &str>| match piece {
        Ok(text) => Ok(text.to_string()),
        Err(name) => captured.get(name).map(plain).ok_or_else(|| name.to_string()),
    };
    pieces(text).into_iter().map(piece).collect()
}

/// Returns a captured value as it stands in a text.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// The same in the texts of a JSON value. A text that is nothing but one captured value becomes that value: a number that was
/// captured is compared, and sent, as a number.
///
/// # Errors
/// The name of one that is missing.
pub fn filled_json(value: &Value, captured: &Captured) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => match pieces(text).as_slice() {
            [Ok(""), Err(name), Ok("")] => captured.get(*name).cloned().ok_or_else(|| (*name).to_string())?,
            _ => Value::String(filled(text, captured)?),
        },
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| filled_json(item, captured)).collect::<Result<_, _>>()?)
        }
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, value)| Ok((key.clone(), filled_json(value, captured)?)))
                .collect::<Result<_, String>>()?,
        ),
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(path: &str) -> Option<Value> {
        let document = json!({"items": [{"id": 7, "first name": "ann"}, {"id": 8}], "a": {"b": null}});
        JsonPath::parse(path).unwrap().find(&document).cloned()
    }

    #[test]
    fn paths_lead_to_one_value_or_to_none() {
        assert_eq!(at("$.items[0].id"), Some(json!(7)));
        assert_eq!(at("$.items[-1].id"), Some(json!(8)));
        assert_eq!(at("$['items'][0][\"first name\"]"), Some(json!("ann")));
        assert_eq!(at("$.a.b"), Some(Value::Null));
        for nothing in ["$.items[2]", "$.items[-3]", "$.items.id", "$.a[0]", "$.c"] {
            assert_eq!(at(nothing), None, "{nothing}");
        }
        for wrong in ["items", "", "$.", "$.a..b", "$[", "$['a'", "$['a]", "$[x]", "$a", "$[1"] {
            assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
        }
    }

    fn holds(wish: Value, found: Value) -> Result<(), String> {
        JsonWish::parse(&wish).unwrap().holds(Some(&found))
    }

    #[test]
    fn a_wish_says_what_is_wrong() {
        assert_eq!(holds(json!(1), json!(1.0)), Ok(()));
        assert_eq!(holds(json!("shop"), json!("ship")), Err("is \"ship\", expected \"shop\"".into()));
        assert_eq!(holds(json!({"min": 1, "max": 3}), json!(2)), Ok(()));
        assert_eq!(holds(json!({"min": 3}), json!(2)), Err("is 2, expected at least 3".into()));
        assert_eq!(holds(json!({"max": 3}), json!("4")), Err("is \"4\", expected at most 3".into()));
        assert_eq!(holds(json!({"length": 2}), json!([1, 2])), Ok(()));
        assert_eq!(holds(json!({"length": 2}), json!("äöü")), Err("has length 3, expected 2".into()));
        assert_eq!(holds(json!({"contains": 2}), json!([1, 2])), Ok(()));
        assert_eq!(
            holds(json!({"contains": "x"}), json!("shop")),
            Err("is \"shop\", which does not contain \"x\"".into())
        );
        assert_eq!(holds(json!({"equals": {"a": 1}}), json!({"a": 1})), Ok(()));
        let gone = JsonWish::parse(&json!({"exists": false})).unwrap();
        assert_eq!(gone.holds(None), Ok(()));
        assert_eq!(gone.holds(Some(&json!(1))), Err("is 1, expected none".into()));
        assert_eq!(JsonWish::parse(&json!(1)).unwrap().holds(None), Err("is not there".into()));
        for wrong in [json!({}), json!({"mim": 1}), json!({"min": "a"}), json!({"length": -1})] {
            assert!(JsonWish::parse(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn captured_values_take_their_places() {
        let captured = Captured::from([("id".to_string(), json!(7)), ("of".to_string(), json!("7"))]);
        assert_eq!(filled("/items/${id}/x", &captured), Ok("/items/7/x".into()));
        assert_eq!(filled("$${id} costs $5", &captured), Ok("${id} costs $5".into()));
        assert_eq!(filled("${id", &captured), Ok("${id".into()));
        assert_eq!(filled("/${token}", &captured), Err("token".into()));
        let text = json!({"a": ["${id}", 1, "${of}", "no ${id}"]});
        assert_eq!(filled_json(&text, &captured), Ok(json!({"a": [7, 1, "7", "no 7"]})));
        assert_eq!(filled_json(&json!(["${token}"]), &captured), Err("token".into()));
        assert_eq!(names("/${a}/${b}/$${c}"), ["a", "b"]);
    }
}
