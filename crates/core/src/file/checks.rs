//! What the candidate must pass before it takes traffic.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::live::LiveCheck;
use super::load::Load;
use super::smoke::SmokeTest;
use crate::units::Span;

/// The checks of a release, before traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Checks {
    /// What is asked of each instance until all pass. They only count together with the proof that the instance itself
    /// listens on its port. Without any: `[{tcp: true}]`.
    #[serde(default = "default_health")]
    pub health: Vec<Check>,
    /// What an instance is asked for as long as it takes traffic. One that fails is stopped and started again, one at a time
    /// of a revision. Without any only an instance that ended is. `health` says who may have traffic, `live` who must
    /// not go on as it is: never ask here for what lies outside of the instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub live: Vec<LiveCheck>,
    /// What the candidate is tried with once, on one of its instances, after all of them are healthy and before any of them
    /// takes traffic; in order, and all of them even if one fails. One that fails refuses the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub smoke: Vec<SmokeTest>,
    /// What the candidate must carry, one test after the other, before any of its instances takes traffic. The load goes to the
    /// instances that run then, with the route's host name. A test that is not held refuses the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load: Vec<Load>,
    /// How long an instance may take from its start until all checks pass; then the release is refused.
    #[serde(default = "default_within")]
    pub within: Span,
}

impl Default for Checks {
    fn default() -> Self {
        Checks {
            health: default_health(),
            live: Vec::new(),
            smoke: Vec::new(),
            load: Vec::new(),
            within: default_within(),
        }
    }
}

fn default_health() -> Vec<Check> {
    vec![Check { tcp: true, ..Check::default() }]
}

const fn default_within() -> Span {
    Span::from_secs(60)
}

/// One health check: exactly one of `path` (HTTP), `tcp: true`, `grpc` (a service's name) or `run` (a command).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Passes when an HTTP GET of this path is answered as `expect` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `true` passes when the instance accepts a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tcp: bool,
    /// Passes when the server says of this service, by gRPC's health protocol (`grpc.health.v1.Health/Check`, over HTTP/2 without
    /// TLS), that it is serving; `""` asks for the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// Passes when this shell command, run in the release file's folder, exits 0; it finds `PORT`, `CUTOVER_URL` and
    /// `CUTOVER_REVISION` in its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// How long one try may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// The pause between tries; the first tries of a starting instance come quicker.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// How many tries in a row must pass.
    #[serde(default = "default_successes")]
    pub successes: u32,
    /// What the answer to `path` must be.
    #[serde(default)]
    pub expect: Expect,
    /// How the instance is reached.
    #[serde(default)]
    pub through: Through,
}

/// How a check reaches the candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// At the instance's own address.
    #[default]
    Instance,
    /// By the route's address, with the header that pins the candidate: as users will, through the router.
    Route,
}

impl Default for Check {
    fn default() -> Self {
        Check {
            path: None,
            tcp: false,
            grpc: None,
            run: None,
            timeout: default_timeout(),
            interval: default_interval(),
            successes: default_successes(),
            expect: Expect::default(),
            through: Through::default(),
        }
    }
}

const fn default_timeout() -> Span {
    Span::from_secs(2)
}

const fn default_interval() -> Span {
    Span::from_secs(1)
}

const fn default_successes() -> u32 {
    1
}

impl Check {
    /// Returns what is asked, in few words: `GET /health`, `tcp`, `grpc shop.Catalog`, `run ./check.sh`.
    pub fn name(&self) -> String {
        let name = match (&self.path, &self.grpc, &self.run) {
            (Some(path), ..) => format!("GET {path}"),
            (None, Some(service), _) if service.is_empty() => "grpc".into(),
            (None, Some(service), _) => format!("grpc {service}"),
            (None, None, Some(run)) => format!("run {run}"),
            (None, None, None) => "tcp".into(),
        };
        match self.through {
            Through::Instance => name,
            Through::Route => format!("{name} through the route"),
        }
    }
}

/// What an HTTP check's answer must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The status that passes, or a range of them.
    #[serde(default)]
    pub status: StatusRange,
    /// A text that the first 64 KiB of the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// A range of HTTP statuses, both ends included: `200`, `200-399`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest status that passes.
    pub from: u16,
    /// The highest status that passes.
    pub to: u16,
}

impl Default for StatusRange {
    fn default() -> Self {
        StatusRange { from: 200, to: 399 }
    }
}

impl StatusRange {
    /// Tells whether `status` lies in the range.
    pub fn contains(self, status: u16) -> bool {
        (self.from..=self.to).contains(&status)
    }
}

impl std::fmt::Display for StatusRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.from == self.to { write!(f, "{}", self.from) } else { write!(f, "{}-{}", self.from, self.to) }
    }
}

impl std::str::FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let status = |s: &str| s.trim().parse::<u16>().ok().filter(|n| (100..=599).contains(n));
        match (status(from), status(to)) {
            (Some(from), Some(to)) if from <= to => Ok(StatusRange { from, to }),
            _ => Err(format!(
                "\"{text}\" is not an HTTP status: a number from 100 to 599, or a range such as 200-299"
            )),
        }
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for StatusRange {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "integer"],
            "description": "an HTTP status, or a range such as 200-299"
        })
    }
}
