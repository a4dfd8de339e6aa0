//! What the tests ask, and who asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use cutover_aws::AwsSources;
use cutover_core::file::{Counters, Metric};
use cutover_sources::{AskError, AskErrorKind, Found, Names, OwnSources, Reading, Setting, Source, Sources};
use serde_json::{Value, json};

use super::server::Server;

/// A minute, and a moment on which one begins.
pub(crate) const MINUTE: u64 = 60_000;
pub(crate) const NOON: u64 = 1_800_000_000_000;

/// The release began one minute before noon, its bake at noon.
pub(crate) fn setting(server: &Server) -> Setting {
    let wall = server.clone();
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKIDTEST"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_REGION", "eu-central-1"),
    ];
    Setting {
        names: Names { service: "shop".into(), revision: "r-2".into(), stable_revision: "r-1".into() },
        folder: "/".into(),
        opened_ms: NOON - MINUTE,
        since_ms: NOON,
        secrets: keys.map(|(name, value)| (name.to_string(), value.to_string())).into(),
        roots: None,
        wall: Arc::new(move || wall.now_ms()),
    }
}

/// A metric that asks the server.
pub(crate) fn metric(server: &Server, mut keys: Value) -> Metric {
    keys["endpoint"] = json!(server.url());
    serde_json::from_value(json!({"name": "errors", "cloudwatch": keys})).unwrap()
}

pub(crate) fn source(server: &Server, keys: Value) -> Box<dyn Source> {
    AwsSources::beside(OwnSources).metric(&metric(server, keys), &setting(server)).unwrap()
}

pub(crate) fn counters(server: &Server, mut keys: Value) -> Box<dyn Source> {
    keys["endpoint"] = json!(server.url());
    let counters: Counters = serde_json::from_value(json!({"cloudwatch": keys})).unwrap();
    AwsSources::beside(OwnSources).counters(&counters, &setting(server)).unwrap()
}

/// The number, and how old it is.
pub(crate) fn value(answer: Result<Reading, AskError>) -> (f64, Option<u64>) {
    match answer.unwrap() {
        Reading { found: Found::Value(value), lag_ms, .. } => (value, lag_ms),
        other => panic!("{other:?}"),
    }
}

/// Whose fault it is, and its words.
pub(crate) fn error(answer: Result<Reading, AskError>) -> (AskErrorKind, String) {
    let error = answer.unwrap_err();
    (error.kind, error.what)
}

/// What was counted of stable and candidate.
pub(crate) fn counted(answer: Result<Reading, AskError>) -> [(u64, u64); 2] {
    match answer.unwrap().found {
        Found::Counters(arms) => arms.map(|arm: BTreeMap<_, _>| {
            arm.values()
                .fold((0, 0), |(requests, errors), arm| (requests + arm.requests, errors + arm.errors))
        }),
        other => panic!("{other:?}"),
    }
}
