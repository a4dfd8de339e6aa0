//! The admin protocol: one JSON object per line each way.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::count::{Arm, Counts};
use crate::error::ErrorKind;
use crate::judging::{JudgeQuestion, JudgeStanding};
use crate::table::ServiceTable;
use crate::tls::CertificateObservation;
use crate::traffic::Traffic;

/// Longest line of the admin protocol; more is refused.
pub(crate) const MAX_LINE: usize = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) version: u32,
    #[serde(flatten)]
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub(crate) enum Request {
    Hello,
    Listen {
        addr: SocketAddr,
    },
    Observe {
        service: Option<String>,
    },
    Set {
        service: String,
        expected_generation: u64,
        epoch: u64,
        /// Of the table; one that the proxy does not know is refused.
        #[serde(default = "crate::compat::first")]
        schema: u32,
        table: Box<ServiceTable>,
    },
    Renew {
        service: String,
        release: String,
        epoch: u64,
    },
    Drain {
        service: String,
        revision: String,
        deadline_ms: u64,
    },
    DrainTargets {
        service: String,
        targets: Vec<SocketAddr>,
        epoch: u64,
        deadline_ms: u64,
    },
    Back {
        service: String,
        why: String,
    },
    /// What does the judge say of a release's candidate?
    Judge {
        service: String,
        release: String,
        question: Box<JudgeQuestion>,
    },
    /// What requests do from now on.
    Traffic {
        service: String,
        traffic: Box<Traffic>,
    },
    RemoveService {
        service: String,
        expected_generation: u64,
        epoch: u64,
    },
    Events {
        after: u64,
    },
    Watch {
        after: u64,
        timeout_ms: u64,
    },
    Ack {
        up_to: u64,
    },
    Handover,
    /// A verb of a newer client.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Ok(serde_json::Value),
    Error {
        #[serde(flatten)]
        kind: ErrorKind,
        message: String,
    },
}

/// Who answers on the admin socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the proxy.
    pub version: String,
    /// Newest version of the admin protocol that it speaks.
    pub protocol: u32,
    /// Oldest version that it still understands.
    #[serde(default = "crate::compat::first")]
    pub oldest_protocol: u32,
    /// Process of the worker; counters begin anew with each.
    pub worker_pid: u32,
    /// Process of the holder; none: it died, the worker serves on alone.
    pub holder_pid: Option<u32>,
    /// Threads that take requests.
    pub threads: usize,
    /// Folder of the table and the sockets.
    pub dir: String,
    /// Addresses that accept connections.
    pub listeners: Vec<SocketAddr>,
    /// Another number whenever the generation of any service is another one; none: an older proxy does not say.
    #[serde(default)]
    pub tables: Option<u64>,
}

/// Result of `set` and of `remove_service`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReply {
    /// Generation the service has now.
    pub generation: u64,
    /// False: the table was already so.
    pub changed: bool,
    /// Time from the receipt of the request until the last thread's acknowledgement.
    pub acknowledged_ns: u64,
    /// Part of it spent writing the table to disk.
    pub persisted_ns: u64,
}

/// Result of `renew`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewReply {
    /// How long the lease lasts from now on.
    pub lease_ms: u64,
    /// Generation of the service.
    pub generation: u64,
    /// True: the candidate was without its lease since the worker's boot, this renewal restored its weight.
    pub restored: bool,
}

/// Result of `drain` and of `drain_targets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReply {
    /// Nothing was cut.
    pub clean: bool,
    /// Requests and connections that were cut at the deadline.
    pub cut: u64,
    /// WebSockets closed by a close frame.
    pub websockets_closed: u64,
    /// Requests that outlived even the cut, and replaced workers that have not ended: do not stop the instances yet.
    pub left: u64,
    /// How long the drain took.
    pub took_ms: u64,
}

/// What the proxy does right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Process of the worker; counters begin anew with each.
    pub worker_pid: u32,
    /// Addresses that accept connections.
    pub listeners: Vec<SocketAddr>,
    /// Services by name.
    pub services: BTreeMap<String, ServiceObservation>,
    /// Requests no arm was charged with, by reason.
    pub unrouted: BTreeMap<String, u64>,
    /// Client connections open now.
    pub connections: u64,
    /// Events nobody has acknowledged.
    pub events: Vec<Event>,
    /// What is wrong with the files of the proxy; empty: nothing.
    pub damage: Vec<String>,
}

