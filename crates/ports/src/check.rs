//! Checks: questions asked of instances over the network before they take traffic.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use cutover_core::{
    CheckResult, Fault, InstanceId, LoadProgress, LoadResult, ReleaseId, RevisionId, ServiceName, file,
};
use tokio::sync::watch;

/// The instance to ask, and what.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// The service.
    pub service: ServiceName,
    /// The revision.
    pub revision: RevisionId,
    /// The instance.
    pub instance: CheckedInstance,
    /// The checks of the release file.
    pub checks: file::Checks,
    /// The Host header; the route's host where it has one.
    pub host: Option<String>,
    /// What the instance speaks.
    pub protocol: file::TargetProtocol,
    /// How the revision is reached through the router; none where no check wants that.
    pub route: Option<CheckedRoute>,
    /// Where check commands run.
    pub base: PathBuf,
}

/// Where an instance is asked.
#[derive(Clone, Debug)]
pub struct CheckedInstance {
    /// Its name.
    pub id: InstanceId,
    /// Its address.
    pub address: SocketAddr,
}

/// The way to a revision that users will take, before they do.
#[derive(Clone, Debug)]
pub struct CheckedRoute {
    /// Where the router listens.
    pub address: SocketAddr,
    /// The header that pins the revision.
    pub pin: (String, String),
    /// The route speaks TLS.
    pub tls: Option<CheckedTls>,
}

/// What makes the certificate of a route a good one, beside what this machine trusts.
#[derive(Clone, Debug, Default)]
pub struct CheckedTls {
    /// Files of certificates in PEM.
    pub trust: Vec<PathBuf>,
}

/// A load test, and who gets it.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// The service.
    pub service: ServiceName,
    /// The candidate.
    pub revision: RevisionId,
    /// Where its instances listen. Nobody else gets load.
    pub candidate: Vec<SocketAddr>,
    /// Where those of stable listen, which get the same load; none where the candidate stands alone.
    pub stable: Vec<SocketAddr>,
    /// What is sent, and what must be held.
    pub test: file::Load,
    /// The name that requests say; without it the instance's address.
    pub host: Option<String>,
    /// What the instances speak where the test does not say it.
    pub protocol: file::TargetProtocol,
    /// Where the test tells how far it is.
    pub progress: watch::Sender<Option<LoadProgress>>,
}

/// One of the user's own tests, run before anything moves.
#[derive(Clone, Debug)]
pub struct GateRequest {
    /// The service.
    pub service: ServiceName,
    /// The release that waits for it.
    pub release: ReleaseId,
    /// The revision that shall be released.
    pub revision: RevisionId,
    /// The shell command.
    pub command: String,
    /// Where it runs: the release file's folder.
    pub base: PathBuf,
    /// Where its output goes, as it comes.
    pub log: PathBuf,
}

/// Asks one instance.
#[async_trait]
pub trait Checker: Send + Sync {
    /// Asks the instance all its health checks until each has passed often enough in a row, or `checks.within` is
    /// over. Returns what each of them said, in order.
    ///
    /// A fault has the results of all of them, and says the cause of the last failure of each check that did not pass:
    /// errno, status, timeout or body; the blame is the candidate's, except where a check itself could not run.
    async fn check(&self, request: &CheckRequest) -> Result<Vec<CheckResult>, Fault>;

    /// Tries all of `checks.smoke` once, in order, also after one that fails. Output of commands goes to `log`; one that a
    /// dead driver left running for the same log is ended first, so that repeating it is harmless. Returns what each
    /// of them said, in order.
    ///
    /// A fault is final, has the results of all of them, and is the candidate's where at least one said no.
    async fn smoke(&self, request: &CheckRequest, log: &Path) -> Result<Vec<CheckResult>, Fault>;

    /// Sends load until the test is over, never faster than it says. Returns what was seen of a candidate that held what was
    /// asked of it. Dropped, it sends nothing more, and closes what it has open.
    ///
    /// A fault has the same numbers; the blame is the candidate's where it did not hold the test, and the platform's where the
    /// test could not be run as it was meant to be.
    async fn load(&self, request: &LoadRequest) -> Result<LoadResult, Fault>;

    /// Runs the command until it ends; it must exit 0. One that a dead driver left running for the same log is ended
    /// first, so that repeating it is harmless. Returns a line for people.
    ///
    /// A fault is final, the candidate's where the command said no, and shows the last lines of its output.
    async fn gate(&self, request: &GateRequest) -> Result<String, Fault>;
}
