//! Conditions on one measured number: `result[0] >= 0.95 && result[0] <= 1`.
//!
//! The grammar, and nothing beyond it:
//!
//! ```text
//! condition  = all { "||" all }
//! all        = one { "&&" one }
//! one        = "!" one | "(" condition ")" | operand compare operand
//! operand    = "result" | "result[0]" | NUMBER
//! compare    = "<" | "<=" | ">" | ">=" | "==" | "!="
//! ```
//!
//! There is one number: a query that answers with several is refused when it is asked. Functions, arithmetic and other
//! indices of Argo's expressions are not there; what is more than a comparison belongs into the query.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More brackets within each other are a mistake.
const DEEPEST: usize = 16;

/// A condition on one measured number.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Compare(Operand, Compare, Operand),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operand {
    Result,
    Number(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Unequal,
}

impl Condition {
    /// Tells whether it holds for a finite number. What is no number must not be asked: it is no data.
    pub fn holds(&self, result: f64) -> bool {
        self.root.holds(result)
    }
}

impl Node {
    fn holds(&self, result: f64) -> bool {
        match self {
            Node::Any(nodes) => nodes.iter().any(|node| node.holds(result)),
            Node::All(nodes) => nodes.iter().all(|node| node.holds(result)),
            Node::Not(node) => !node.holds(result),
            Node::Compare(left, compare, right) => {
                let of = |operand: &Operand| match operand {
                    Operand::Result => result,
                    Operand::Number(number) => *number,
                };
                let (left, right) = (of(left), of(right));
                match compare {
                    Compare::Less => left < right,
                    Compare::AtMost => left <= right,
                    Compare::More => left > right,
                    Compare::AtLeast => left >= right,
                    Compare::Equal => left == right,
                    Compare::Unequal => left != right,
                }
            }
        }
    }
}

/// A text that is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a condition: {why}; write a comparison such as `result >= 0.95`")]
pub struct ConditionError {
    text: String,
    why: String,
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let error = |why| ConditionError { text: text.chars().take(80).collect(), why };
        let mut reader = Reader { rest: text.trim() };
        let root = reader.any(0).map_err(error)?;
        if !reader.rest.is_empty() {
            return Err(error(format!("\"{}\" is left over", reader.shown())));
        }
        Ok(Condition { text: text.trim().into(), root })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, word: &str) -> bool {
        let taken = self.rest.strip_prefix(word);
        if let Some(rest) = taken {
            self.rest = rest.trim_start();
        }
        taken.is_some()
    }

    fn shown(&self) -> String {
        self.rest.chars().take(20).collect()
    }

    fn any(&mut self, depth: usize) -> Result<Node, String> {
        let mut nodes = vec![self.all(depth)?];
        while self.take("||") {
            nodes.push(self.all(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self, depth: usize) -> Result<Node, String> {
        let mut nodes = vec![self.one(depth)?];
        while self.take("&&") {
            nodes.push(self.one(depth)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn one(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEEPEST {
            return Err(format!("it has more than {DEEPEST} brackets within each other"));
        }
        if !self.rest.starts_with("!=") && self.take("!") {
            return Ok(Node::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let node = self.any(depth + 1)?;
            return if self.take(")") { Ok(node) } else { Err("a bracket is not closed".into()) };
        }
        let left = self.operand()?;
        let signs = [
            ("<=", Compare::AtMost),
            (">=", Compare::AtLeast),
            ("==", Compare::Equal),
            ("!=", Compare::Unequal),
            ("<", Compare::Less),
            (">", Compare::More),
        ];
        let found = signs.iter().find(|(sign, _)| self.take(sign));
        let (_, compare) = found.ok_or_else(|| {
            format!("one of < <= > >= == != is expected where it says \"{}\"", self.shown())
        })?;
        let right = self.operand()?;
        if left != Operand::Result && right != Operand::Result {
            return Err("it compares without `result`".into());
        }
        Ok(Node::Compare(left, *compare, right))
    }

    fn operand(&mut self) -> Result<Operand, String> {
        if self.take("result") {
            if !self.rest.starts_with('[') || self.take("[0]") {
                return Ok(Operand::Result);
            }
            return Err("there is one number: `result`, which may be written `result[0]`".into());
        }
        let number = |letter: char| letter.is_ascii_digit() || ".eE+-".contains(letter);
        let end = self.rest.find(|letter| !number(letter)).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        match digits.parse::<f64>() {
            Ok(number) if number.is_finite() => {
                self.rest = rest.trim_start();
                Ok(Operand::Number(number))
            }
            _ if self.rest.is_empty() => Err("something is missing at its end".into()),
            _ => Err(format!("`result` or a number is expected where it says \"{}\"", self.shown())),
        }
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str, result: f64) -> bool {
        condition.parse::<Condition>().unwrap().holds(result)
    }

    #[test]
    fn comparisons_and_their_connections_mean_what_they_say() {
        assert!(holds("result[0] >= 0.95", 0.95) && !holds("result[0] >= 0.95", 0.949));
        assert!(holds("0.5<result", 0.6) && !holds("0.5<result", 0.5));
        assert!(holds("result != -1e3", 1.0) && !holds("result != -1e3", -1000.0));
        // && binds closer than ||.
        assert!(holds("result == 1 || result > 2 && result < 3", 1.0));
        assert!(!holds("(result == 1 || result > 2) && result < 1", 1.0));
        assert!(holds("!(result < 1) && !result > 5", 2.0));
    }

    #[test]
    fn what_is_outside_of_the_grammar_says_why() {
        for (text, why) in [
            ("", "something is missing at its end"),
            ("result", "one of < <= > >= == != is expected"),
            ("result[1] > 0", "there is one number"),
            ("len(result) > 0", "`result` or a number is expected"),
            ("result > NaN", "`result` or a number is expected"),
            ("1 < 2", "it compares without `result`"),
            ("(result > 1", "a bracket is not closed"),
            ("result > 1 and result < 2", "is left over"),
            (&"(".repeat(40), "more than 16 brackets"),
            (&"!".repeat(40), "more than 16 brackets"),
        ] {
            let error = text.parse::<Condition>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        let condition: Condition = " result[0]  >= 1 ".parse().unwrap();
        assert_eq!(condition.to_string(), "result[0]  >= 1");
    }
}
