//! The reference of the release file for people: every key of the types as Markdown.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::ReleaseFile;

const HEAD: &str = "\
# Every key of the release file

<!-- Printed by `cutover schema --markdown` from the types in crates/core/src/file; a test keeps it equal to them. -->

[release-file.md](release-file.md) tells how keys work together, [strategies.md](strategies.md) which strategy does what.
Keys that are not listed here are errors. `environments` is described in [release-file.md](release-file.md#environments).
";
/// Longer defaults are those of the keys within, which their own table shows.
const LONGEST_DEFAULT: usize = 40;

/// Returns the reference of the release file: one table of keys for each of its sections.
pub fn release_file_reference() -> String {
    let root = schemars::schema_for!(ReleaseFile).to_value();
    let nothing = Map::new();
    let mut page = Page { defs: root["$defs"].as_object().unwrap_or(&nothing), text: HEAD.into() };
    page.kinds();
    page.section("", &root);
    page.text
}

/// What kinds of values are called in tables, by the type that they are read into.
const KINDS: [(&str, &str); 5] =
    [("Span", "time"), ("Weight", "share"), ("Size", "size"), ("Cores", "cores"), ("StatusRange", "status")];

struct Page<'a> {
    defs: &'a Map<String, Value>,
    text: String,
}

impl<'a> Page<'a> {
    fn kinds(&mut self) {
        self.line("\n| value | written as |\n| --- | --- |");
        for (name, kind) in KINDS {
            let said = self.defs.get(name).map(description).unwrap_or_default();
            self.line(&format!("| {kind} | {said} |"));
        }
    }

    fn line(&mut self, text: &str) {
        writeln!(self.text, "{text}").expect("a text takes every line");
    }

    /// Writes the table of what has keys, then the sections of what its keys hold.
    fn section(&mut self, path: &str, schema: &'a Value) {
        let title = if path.is_empty() { "The file".to_string() } else { format!("`{path}`") };
        self.line(&format!("\n## {title}\n\n{}", description(schema)));
        let keys = keys_of(schema);
        if keys.is_empty() {
            self.line("\nIt has no keys: `{}`.");
        } else {
            self.line("\n| key | value | default | meaning |\n| --- | --- | --- | --- |");
        }
        let mut below = Vec::new();
        for (key, value, required) in keys {
            let within = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
            let kind = self.kind(value, &within, &mut below);
            let default = default(value, required);
            let meaning = format!("{}{}", description(value), self.words(value));
            self.line(&format!("| `{key}` | {kind} | {default} | {meaning} |"));
        }
        for (path, schema) in below {
            self.section(&path, schema);
        }
    }

    /// Returns what a value is called; what has keys of its own is added to `below`.
    fn kind(&self, schema: &'a Value, path: &str, below: &mut Vec<(String, &'a Value)>) -> String {
        let (name, schema) = self.resolve(schema);
        if let Some((_, kind)) = KINDS.iter().find(|(known, _)| Some(*known) == name) {
            return (*kind).into();
        }
        if schema["properties"].is_object() || schema["additionalProperties"] == false {
            below.push((path.into(), schema));
            return format!("[keys](#{})", anchor(path));
        }
        let mut words: Vec<String> = schema["enum"].as_array().into_iter().flatten().map(code).collect();
        for choice in choices(schema) {
            words.push(match keys_of(choice).first() {
                Some((key, value, _)) => {
                    let path = format!("{path}.{key}");
                    let link = format!("[`{key}`](#{})", anchor(&path));
                    below.push((path, self.resolve(value).1));
                    link
                }
                None => code(&choice["const"]),
            });
        }
        if !words.is_empty() {
            return words.join(", ");
        }
        match schema["type"].as_str().or_else(|| schema["type"][0].as_str()) {
            Some("array") => format!("list of {}", self.kind(&schema["items"], path, below)),
            Some("object") if schema["additionalProperties"] == true => "names with values".into(),
            Some("object") => "names with texts".into(),
            Some("string") => "text".into(),
            Some("boolean") => "`true`, `false`".into(),
            Some("integer") => "number".into(),
            _ => "any value".into(),
        }
    }

    /// Follows a reference, and a choice between something and null.
    fn resolve(&self, schema: &'a Value) -> (Option<&'a str>, &'a Value) {
        let some = schema["anyOf"].as_array().and_then(|any| any.iter().find(|one| one["type"] != "null"));
        let schema = some.unwrap_or(schema);
        let name = schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/"));
        (name, name.and_then(|name| self.defs.get(name)).unwrap_or(schema))
    }

    /// Says what each word means that a value may be.
    fn words(&self, schema: &'a Value) -> String {
        let item = if schema["items"].is_object() { &schema["items"] } else { schema };
        let words = choices(self.resolve(item).1).iter().filter(|choice| choice["const"].is_string());
        words.map(|word| format!(" {}: {}", code(&word["const"]), description(word))).collect()
    }
}

/// Returns the keys of a schema, the required ones first: name, what it holds, whether it must be there.
fn keys_of(schema: &Value) -> Vec<(&str, &Value, bool)> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let keys = schema["properties"].as_object().into_iter().flatten();
    let mut keys: Vec<(&str, &Value, bool)> =
        keys.map(|(key, value)| (key.as_str(), value, required.contains(&key.as_str()))).collect();
    keys.sort_by_key(|(key, _, must)| (!must, required.iter().position(|one| one == key)));
    keys
}

fn choices(schema: &Value) -> &[Value] {
    schema["oneOf"].as_array().map_or(&[], Vec::as_slice)
}

fn code(word: &Value) -> String {
    format!("`{}`", word.as_str().unwrap_or_default())
}

fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn default(schema: &Value, required: bool) -> String {
    match &schema["default"] {
        _ if required => "required".into(),
        Value::Null => "none".into(),
        value => match flow(value) {
            text if text.len() <= LONGEST_DEFAULT => format!("`{text}`"),
            _ => "as its keys say".into(),
        },
    }
}

/// Writes a value as a release file would in one line.
fn flow(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", list(items.iter().map(flow).collect())),
        Value::Object(keys) => {
            format!(
                "{{{}}}",
                list(keys.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect())
            )
        }
        other => other.to_string(),
    }
}

/// Returns the name by which Markdown's readers link to a heading.
fn anchor(path: &str) -> String {
    path.chars().filter(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}
