//! The release file: its types, reading it with positions, and what must hold between its keys.
//!
//! The types are the reference: the JSON schema is generated from them, and so is what `check` says.

mod access;
mod access_log;
pub mod answer;
mod checks;
mod cloudwatch;
mod condition;
mod decode;
mod docker;
mod document;
mod error;
pub mod foreign;
mod guess;
mod hosts;
mod instances;
mod json_path;
mod limits;
mod live;
mod load;
mod metrics;
mod misfit;
mod overlay;
mod passing;
mod processes;
mod protocols;
mod read;
#[cfg(feature = "schema")]
mod reference;
mod routing;
#[cfg(feature = "schema")]
mod schema;
mod smoke;
mod source;
mod strategy;
mod syntax;
mod targets;
mod tls;
mod tree;
mod validate;
pub mod write;
mod yaml;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use access_log::{AccessLogFormat, RouteAccessLog};
pub use checks::{Check, Checks, Expect, StatusRange, Through};
pub use cloudwatch::{
    AWS_VARIABLES, CloudWatchCounters, CloudWatchMetric, CloudWatchPreset, CloudWatchQueries,
    CloudWatchSeries, end_of_arn,
};
pub use condition::{Condition, ConditionError};
pub use docker::{DOCKER_PORT, DockerBuild, DockerPlatform, DockerPull, DockerReach};
pub use document::{Checked, Document};
pub use error::{FileError, FileErrors};
pub use hosts::{Destination, HOST_STATE, Host, LostHost};
pub use json_path::{JsonPath, JsonPathError};
pub use limits::{RouteHeaders, RouteLimits, RoutePace, RoutePerClient, RouteQueue};
pub use live::LiveCheck;
pub use load::{Load, LoadAgainst, LoadRequire, LoadScenario};
pub use metrics::{
    CounterQueries, Counters, HttpMetric, Measure, Metric, OnOutage, Preset, PrometheusCounters,
    PrometheusMetric, Reduce, Selection,
};
pub use passing::network;
pub use processes::Process;
pub use protocols::TargetProtocol;
#[cfg(feature = "schema")]
pub use reference::release_file_reference;
pub use routing::{RouteSticky, StickyBy};
#[cfg(feature = "schema")]
pub use schema::release_file_schema;
pub use smoke::{SMOKE_TIMEOUT, SmokeExpect, SmokeTest};
pub use strategy::{BlueGreen, Canary, CanaryBake, Rolling, Strategy};
pub use targets::{RouteBalance, RouteChecks, RouteRetries};
pub use tls::{Redirect, RouteAcme, RouteTls};

use crate::ids::{ProcessName, ServiceName};
use crate::units::{Cores, Size, Span, Weight};

/// One service and how it is released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleaseFile {
    /// Its name: lower-case letters, digits and dashes, at most 40. Whatever has another name is another service.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub service: ServiceName,
    /// What the service runs on.
    pub platform: Platform,
    /// Where its requests come in; all routes lead to the same revisions.
    pub route: Vec<Route>,
    /// What runs beside the routed process, by name: workers, clocks. A release is one thing for all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<String, Process>"))]
    pub processes: BTreeMap<ProcessName, Process>,
    /// Your own tests, run one after the other in the release file's folder before anything moves: shell commands that must
    /// exit 0. One that fails refuses the release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gate: Vec<String>,
    /// What each instance of the candidate must pass before it takes traffic.
    #[serde(default)]
    pub checks: Checks,
    /// How traffic moves to the candidate; exactly one.
    #[serde(default)]
    pub strategy: Strategy,
    /// What the candidate's live traffic must hold while it bakes; broken, its traffic goes back at once.
    #[serde(default)]
    pub guard: Guard,
    /// Where a person must approve, by `cutover approve`; unanswered until the deadline, the release goes back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approve: Vec<ApprovalPoint>,
    /// How long the candidate is watched with all traffic, before it becomes stable. `0s`: not at all, and then only the
    /// proxy judges the guard, for as long as the release takes.
    #[serde(default = "defaults::bake")]
    pub bake: Span,
    /// How long the predecessor stays ready after the candidate became stable: until then `cutover rollback` is a change of
    /// weights.
    #[serde(default = "defaults::keep_warm")]
    pub keep_warm: Span,
    /// How long open requests may take before a drained instance is stopped; what is open then is cut, and counted.
    #[serde(default = "defaults::drain")]
    pub drain: Span,
    /// The longest a release may take until the candidate is stable, with its bakes, gates and approvals; then it goes back.
    #[serde(default = "defaults::deadline")]
    pub deadline: Span,
    /// The environment that was laid over the base. Set when the file is read, never written in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub environment: Option<String>,
}

/// What a service runs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// Processes on this machine.
    Local(LocalPlatform),
    /// Containers of a Docker engine.
    Docker(Box<DockerPlatform>),
}