/// One service as the threads route it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceObservation {
    /// The table as set, without its pin key.
    pub table: ServiceTable,
    /// Weights in force by revision, after boot, lapse or trip; basis points.
    pub effective: BTreeMap<String, u16>,
    /// The candidate had no renewal since the worker's boot: until then it has what a lapse would leave it.
    pub awaiting_renewal: bool,
    /// Time left of the candidate's lease.
    pub lease_left_ms: Option<u64>,
    /// Releases whose candidate gets no more traffic than it has.
    pub tripped: Vec<String>,
    /// Certificates, when some listener speaks TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateObservation>,
    /// Numbers of the guard since the last `set`.
    pub guard: Option<GuardNumbers>,
    /// Revisions that are routed, drained, or still hold something.
    pub revisions: BTreeMap<String, RevisionObservation>,
    /// Counters by arm.
    pub arms: Vec<ArmObservation>,
    /// Targets that are checked all the time; an older proxy does not say.
    #[serde(default)]
    pub targets: Vec<TargetObservation>,
    /// What an operator lets the requests do.
    #[serde(default)]
    pub traffic: Traffic,
    /// Requests that wait, for the operator or for a target.
    #[serde(default)]
    pub waiting: u32,
    /// Requests per hour, over the last minutes; an older proxy does not say, nor one that began a moment ago.
    #[serde(default)]
    pub per_hour: Option<u64>,
    /// Lines of the access log that were lost: the disk was slower than the requests, or full.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// The judge of the release that is under way, or of the last one; none where no release was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeStanding>,
}

/// One target and what its checks say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetObservation {
    /// Its revision.
    pub revision: String,
    /// The instance.
    pub instance: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// False: it gets requests only when no target of its revision is up.
    pub up: bool,
    /// What it is asked: `connect`, `GET /health`.
    pub check: String,
    /// Checks made by this worker.
    pub asked: u64,
    /// Why the last check failed; none: it passed, or none was made yet.
    pub why: Option<String>,
}

/// One revision over all threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionObservation {
    /// Requests claimed and not yet finished, WebSockets among them.
    pub in_flight: u64,
    /// WebSockets and other upgraded connections.
    pub websockets: u64,
    /// Idle connections kept to its targets.
    pub pooled: u64,
    /// Connections open to its targets, upgraded ones excepted.
    pub connections: u64,
    /// A drain is under way.
    pub draining: bool,
}

/// Counters of one arm over all threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmObservation {
    /// The revision.
    pub revision: String,
    /// The release under way when the requests were claimed.
    pub release: Option<String>,
    /// The side of the release.
    pub arm: Arm,
    /// The counts.
    pub counts: Counts,
}

/// What a guard has counted since the last `set`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardNumbers {
    /// First attempts at the candidate with a known outcome.
    pub requests: u64,
    /// Of these: 5xx, connect failure, reset, truncated.
    pub errors: u64,
    /// Sum of the times until the response head.
    pub latency_sum_us: u64,
    /// Requests slower than the limit of the 95th percentile.
    pub over_p95_limit: u64,
    /// The limit that was broken.
    pub why: Option<String>,
}

/// What kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The guard took the candidate's traffic away.
    Trip,
    /// The lease ended without renewal: the candidate's traffic was taken away.
    Lapse,
    /// A person took the candidate's traffic away (`back`).
    Back,
    /// Something needs a person; traffic stayed as it was.
    Alert,
    /// Files of the proxy were damaged or lost.
    Damage,
}

/// Something the proxy did by itself; kept on disk until acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1.
    pub number: u64,
    /// Wall clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// What kind.
    pub kind: EventKind,
    /// The service; none: the whole proxy.
    pub service: Option<String>,
    /// The release of the candidate.
    pub release: Option<String>,
    /// The candidate's revision.
    pub revision: Option<String>,
    /// Generation of the service after the event.
    pub generation: Option<u64>,
    /// The reason, for people.
    pub why: String,
    /// Numbers of the guard.
    pub guard: Option<GuardNumbers>,
    /// Stable fails as well: the candidate lost its traffic, and the release is not to blame.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}
