//! Smoke tests: requests and commands that try what users do, before anybody does.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Capture, JsonPath, JsonWish};
use super::checks::{StatusRange, Through};
use super::validate::Mistake;
use crate::units::Span;

/// One smoke test: exactly one of the methods (`get: /api/products`) or `run` (a command).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SmokeTest {
    /// What it is called in reports. Without it: what is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Sends GET for this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub get: Option<String>,
    /// Sends HEAD for this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// Sends POST to this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post: Option<String>,
    /// Sends PUT to this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put: Option<String>,
    /// Sends PATCH to this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// Sends DELETE for this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<String>,
    /// Runs this shell command in the release file's folder: `hurl`, `npm test`, `pytest`; it must exit 0. It finds
    /// `CUTOVER_URL`, `CUTOVER_REVISION`, `PORT` and what was captured in its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Headers of the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body of the request, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body of the request, as JSON; with `Content-Type: application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// What the answer must be.
    #[serde(default)]
    pub expect: SmokeExpect,
    /// What later tests need of the answer, by name: a JSON path (`$.id`), or `header Location`. Later tests say `${name}` in
    /// paths, headers, bodies and what they expect; commands find it in their environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capture: BTreeMap<String, String>,
    /// How the candidate is reached.
    #[serde(default)]
    pub through: Through,
    /// How long it may take. A request without it: 10s; a command: as long as the release may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

/// What the answer to a smoke test's request must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SmokeExpect {
    /// The status that passes, or a range of them.
    #[serde(default)]
    pub status: StatusRange,
    /// Texts that headers must contain, by the headers' names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A text that the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// What stands in the body at these JSON paths, such as `$.items[0].name`: the value itself, or `{min: 1}`, `{max: 9}`,
    /// `{contains: text}`, `{length: 3}`, `{exists: true}`, several of them at once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, Value>,
    /// The longest time from sending the request to the end of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// The longest that a request takes without a word of it.
pub const SMOKE_TIMEOUT: Span = Span::from_secs(10);

impl SmokeTest {
    /// Returns method and path; none of a command.
    pub fn request(&self) -> Option<(&'static str, &str)> {
        self.requests().into_iter().next()
    }

    fn requests(&self) -> Vec<(&'static str, &str)> {
        let methods = [
            ("GET", &self.get),
            ("HEAD", &self.head),
            ("POST", &self.post),
            ("PUT", &self.put),
            ("PATCH", &self.patch),
            ("DELETE", &self.delete),
        ];
        methods.into_iter().filter_map(|(method, path)| Some((method, path.as_deref()?))).collect()
    }

    /// Returns what it is called: its name, else what is asked.
    pub fn title(&self) -> String {
        match (&self.name, self.request(), &self.run) {
            (Some(name), ..) => name.clone(),
            (None, Some((method, path)), _) => format!("{method} {path}"),
            (None, None, Some(run)) => format!("run {run}"),
            (None, None, None) => "nothing".into(),
        }
    }

    /// Returns how long it may take; none: as long as the release.
    pub fn limit(&self) -> Option<Span> {
        self.timeout.or_else(|| self.request().map(|_| SMOKE_TIMEOUT))
    }

    /// Returns the texts in which `${name}` stands for what was captured.
    fn texts(&self) -> Vec<&str> {
        let SmokeTest { headers, body, json, expect, .. } = self;
        let mut texts: Vec<&str> = self.requests().into_iter().map(|(_, path)| path).collect();
        texts.extend(
            headers
                .values()
                .chain(body)
                .chain(expect.headers.values())
                .chain(&expect.body)
                .map(String::as_str),
        );
        let mut values: Vec<&Value> = json.iter().chain(expect.json.values()).collect();
        while let Some(value) = values.pop() {
            match value {
                Value::String(text) => texts.push(text),
                Value::Array(items) => values.extend(items),
                Value::Object(entries) => values.extend(entries.values()),
                _ => {}
            }
        }
        texts
    }
}

/// A captured value has no name that means something else to a command.
fn is_free(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins
        && name.chars().all(word)
        && !["PATH", "HOME", "PORT"].contains(&name)
        && !name.starts_with("CUTOVER_")
}

/// Finds what does not fit together in the smoke tests.
pub(super) fn mistakes(tests: &[SmokeTest]) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for (i, test) in tests.iter().enumerate() {
        let mut say = |key: &str, what: String, hint: &str| {
            found.push(Mistake { path: format!("checks.smoke[{i}]{key}"), what, hint: hint.into() });
        };
        let kinds = test.requests().len() + usize::from(test.run.is_some());
        if kinds != 1 {
            let what = "a smoke test is exactly one request or one `run`".into();
            say("", what, "such as `- get: /api/products`, or `- run: ./smoke.sh`");
        }
        if let Some((method, path)) = test.request()
            && (!path.starts_with(['/', '$']) || path.contains(char::is_whitespace))
        {
            let what = "the path must begin with / and have no spaces".into();
            say(&format!(".{}", method.to_lowercase()), what, "such as `get: /api/products`");
        }
        if test.run.as_deref().is_some_and(|run| run.trim().is_empty() || run.contains('\0')) {
            say(".run", "the command is empty, or has a NUL character".into(), "such as `run: ./smoke.sh`");
        }
        if test.run.is_some() {
            let of_requests = [
                (!test.headers.is_empty(), ".headers"),
                (test.body.is_some(), ".body"),
                (test.json.is_some(), ".json"),
                (test.expect != SmokeExpect::default(), ".expect"),
                (!test.capture.is_empty(), ".capture"),
            ];
            for (_, key) in of_requests.into_iter().filter(|(given, _)| *given) {
                let what = format!("a command has no `{}`", &key[1..]);
                say(key, what, "what it asks and expects it knows itself: exit 0 passes");
            }
        }
        if test.body.is_some() && test.json.is_some() {
            say(".json", "`body` and `json` are both the request's body".into(), "keep one of them");
        }
        if test.timeout == Some(Span::default()) {
            say(".timeout", "a test needs some time".into(), "such as `timeout: 10s`");
        }
        if test.expect.within == Some(Span::default()) {
            say(".expect.within", "no answer takes no time".into(), "such as `within: 500ms`");
        }
        for (path, wish) in &test.expect.json {
            let key = format!(".expect.json.{path}");
            if let Err(what) = JsonPath::parse(path) {
                say(&key, what, "such as `$.items[0].name`");
            } else if let Err(what) = JsonWish::parse(wish) {
                say(&key, what, "give the value itself, or `min`, `max`, `contains`, `length`, `exists`");
            }
        }
        for (name, source) in &test.capture {
            let key = format!(".capture.{name}");
            if !is_free(name) {
                let what = format!("`{name}` cannot be captured under that name");
                say(&key, what, "use letters, digits and _, and no name that commands know already");
            } else if let Err(what) = Capture::parse(source) {
                say(&key, what, "such as `$.items[0].id`, or `header Location`");
            }
        }
        let needed: BTreeSet<&str> = test.texts().into_iter().flat_map(super::answer::names).collect();
        for name in needed.into_iter().filter(|name| !known.contains(name)) {
            let what = format!("no test before this one captures `{name}`");
            say("", what, "capture it: `capture: {name: $.id}`; a $ itself before { is written $$");
        }
        known.extend(test.capture.keys().map(String::as_str));
    }
    found
}