impl Platform {
    /// Returns the name of its section in the release file.
    pub fn name(&self) -> &'static str {
        match self {
            Platform::Local(_) => "local",
            Platform::Docker(_) => "docker",
        }
    }

    /// Returns how many instances of a revision run when it takes all traffic, those of all hosts together.
    pub fn replicas(&self) -> u32 {
        match self {
            Platform::Local(local) => local.replicas,
            Platform::Docker(docker) => docker.replicas.saturating_mul(docker.each()),
        }
    }

    /// Returns how long an instance may take to stop before it is killed.
    pub fn stop_grace(&self) -> Span {
        match self {
            Platform::Local(local) => local.stop_grace,
            Platform::Docker(docker) => docker.stop_grace,
        }
    }

    /// Returns the names of the environment variables whose values are kept sealed: for instances, and for a build.
    pub fn secrets(&self) -> Vec<&str> {
        match self {
            Platform::Local(local) => local.secrets.iter().map(String::as_str).collect(),
            Platform::Docker(docker) => docker.all_secrets(),
        }
    }

    /// Makes it another number of instances; of several hosts each gets the same.
    pub fn set_replicas(&mut self, replicas: u32) {
        match self {
            Platform::Local(local) => local.replicas = replicas,
            Platform::Docker(docker) => docker.replicas = replicas.div_ceil(docker.each()),
        }
    }
}

/// Processes on this machine, behind cutover's own proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LocalPlatform {
    /// The program and its arguments, with no shell between. `$PORT` in an argument becomes the instance's port; the program
    /// also finds it in its environment, and must listen on `127.0.0.1:$PORT`.
    pub command: Vec<String>,
    /// A file or folder, relative to the release file, that is copied into the revision; the command runs where the copy is.
    /// Without it the command runs in the release file's folder, and a rollback finds there what is there by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// How many instances carry all traffic.
    #[serde(default = "defaults::replicas")]
    pub replicas: u32,
    /// Environment variables. Part of the revision: a change makes a new one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of environment variables whose values are taken from the environment of `cutover deploy` and kept sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The user that instances run as, where the server runs as root; without it the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The signal that asks an instance to stop.
    #[serde(default)]
    pub stop_signal: StopSignal,
    /// How long an instance may take to stop after that signal before it is killed.
    #[serde(default = "defaults::stop_grace")]
    pub stop_grace: Span,
    /// What one instance needs: looked for before the candidate starts beside stable. Also the most that it gets, swap
    /// included, where this machine lets cutover limit it: beyond it the kernel kills it. Without it nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// The most processor time that one instance gets; `0.5` is half a core. Without it as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cores>,
    /// The most processes and threads that one instance may have. Without it as many as there can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// The most that the log of one instance keeps on disk; the oldest lines go first.
    #[serde(default = "defaults::log_size")]
    pub log_size: Size,
}

/// The signal that asks an instance to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum StopSignal {
    #[default]
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
    Winch,
}

/// Where requests come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// cutover's own proxy.
    Proxy(ProxyRoute),
}

/// A listening address of cutover's own proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProxyRoute {
    /// The address and port, such as `127.0.0.1:8080` or `[::]:80`.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub listen: SocketAddr,
    /// The host name whose requests are this service's; without it all requests to that address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The beginning of the paths that are this service's, in whole segments: `/api` is for `/api` and `/api/v1`, not for
    /// `/apiary`. Of several services the longest wins. The instances see the whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Speaks HTTPS, with a certificate from files or from an authority; clients name the host before they see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouteTls>,
    /// `https` sends all requests to the route with `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Networks or addresses of load balancers, such as `10.0.0.0/8`, whose `Forwarded`, `X-Forwarded-*` and
    /// `X-Request-Id` are kept; what all others say is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust: Vec<String>,
    /// Tells the instances `Forwarded` (RFC 7239) beside `X-Forwarded-*`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forwarded: bool,
    /// Gives each request an `X-Request-Id`, and returns it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub request_id: bool,
    /// Connections to this address begin with a PROXY protocol header, of version 1 or 2; with `trust` only from there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
    /// Path prefixes of static files, such as `/assets/`. A file that one revision does not have is asked of the others
    /// while they run: pages of one revision ask for their files while requests go to another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assets: Vec<String>,
    /// What the instances speak; the same for all routes.
    #[serde(default, skip_serializing_if = "TargetProtocol::is_default")]
    pub target_protocol: TargetProtocol,
    /// What the proxy asks each target all the time; the same for all routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<RouteChecks>,
    /// How requests are spread over the targets of a revision; the same for all routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<RouteBalance>,
    /// How many requests may be sent twice; the same for all routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<RouteRetries>,
    /// How clients stay with their revision during a release; without it each request is spread by chance. The same for all
    /// routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<RouteSticky>,
    /// Networks or addresses whose clients see the candidate before anyone else, such as `10.0.0.0/8`: while there is one they
    /// are given to it, whatever its weight, and nothing they do is judged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<String>,
    /// The share of GET, HEAD and OPTIONS requests to stable that the candidate gets a copy of; the answers are compared and
    /// thrown away. The same for all routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Weight>,
    /// What the service takes at most; the same for all routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<RouteLimits>,
    /// What is logged of requests; the same for all routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<RouteAccessLog>,
}

