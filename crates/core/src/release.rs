//! A release: one attempt to replace stable by a candidate; and the facts that planning needs.

use std::collections::BTreeMap;

use cutover_judge::History;
use serde::{Deserialize, Serialize};

use crate::file::{Process, ReleaseFile};
use crate::ids::{ProcessName, ReleaseId, RevisionId, ServiceName};

/// One attempt to replace stable by the candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Its name.
    pub id: ReleaseId,
    /// The service.
    pub service: ServiceName,
    /// Why it exists.
    pub kind: ReleaseKind,
    /// The revision to release.
    pub candidate: RevisionId,
    /// The release file it follows, its environment applied.
    pub file: ReleaseFile,
    /// The absolute folder that the release file's relative paths start from.
    pub base: String,
    /// Who asked for it.
    pub by: String,
}

/// Why a release exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseKind {
    /// A person or a pipeline asked for a new revision.
    Deploy,
    /// A person asked for the predecessor back.
    Rollback,
}

/// Facts about the world at the moment of planning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// The revision that is stable now.
    pub stable: Option<RevisionId>,
    /// What runs of stable beside its routed process, each with its own stop grace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stable_processes: BTreeMap<ProcessName, Process>,
    /// Whether all instances of the candidate already run: it is the warm predecessor.
    pub candidate_warm: bool,
    /// The revision that was taken back last and must not come again unasked.
    pub rolled_back: Option<RevisionId>,
    /// How long the service took to become ready the last time, in milliseconds.
    pub ready_ms: Option<u64>,
    /// What the platform cannot do without a gap, each a sentence.
    pub losses: Vec<String>,
    /// What is known of stable's requests; none where the router cannot say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// Requests to a service before a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// How stable answered so far.
    pub history: History,
    /// Requests per hour, lately; none where that is not known.
    pub per_hour: Option<u64>,
}
