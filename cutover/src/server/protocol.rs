//! What the command line and the server say to each other: JSON over HTTP over a unix socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cutover_core::{
    Command, JudgeProgress, LoadProgress, Plan, Record, ReleaseFile, ReleaseId, RevisionId, ServiceName,
};
use cutover_engine::{ReleaseSummary, ServiceState};
use cutover_ports::{ObservedRevision, RouterView, Secret};
use serde::{Deserialize, Serialize};

/// The version of this protocol; a server of another one is told from by name.
pub(crate) const PROTOCOL: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) state: PathBuf,
    /// The cgroup that the server shares with whoever started it.
    #[serde(default)]
    pub(crate) shared_cgroup: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeployBody {
    pub(crate) file: ReleaseFile,
    pub(crate) base: PathBuf,
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) by: String,
    pub(crate) again: bool,
    pub(crate) supersede: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum DeployAnswer {
    Started { release: ReleaseId, plan: Box<Plan> },
    UpToDate { service: ServiceName, revision: RevisionId },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlanAnswer {
    pub(crate) plan: Plan,
    pub(crate) lease_ms: Option<u64>,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RollbackBody {
    pub(crate) service: ServiceName,
    pub(crate) by: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CommandBody {
    pub(crate) service: ServiceName,
    pub(crate) command: Command,
    pub(crate) by: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordsAnswer {
    pub(crate) records: Vec<Record>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GateAnswer {
    /// Whole lines.
    pub(crate) text: String,
    /// Where the next ones begin.
    pub(crate) next: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LoadAnswer {
    /// Where the load test that runs now is; none where none runs.
    pub(crate) progress: Option<LoadProgress>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JudgeAnswer {
    /// How far the judge is; none while nothing is to be proven.
    pub(crate) progress: Option<JudgeProgress>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusAnswer {
    pub(crate) server: Hello,
    pub(crate) services: Vec<ServiceStatus>,
}

/// What is wanted, what the router does, what really runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    pub(crate) service: ServiceState,
    pub(crate) router: Option<RouterView>,
    pub(crate) revisions: Vec<ObservedRevision>,
    /// What could not be observed, each a sentence.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HistoryAnswer {
    pub(crate) releases: Vec<ReleaseSummary>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogsAnswer {
    pub(crate) instances: Vec<(RevisionId, cutover_core::InstanceId, Vec<String>)>,
}