/// What the candidate's live traffic must hold while it bakes; broken means rollback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The least share of requests without a server error: 5xx, a reset, a truncated body, no answer.
    #[serde(default = "defaults::success")]
    pub success: Weight,
    /// The largest mean of the times until an answer begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Span>,
    /// The time within which 95 % of answers must begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<Span>,
    /// How many requests must have been seen before the guard says anything.
    #[serde(default = "defaults::min_requests")]
    pub min_requests: u64,
    /// Whether the candidate is compared with stable, request by request, while both have traffic: worse means rollback.
    /// It needs no threshold, and failures that both share are nobody's fault. `false`: the thresholds decide alone.
    #[serde(default = "defaults::compare", skip_serializing_if = "is_true")]
    pub compare: bool,
    /// How long latency is left out of the comparison after new instances took their first requests.
    #[serde(default = "defaults::warm_up", skip_serializing_if = "is_default_warm_up")]
    pub warm_up: Span,
    /// What happens when a bake ends without enough evidence: fewer requests than `min_requests`, no proof for `bake:
    /// auto`, a metric that has no data. Without it the release holds with `bake: auto` or with `metrics`, and goes on
    /// otherwise: who fixed the time and asks for nothing else wants that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_inconclusive: Option<OnInconclusive>,
    /// Numbers of other systems that must hold while the candidate bakes: of Prometheus, of anything that answers JSON, of
    /// a command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// Where another router counts the requests of both revisions: the judge compares them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Box<Counters>>,
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_default_warm_up(warm_up: &Span) -> bool {
    *warm_up == defaults::warm_up()
}

impl Guard {
    /// Tells whether other systems are asked about the candidate.
    pub fn measures(&self) -> bool {
        !self.metrics.is_empty() || self.counters.is_some()
    }
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            success: defaults::success(),
            mean: None,
            p95: None,
            min_requests: defaults::min_requests(),
            compare: defaults::compare(),
            warm_up: defaults::warm_up(),
            on_inconclusive: None,
            metrics: Vec::new(),
            counters: None,
        }
    }
}

impl ReleaseFile {
    /// Returns the names of the environment variables that say who asks a store, where they are set: AWS' own, if it is
    /// asked.
    pub fn metric_variables(&self) -> &'static [&'static str] {
        let metric = self.guard.metrics.iter().any(|metric| metric.cloudwatch.is_some());
        let counters = self.guard.counters.iter().any(|counters| counters.cloudwatch.is_some());
        if metric || counters { &AWS_VARIABLES } else { &[] }
    }

    /// Returns the names of the environment variables that hold what metrics stores want to see; each once.
    pub fn metric_secrets(&self) -> Vec<&str> {
        let metrics = self.guard.metrics.iter().flat_map(Metric::secrets);
        let counters = self.guard.counters.iter().flat_map(|counters| counters.secrets());
        let mut names: Vec<&str> = metrics.chain(counters).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// What happens when a bake ends without enough evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// Wait for a person until the release's deadline, then go back.
    Hold,
    /// Go on; the report says that nothing was proven.
    Advance,
    /// Go back.
    Abort,
}

/// A point where a person must approve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ApprovalPoint {
    /// Before the candidate takes its first traffic.
    BeforeShift,
    /// Before the candidate becomes stable.
    BeforePromote,
}

impl ApprovalPoint {
    /// Returns the point's name as the release file writes it.
    pub fn name(self) -> &'static str {
        match self {
            ApprovalPoint::BeforeShift => "before_shift",
            ApprovalPoint::BeforePromote => "before_promote",
        }
    }
}

mod defaults {
    use super::{Size, Span, Weight};

    pub(super) const fn bake() -> Span {
        Span::from_secs(60)
    }
    pub(super) const fn keep_warm() -> Span {
        Span::from_secs(600)
    }
    pub(super) const fn drain() -> Span {
        Span::from_secs(30)
    }
    pub(super) const fn deadline() -> Span {
        Span::from_secs(7200)
    }
    pub(super) const fn replicas() -> u32 {
        1
    }
    pub(super) const fn stop_grace() -> Span {
        Span::from_secs(30)
    }
    pub(super) const fn log_size() -> Size {
        Size::from_bytes(64 << 20)
    }
    pub(super) const fn success() -> Weight {
        Weight::from_bp(9500)
    }
    pub(super) const fn min_requests() -> u64 {
        20
    }
    pub(super) const fn compare() -> bool {
        true
    }
    pub(super) const fn warm_up() -> Span {
        Span::from_secs(5)
    }
}
