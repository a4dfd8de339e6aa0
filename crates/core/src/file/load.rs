//! Load tests: what the candidate must carry before users depend on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checks::StatusRange;
use super::protocols::TargetProtocol;
use super::tree::short;
use super::validate::Mistake;
use crate::units::{Rate, Span, Weight};

const MOST_AT_ONCE: u32 = 1_000;
const MOST_SCENARIOS: usize = 50;
const LONGEST: Span = Span::from_secs(3600);
/// They belong to the connection, or follow from the body.
const RESERVED: [&str; 6] =
    ["connection", "content-length", "keep-alive", "transfer-encoding", "upgrade", "te"];

/// One load test: `path` or `scenarios`, either with `rate` (requests at a constant rate) or with `concurrency` (clients that
/// wait for their answers).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The path that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The method of the request to `path`.
    #[serde(default = "default_method")]
    pub method: String,
    /// Headers of the request to `path`. `Host` is the route's unless it stands here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body of the request to `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The status that succeeds, or a range of them.
    #[serde(default)]
    pub status: StatusRange,
    /// Several kinds of requests instead of one `path`, mixed by their weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scenarios: Vec<LoadScenario>,
    /// So many requests a second, whatever comes of them, such as `200/s`; never more. Latency counts from when a request is
    /// due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The most requests of a `rate` that may be open at once; one that is due when as many are open fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<u32>,
    /// So many clients, each of which sends its next request when the last one is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// All clients send one request, wait until all are answered, and pause for so long. Without it nobody pauses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Span>,
    /// For how long requests are sent.
    #[serde(rename = "for", default = "default_for")]
    pub span: Span,
    /// A request that is not answered whole within this time failed.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// Who gets the load.
    #[serde(default)]
    pub against: LoadAgainst,
    /// What the instances are asked in; without it, what the proxy speaks to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<TargetProtocol>,
    /// What the candidate must hold.
    #[serde(default)]
    pub require: LoadRequire,
}

/// One kind of request of a load test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LoadScenario {
    /// What the report calls it; without it, method and path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The path that is asked for.
    pub path: String,
    /// The method.
    #[serde(default = "default_method")]
    pub method: String,
    /// Headers. `Host` is the route's unless it stands here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The status that succeeds, or a range of them.
    #[serde(default)]
    pub status: StatusRange,
    /// Its share of the requests, in parts of the sum of all weights.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

/// Who gets the load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LoadAgainst {
    /// The candidate alone.
    #[default]
    Candidate,
    /// The candidate and stable, at the same time, each request to both; the candidate also fails when it is proven worse than
    /// stable. Stable serves users meanwhile.
    Both,
}

/// What the candidate must hold under load, over all requests of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LoadRequire {
    /// The least share of requests that succeed.
    #[serde(default = "default_success")]
    pub success: Weight,
    /// The largest mean latency. Latency is until the answer is whole.
    #[serde(default = "default_mean")]
    pub mean: Span,
    /// The largest median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<Span>,
    /// The time within which 95 % of requests are answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<Span>,
    /// The time within which 99 % of requests are answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<Span>,
    /// How many requests there must have been. Without it: a tenth of a request per client and second, or half of what is
    /// due at a `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

impl Default for LoadRequire {
    fn default() -> Self {
        let (success, mean) = (default_success(), default_mean());
        LoadRequire { success, mean, p50: None, p95: None, p99: None, requests: None }
    }
}

fn default_method() -> String {
    "GET".into()
}

const fn default_for() -> Span {
    Span::from_secs(30)
}

const fn default_timeout() -> Span {
    Span::from_secs(10)
}

const fn default_weight() -> u32 {
    1
}

const fn default_success() -> Weight {
    Weight::from_bp(9500)
}

const fn default_mean() -> Span {
    Span::from_secs(2)
}

impl Load {
    /// Returns what is sent: the scenarios, or the one that `path` is.
    pub fn requests(&self) -> Vec<LoadScenario> {
        let alone = self.path.as_ref().map(|path| LoadScenario {
            name: None,
            path: path.clone(),
            method: self.method.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
            status: self.status,
            weight: 1,
        });
        alone.into_iter().chain(self.scenarios.iter().cloned()).collect()
    }

    /// Returns what is done, in few words: `GET /api/products, 20 clients for 30s`.
    pub fn name(&self) -> String {
        let requests = self.requests();
        let what = match &requests[..] {
            [one] => one.name(),
            several => format!("{} scenarios", several.len()),
        };
        let pace = match (self.rate, self.concurrency) {
            (Some(rate), _) => format!("{rate}"),
            (None, Some(1)) => "1 client".into(),
            (None, clients) => format!("{} clients", clients.unwrap_or(0)),
        };
        let beside = if self.against == LoadAgainst::Both { ", stable beside" } else { "" };
        format!("{what}, {pace} for {}{beside}", self.span)
    }
}

impl LoadScenario {
    /// Returns its name, or method and path.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("{} {}", self.method, self.path))
    }
}

pub(super) fn mistakes(tests: &[Load]) -> Vec<Mistake> {
    tests.iter().enumerate().flat_map(|(i, test)| test_mistakes(&format!("checks.load[{i}]"), test)).collect()
}

