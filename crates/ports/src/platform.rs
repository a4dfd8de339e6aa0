//! The platform: where revisions are stored and instances run.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use cutover_core::{Fault, Fence, InstanceId, ProcessCounts, ProcessName, RevisionId, ServiceName, file};
use serde::{Deserialize, Serialize};

/// A secret value: never printed, never journaled.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value; the caller keeps it from logs, journal and arguments.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a revision is made from.
#[derive(Clone, Debug)]
pub struct RevisionSpec {
    /// The service.
    pub service: ServiceName,
    /// The platform section of the release file.
    pub platform: file::Platform,
    /// What it runs beside the routed process.
    pub processes: BTreeMap<ProcessName, file::Process>,
    /// How it is run and reached, as text: how many instances, which routes. It is nothing that an instance could see, and
    /// yet makes another revision: a change of it has to be released to come true.
    pub settings: String,
    /// The folder that its relative paths start from.
    pub base: PathBuf,
    /// The values of the secrets it names. Empty where the revision is sealed already.
    pub secrets: BTreeMap<String, Secret>,
}

/// What really runs of one revision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedRevision {
    /// The revision.
    pub revision: RevisionId,
    /// How many instances the platform was asked for.
    pub desired: u32,
    /// The routed instances, in a fixed order. No other is a target, or is checked.
    pub instances: Vec<ObservedInstance>,
    /// What runs beside them, by name.
    #[serde(default)]
    pub processes: Vec<ObservedProcess>,
}

/// What really runs of one process beside the routed one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedProcess {
    /// The process.
    pub name: ProcessName,
    /// How many the platform was asked for.
    pub desired: u32,
    /// Those that are there, in a fixed order.
    pub instances: Vec<ObservedWorker>,
}

/// One running copy of a process that no requests go to: it has no address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedWorker {
    /// Its name.
    pub id: InstanceId,
    /// Its process, where the platform knows it.
    pub pid: Option<u32>,
    /// How it is.
    pub state: InstanceState,
    /// How often it was started again since it was asked for.
    pub restarts: u32,
    /// Why it is not running; empty while it runs.
    pub why: String,
    /// Its last log lines, oldest first, at most 20.
    pub log: Vec<String>,
}

/// One instance as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObservedInstance {
    /// Its name.
    pub id: InstanceId,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Its process, where the platform knows it.
    pub pid: Option<u32>,
    /// How it is.
    pub state: InstanceState,
    /// How often it was started again since it was asked for.
    pub restarts: u32,
    /// Why it is not running: exit status, signal, error; empty while it runs.
    pub why: String,
    /// Why it ended the last time, also while it runs again; empty where it never did.
    #[serde(default)]
    pub ended: String,
    /// Its last log lines, oldest first, at most 20.
    pub log: Vec<String>,
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Its process runs.
    Running,
    /// It ended, and is started again soon.
    Restarting,
    /// It ended so often that something is wrong with it; it is tried again slowly.
    CrashLoop,
    /// It was sent its stop signal.
    Stopping,
}

/// Stores revisions and runs instances. Calls name the end state, so repeating one is harmless; a call with a
/// lower fence than the highest seen for the service is refused with [`After::Fenced`](cutover_core::After).
#[async_trait]
pub trait Platform: Send + Sync {
    /// Names the revision by its content and seals its secrets, without storing or starting anything else.
    async fn identify(&self, spec: &RevisionSpec) -> Result<RevisionId, Fault>;

    /// Returns what this platform cannot do without a gap for such a revision, each a sentence for the plan.
    async fn losses(&self, spec: &RevisionSpec) -> Result<Vec<String>, Fault>;

    /// Looks whether the candidate, so many of it as the spec says, fits beside what runs. Returns a line for people.
    async fn preflight(&self, spec: &RevisionSpec, candidate: &RevisionId) -> Result<String, Fault>;

    /// Stores the revision complete, or not at all. Returns a line for people.
    async fn build(&self, fence: Fence, spec: &RevisionSpec, revision: &RevisionId) -> Result<String, Fault>;

    /// Returns what storing the revision has said from byte `from` on, for whoever looks on: a part of it at a time. Begins
    /// anew with each [`build`](Self::build); nothing where storing says nothing.
    async fn build_output(&self, _revision: &RevisionId, _from: u64) -> Result<Vec<u8>, Fault> {
        Ok(Vec::new())
    }

    /// Tells whether the future of a [`build`](Self::build) may be dropped anywhere: that ends it, and the next call begins again
    /// from what is complete. Else it is waited for, though nobody wants it any more.
    fn build_may_drop(&self, _revision: &RevisionId) -> bool {
        false
    }

    /// Ensures that `count` routed instances of a stored revision are being kept running. Returns when they were started,
    /// not when they are ready.
    async fn ensure(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        count: u32,
    ) -> Result<(), Fault>;

    /// Ensures that exactly these processes of a stored revision are being kept running beside its routed instances.
    /// Returns when what is missing was started, and nothing is left of what is too much.
    async fn ensure_processes(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        run: &ProcessCounts,
    ) -> Result<(), Fault>;

    /// Returns what really runs of the service, by revision.
    async fn observe(&self, service: &ServiceName) -> Result<Vec<ObservedRevision>, Fault>;

    /// Returns a number that is another one whenever [`observe`](Self::observe) would show other instances, other
    /// addresses or other states; logs aside. None where only looking tells. Costs next to nothing: it is asked every
    /// second.
    async fn stamp(&self, _service: &ServiceName) -> Option<u64> {
        None
    }

    /// Says whether whoever listens on the instance's address is the instance itself and not a stranger.
    ///
    /// A fault with a hint means that it listens elsewhere, or that a stranger is there: the check gives up early. One
    /// without a hint means that nothing listens yet.
    async fn vouch(&self, service: &ServiceName, instance: &InstanceId) -> Result<(), Fault>;

    /// Ends the instance as a stop would, and lets it be started again as one that ended by itself: the caller found that it
    /// lives no more, and why. Returns once that is under way.
    async fn restart(
        &self,
        _fence: Fence,
        _service: &ServiceName,
        instance: &InstanceId,
        _why: &str,
    ) -> Result<(), Fault> {
        Err(Fault::configuration(format!("start {instance} again: this platform does that by itself")))
    }

    /// Stops all instances of the revision, and all of its processes: stop signal, grace, kill. Returns when none is left.
    /// The caller has drained it. The stored revision stays, for rollback.
    async fn retire(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault>;

    /// Returns the service's stored revisions, in a fixed order; nothing where the platform does not keep them itself.
    async fn stored(&self, _service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        Ok(Vec::new())
    }

    /// Throws a stored revision away, with its secrets and the logs of its instances. Refused while instances of it run
    /// or are wanted; one that is not stored is a no-op. The caller knows that no release needs it.
    async fn discard(
        &self,
        _fence: Fence,
        _service: &ServiceName,
        _revision: &RevisionId,
    ) -> Result<(), Fault> {
        Ok(())
    }

    /// Returns the last `lines` log lines of each instance and process of the revision, running or not, oldest first.
    async fn logs(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        lines: usize,
    ) -> Result<Vec<(InstanceId, Vec<String>)>, Fault>;
}
