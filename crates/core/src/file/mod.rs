//! The release file: its types, reading it with positions, and what must hold between its keys.
//!
//! The types are the reference: the JSON schema is generated from them, and so is what `check` says.

mod access;
mod checks;
mod decode;
mod document;
mod error;
mod guess;
mod misfit;
mod overlay;
mod processes;
mod read;
#[cfg(feature = "schema")]
mod schema;
mod source;
mod strategy;
mod syntax;
mod tree;
mod validate;
mod yaml;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use checks::{Check, Checks, Expect, StatusRange};
pub use document::{Checked, Document};
pub use error::{FileError, FileErrors};
pub use processes::Process;
#[cfg(feature = "schema")]
pub use schema::release_file_schema;
pub use strategy::{BlueGreen, Canary, Rolling, Strategy};

use crate::ids::{ProcessName, ServiceName};
use crate::units::{Cores, Size, Span, Weight};

/// One service and how it is released.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleaseFile {
    /// The name of the service: letters, digits and dashes, at most 40.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub service: ServiceName,
    /// What the service runs on.
    pub platform: Platform,
    /// Where its requests come in.
    pub route: Vec<Route>,
    /// What runs beside the routed process, by name: workers, clocks. A release is one thing for all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<String, Process>"))]
    pub processes: BTreeMap<ProcessName, Process>,
    /// The user's own tests, run one after the other before anything moves: shell commands that must exit 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gate: Vec<String>,
    /// What the candidate must pass before it takes traffic.
    #[serde(default)]
    pub checks: Checks,
    /// How traffic moves to the candidate; `blue_green: {}` by default.
    #[serde(default)]
    pub strategy: Strategy,
    /// What the candidate's live traffic must hold while it bakes.
    #[serde(default)]
    pub guard: Guard,
    /// Where a person must approve: `before_shift`, `before_promote`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approve: Vec<ApprovalPoint>,
    /// Time under observation after all traffic moved, before the candidate becomes stable.
    #[serde(default = "defaults::bake")]
    pub bake: Span,
    /// How long the predecessor stays ready after the candidate became stable.
    #[serde(default = "defaults::keep_warm")]
    pub keep_warm: Span,
    /// How long open requests may take to finish before a drained instance is stopped.
    #[serde(default = "defaults::drain")]
    pub drain: Span,
    /// The longest a release may take until the candidate is stable; then it goes back.
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
}

impl Platform {
    /// Returns how many instances of a revision run when it takes all traffic.
    pub fn replicas(&self) -> u32 {
        match self {
            Platform::Local(local) => local.replicas,
        }
    }

    /// Returns how long an instance may take to stop before it is killed.
    pub fn stop_grace(&self) -> Span {
        match self {
            Platform::Local(local) => local.stop_grace,
        }
    }

    /// Makes it another number of instances.
    pub fn set_replicas(&mut self, replicas: u32) {
        match self {
            Platform::Local(local) => local.replicas = replicas,
        }
    }
}

/// Processes on this machine, behind cutover's own proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LocalPlatform {
    /// The program and its arguments. `$PORT` in an argument becomes the instance's port; the program also finds it in its environment.
    pub command: Vec<String>,
    /// A file or folder that is copied into the revision; the command runs where the copy is. Relative to the release file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<String>,
    /// How many instances run; 1 by default.
    #[serde(default = "defaults::replicas")]
    pub replicas: u32,
    /// Environment variables, part of the revision: a change makes a new one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of environment variables whose values are taken from the environment of `cutover deploy` and kept sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The user that the instances run as; needs a server that runs as root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The signal that asks an instance to stop: `TERM` (the default), `INT`, `QUIT`, `HUP`, `USR1`, `USR2`, `WINCH`.
    #[serde(default)]
    pub stop_signal: StopSignal,
    /// How long an instance may take to stop before it is killed.
    #[serde(default = "defaults::stop_grace")]
    pub stop_grace: Span,
    /// Memory that one instance needs, and the most that it gets where this machine lets cutover limit it: beyond it is killed. Checked before the candidate starts beside stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// The most processor time that one instance gets, in cores: `0.5` is half of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cores>,
    /// The most processes and threads that one instance may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// The most that an instance's log keeps on disk; the oldest lines go first.
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
    /// The host name whose requests are this service's; without it all of that address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Path prefixes of static files, such as `/assets/`. A file that one revision does not have is asked of the others
    /// while they run: pages of one revision ask for their files while requests go to another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assets: Vec<String>,
}

/// What the candidate's live traffic must hold while it bakes; broken means rollback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The least share of requests answered without a server error; 95 % by default.
    #[serde(default = "defaults::success")]
    pub success: Weight,
    /// The largest mean time to answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Span>,
    /// The largest time to answer that 95 % of requests stay below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<Span>,
    /// How many requests must have been seen before the guard says anything; 20 by default.
    #[serde(default = "defaults::min_requests")]
    pub min_requests: u64,
    /// What happens when the bake ends with fewer requests than that.
    #[serde(default)]
    pub on_inconclusive: OnInconclusive,
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            success: defaults::success(),
            mean: None,
            p95: None,
            min_requests: defaults::min_requests(),
            on_inconclusive: OnInconclusive::default(),
        }
    }
}

/// What happens when a bake ends without enough evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// Wait for a person until the release's deadline, then go back.
    Hold,
    /// Go on; the report says that nothing was proven.
    #[default]
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
}
