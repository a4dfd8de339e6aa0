//! Where a value stands in a JSON answer: `series[0].pointlist[-1][1]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Steps from the root of an answer to one value.
///
/// Keys are separated by dots; `["a.b"]` is a key that holds one; `[0]` is the first item of a list, `[-1]` the last. A
/// `$` at the beginning may stand for the root. There is no choice, so a path leads to one value or to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(i64),
}

impl JsonPath {
    /// Returns what stands there; none where the answer has no such key or item.
    pub fn find<'a>(&self, root: &'a Value) -> Option<&'a Value> {
        self.steps.iter().try_fold(root, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Item(index) => {
                let items = value.as_array()?;
                let back = usize::try_from(index.unsigned_abs()).ok()?;
                let at = if *index < 0 { items.len().checked_sub(back)? } else { back };
                items.get(at)
            }
        })
    }
}

/// A text that is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a path in JSON; write keys with dots between and items in brackets, such as `series[0].points[-1][1]`"
)]
pub struct JsonPathError(String);

impl FromStr for JsonPath {
    type Err = JsonPathError;

    fn from_str(text: &str) -> Result<Self, JsonPathError> {
        let error = || JsonPathError(text.chars().take(80).collect());
        let mut rest = text.trim();
        let mut steps = Vec::new();
        rest = rest.strip_prefix('$').unwrap_or(rest);
        // After the root a dot may come, before the first key it need not.
        let mut dot = rest.starts_with('.');
        if dot {
            rest = &rest[1..];
        }
        while !rest.is_empty() || dot {
            if let Some(inside) = rest.strip_prefix('[').filter(|_| !dot) {
                let quoted = inside.strip_prefix('"').and_then(|inside| inside.split_once("\"]"));
                if let Some((key, after)) = quoted {
                    steps.push(Step::Key(key.into()));
                    rest = after;
                } else {
                    let (number, after) = inside.split_once(']').ok_or_else(error)?;
                    steps.push(Step::Item(number.parse().map_err(|_| error())?));
                    rest = after;
                }
            } else if dot || steps.is_empty() {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let key = &rest[..end];
                if key.is_empty() || key.contains([']', '"', '*', '?', ' ']) {
                    return Err(error());
                }
                steps.push(Step::Key(key.into()));
                rest = &rest[end..];
            } else {
                return Err(error());
            }
            dot = rest.starts_with('.');
            if dot {
                rest = &rest[1..];
            }
        }
        Ok(JsonPath { text: text.trim().into(), steps })
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for JsonPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for JsonPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_leads_to_one_value_or_none() {
        let answer = json!({"series": [{"points": [[1, 2], [3, 4.5]]}], "a.b": {"c": 7}});
        let find = |path: &str| path.parse::<JsonPath>().unwrap().find(&answer).cloned();
        assert_eq!(find("series[0].points[-1][1]"), Some(json!(4.5)));
        assert_eq!(find("$.series[0].points[0][0]"), Some(json!(1)));
        assert_eq!(find("$[\"a.b\"].c"), Some(json!(7)));
        assert_eq!(find("$"), Some(answer.clone()));
        for missing in ["series[1]", "series[-2]", "series.points", "nothing.at.all", "series[0].points[9]"] {
            assert_eq!(find(missing), None, "{missing}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in ["a..b", "a.", "a[", "a[x]", "a[0", "a[0]b", "a.*", "..", "a.[0]", "a b"] {
            assert!(bad.parse::<JsonPath>().is_err(), "{bad}");
        }
    }
}
