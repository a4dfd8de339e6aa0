//! Liveness: what an instance must answer to go on living.

use serde::{Deserialize, Serialize};

use super::checks::{Check, Expect};
use super::validate::Mistake;
use crate::units::Span;

/// One liveness check: exactly one of `path` (HTTP), `tcp: true` or `grpc` (a service's name).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LiveCheck {
    /// Passes when an HTTP GET of this path is answered as `expect` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `true` passes when the instance accepts a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tcp: bool,
    /// Passes when the server says of this service, by gRPC's health protocol, that it is serving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// How long an answer may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// The pause between two checks of an instance.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// How many in a row must fail until the instance is started again.
    #[serde(default = "default_fall")]
    pub fall: u32,
    /// What the answer to `path` must be.
    #[serde(default)]
    pub expect: Expect,
}

const fn default_timeout() -> Span {
    Span::from_secs(2)
}

const fn default_interval() -> Span {
    Span::from_secs(10)
}

const fn default_fall() -> u32 {
    3
}

impl LiveCheck {
    /// Returns the question as a health check asks it, once.
    pub fn question(&self) -> Check {
        let LiveCheck { path, tcp, grpc, timeout, expect, .. } = self.clone();
        Check { path, tcp, grpc, timeout, expect, interval: timeout, ..Check::default() }
    }
}

pub(super) fn mistakes(checks: &[LiveCheck]) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (i, check) in checks.iter().enumerate() {
        let mut say = |key: &str, what: String, hint: &str| {
            found.push(Mistake { path: format!("checks.live[{i}]{key}"), what, hint: hint.into() });
        };
        let kinds = [check.path.is_some(), check.tcp, check.grpc.is_some()];
        if kinds.into_iter().filter(|kind| *kind).count() != 1 {
            let what = "a liveness check is exactly one of `path`, `tcp: true` and `grpc`".into();
            say("", what, "such as `- path: /live`");
        }
        let wrong = |path: &str| !path.starts_with('/') || path.contains(char::is_whitespace);
        if check.path.as_deref().is_some_and(wrong) {
            say(".path", "the path must begin with / and have no spaces".into(), "such as `path: /live`");
        }
        if check.timeout == Span::default() || check.interval < Span::from_secs(1) {
            let what = "timeout needs some time, and interval at least 1s".into();
            say("", what, "such as `timeout: 2s, interval: 10s`");
        }
        if check.fall == 0 || check.fall > 1000 {
            say(".fall", format!("{} failures are not possible", check.fall), "give 1 to 1000");
        }
    }
    found
}