fn test_mistakes(place: &str, test: &Load) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: &str, what: String, hint: &str| {
        found.push(Mistake { path: format!("{place}{key}"), what, hint: hint.into() });
    };
    if test.path.is_some() != test.scenarios.is_empty() {
        say(
            "",
            "a load test has either a `path` or `scenarios`".into(),
            "such as `path: /api/products`, or `scenarios: [{path: /, weight: 9}, {path: /cart}]`",
        );
    }
    let of_path = [
        (".method", test.method != default_method()),
        (".headers", !test.headers.is_empty()),
        (".body", test.body.is_some()),
        (".status", test.status != StatusRange::default()),
    ];
    for (key, _) in of_path.into_iter().filter(|(_, said)| *said && !test.scenarios.is_empty()) {
        say(
            key,
            "this is about `path`, and there is none beside `scenarios`".into(),
            "say it of each scenario",
        );
    }
    if test.scenarios.len() > MOST_SCENARIOS {
        let what = format!("{} scenarios are too many", test.scenarios.len());
        say(".scenarios", what, "give at most 50, or several load tests");
    }
    if test.rate.is_some() == test.concurrency.is_some() {
        say(
            "",
            "a load test has either a `rate` or a `concurrency`".into(),
            "such as `rate: 200/s` for requests that are due, or `concurrency: 20` for clients that wait",
        );
    }
    if test.concurrency.is_some_and(|clients| clients == 0 || clients > MOST_AT_ONCE) {
        let what = format!("{} clients are not possible", test.concurrency.unwrap_or(0));
        say(".concurrency", what, "give 1 to 1000");
    }
    if test.open.is_some_and(|open| open == 0 || open > MOST_AT_ONCE) {
        let what = format!("{} open requests are not possible", test.open.unwrap_or(0));
        say(".open", what, "give 1 to 1000");
    }
    if test.open.is_some() && test.rate.is_none() {
        say(
            ".open",
            "only a `rate` has requests that nobody waits for".into(),
            "remove it; see `concurrency`",
        );
    }
    if test.pause.is_some() && test.concurrency.is_none() {
        say(".pause", "only clients pause, a `rate` does not".into(), "remove it, or give `concurrency`");
    }
    if test.span == Span::default() || test.span > LONGEST {
        say(
            ".for",
            format!("a load test of {} is not possible", test.span),
            "give 1s to 1h, such as `for: 30s`",
        );
    }
    if test.timeout == Span::default() || test.timeout > LONGEST {
        say(".timeout", "an answer needs some time, and not for ever".into(), "such as `timeout: 10s`");
    }
    if test.require.success == Weight::ZERO {
        say(
            ".require.success",
            "a success of 0% requires nothing".into(),
            "give the least share, such as 99%",
        );
    }
    for (key, limit) in [
        (".require.mean", Some(test.require.mean)),
        (".require.p50", test.require.p50),
        (".require.p95", test.require.p95),
        (".require.p99", test.require.p99),
    ] {
        if limit == Some(Span::default()) {
            say(key, "nothing is answered in no time".into(), "give what you can accept, such as 500ms");
        }
    }
    if test.path.is_some() {
        for request in test.requests().iter().take(1) {
            found.extend(request_mistakes(place, request));
        }
    }
    for (i, scenario) in test.scenarios.iter().enumerate() {
        found.extend(request_mistakes(&format!("{place}.scenarios[{i}]"), scenario));
    }
    found
}

fn request_mistakes(place: &str, request: &LoadScenario) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: &str, what: String, hint: &str| {
        found.push(Mistake { path: format!("{place}{key}"), what, hint: hint.into() });
    };
    let path = &request.path;
    if !path.starts_with('/')
        || !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"#<>\\^`{|}\"".contains(&byte))
    {
        // An address would be another target than the candidate.
        say(
            ".path",
            format!("`{}` is not the path of a request", short(path)),
            "begin it with / and percent-encode what is not ASCII, such as `path: /api/products?page=2`",
        );
    }
    if !is_token(&request.method) || request.method.chars().any(|c| c.is_ascii_lowercase()) {
        let what = format!("`{}` is not a method of HTTP", short(&request.method));
        say(".method", what, "such as `method: POST`");
    } else if request.method == "CONNECT" {
        say(".method", "CONNECT opens a tunnel, and asks for nothing".into(), "such as `method: POST`");
    }
    for (name, value) in &request.headers {
        let key = format!(".headers.{name}");
        if !is_token(name) {
            say(&key, format!("`{}` is not the name of a header", short(name)), "such as `Content-Type`");
        } else if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            let what = format!("`{name}` is about the connection, or follows from the body");
            say(&key, what, "remove it");
        }
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            say(&key, "a header has one line".into(), "remove what is not visible");
        }
    }
    if request.weight == 0 || request.weight > 1_000_000 {
        say(".weight", format!("a weight of {} is not possible", request.weight), "give 1 to 1000000");
    }
    found
}

/// Tells whether a method or a header can be called this (RFC 9110, 5.6.2).
fn is_token(name: &str) -> bool {
    let mark = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_says_what_it_does() {
        let test = |text: &str| serde_json::from_str::<Load>(text).unwrap().name();
        assert_eq!(
            test(r#"{"path": "/api/products", "concurrency": 20}"#),
            "GET /api/products, 20 clients for 30s"
        );
        assert_eq!(
            test(
                r#"{"scenarios": [{"path": "/"}, {"path": "/cart", "method": "POST"}], "rate": "200/s", "against": "both"}"#
            ),
            "2 scenarios, 200/s for 30s, stable beside"
        );
    }
}
