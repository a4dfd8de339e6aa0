//! The router: what sends requests to tracks by weight.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    Account, Counts, Evidence, Fault, Fence, InstanceId, JudgeProgress, Judgement, Prove, ReleaseId,
    RevisionId, ServiceName, Shift, Traffic, Verdict, Weight, file,
};
use serde::{Deserialize, Serialize};

/// An address where the router reaches an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The revision it runs.
    pub revision: RevisionId,
    /// The instance.
    pub instance: InstanceId,
    /// Its address.
    pub address: SocketAddr,
}

/// Whether a candidate's weight can be leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseSupport {
    /// If cutover dies, the router takes the candidate's traffic back by itself, down to what the lease lets it retain.
    Yes,
    /// The platform has its own way back.
    Native,
    /// If cutover dies, the weights stay until it is back.
    No,
}

/// What the data plane really does with a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouterView {
    /// The table's generation; 0 where the service is unknown.
    pub generation: u64,
    /// The tracks, with what is really in force.
    pub tracks: Vec<TrackView>,
    /// Requests of the service whose outcome is known, since the router began to count.
    pub requests: u64,
    /// Of these, answered with a server error by an instance.
    pub failed: u64,
    /// Of these, failed by the router itself: no target, a reset, a cut.
    pub failed_by_router: u64,
    /// What is damaged or strange, each a sentence.
    pub notes: Vec<String>,
}

/// One track as it is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackView {
    /// The revision.
    pub revision: RevisionId,
    /// Its route weight in force, after lapse and trip.
    pub weight: Weight,
    /// Its targets.
    pub targets: Vec<Target>,
    /// Those of them that fail the checks which the router asks all the time.
    #[serde(default)]
    pub failing: Vec<FailingTarget>,
    /// Requests and connections in flight.
    pub in_flight: u64,
    /// Requests sent to it since it is in the table.
    pub requests: u64,
    /// Of these, failed: 5xx, cut, or not answered.
    pub failed: u64,
}

/// A target that fails its checks, and gets no requests as long as another one of its revision can take them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingTarget {
    /// The instance.
    pub instance: InstanceId,
    /// What it is asked: `GET /health`, `connect`.
    pub check: String,
    /// What came of it the last time.
    pub why: String,
}

/// The router took a candidate's traffic away by itself, or has something else to tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trip {
    /// Its number, rising; it is told again until acknowledged.
    pub number: u64,
    /// The service.
    pub service: ServiceName,
    /// The release whose candidate lost its traffic, all but what its lease retains; none for a mere alert.
    pub release: Option<ReleaseId>,
    /// Why, with numbers.
    pub why: String,
    /// Stable fails as well: the release is not to blame.
    pub shared: bool,
}

/// Moves traffic. Every change is compare-and-swap on what was observed, and verified after.
#[async_trait]
pub trait Router: Send + Sync {
    /// Says whether a candidate's weight can be leased.
    fn lease_support(&self) -> LeaseSupport;

    /// Looks whether the routes of the service can be served, before anything else begins. May open their addresses, which then
    /// answer 503; changes no traffic.
    async fn preflight(&self, _service: &ServiceName, _routes: &[file::Route]) -> Result<(), Fault> {
        Ok(())
    }

    /// Ensures that the service is split as `shift` says over `targets`. Equal is a no-op; someone else's edit,
    /// seen since the last set, stops it. After a trip the release's candidate may have less than it has, never more.
    /// Returns once every worker acknowledged.
    async fn set(
        &self,
        fence: Fence,
        service: &ServiceName,
        routes: &[file::Route],
        shift: &Shift,
        targets: &[Target],
    ) -> Result<Evidence, Fault>;

    /// Ensures that these targets of one revision can be reached by whoever sends the header that is returned, name and
    /// value, while nobody else is sent there: weights, lease and everything else stay as they are. A drain of the
    /// revision takes it back.
    async fn pin(
        &self,
        _fence: Fence,
        _service: &ServiceName,
        _routes: &[file::Route],
        revision: &RevisionId,
        _targets: &[Target],
    ) -> Result<(String, String), Fault> {
        Err(Fault::configuration(format!(
            "reach {revision} through the route: this router cannot pin a revision"
        ))
        .hint("ask the instances themselves: leave `through: route` out"))
    }

    /// Replaces the targets of the tracks, keeping weights, lease and everything else: an instance came back on
    /// another port, say.
    async fn set_targets(&self, fence: Fence, service: &ServiceName, targets: &[Target])
    -> Result<(), Fault>;

    /// Returns what the data plane really does with the service.
    async fn observe(&self, service: &ServiceName) -> Result<RouterView, Fault>;

    /// Returns a number that is another one whenever a generation of any service may be. None where only looking
    /// tells. Costs next to nothing: it is asked every second, once for all services.
    async fn stamp(&self) -> Option<u64> {
        None
    }

    /// Renews the lease of the release's candidate. Returns how long it holds from now.
    async fn renew(
        &self,
        fence: Fence,
        service: &ServiceName,
        release: &ReleaseId,
    ) -> Result<Duration, Fault>;

    /// Returns once nothing is in flight to the revision and no connection to it is kept; after `within` the rest
    /// is cut and counted. Refused while the revision has weight. The revision then leaves the table.
    async fn drain(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        within: Duration,
    ) -> Result<Evidence, Fault>;

    /// Returns once nothing is in flight to these targets and no connection to them is kept, as `drain` does; their
    /// revision may keep its weight. Refused while one of them is in the table with its track: `set` or `set_targets`
    /// without them comes first. Of targets that the router does not know nothing is in flight.
    async fn drain_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
        within: Duration,
    ) -> Result<Evidence, Fault>;

    /// Returns what the candidate's requests came to since `release` first gave it weight.
    async fn counts(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        revision: &RevisionId,
    ) -> Result<Counts, Fault>;

    /// Returns what is known of the service's requests, to plan with; none where the router cannot say.
    async fn traffic(&self, _service: &ServiceName) -> Result<Option<Traffic>, Fault> {
        Ok(None)
    }

    /// Returns what the comparison of the release's candidate with stable shows so far: a pass only where it is proven
    /// that the candidate is not worse, as `prove` asks.
    async fn verdict(
        &self,
        _service: &ServiceName,
        _release: &ReleaseId,
        _prove: &Prove,
    ) -> Result<Verdict, Fault> {
        let why = "this router does not compare the candidate with stable".to_owned();
        Ok(Verdict { judgement: Judgement::Inconclusive, why, counts: Counts::default(), epoch: None })
    }

    /// Returns how far the comparison is on its way to the proof that `prove` asks for; none where nothing is compared.
    async fn progress(
        &self,
        _service: &ServiceName,
        _release: &ReleaseId,
        _prove: &Prove,
    ) -> Result<Option<JudgeProgress>, Fault> {
        Ok(None)
    }

    /// Ends the comparison, and returns all that was counted for it; none where nothing was compared.
    async fn account(&self, _service: &ServiceName, _release: &ReleaseId) -> Result<Option<Account>, Fault> {
        Ok(None)
    }

    /// Waits at most `wait` for trips of any service with a number above `after`; empty when none came.
    async fn trips(&self, after: u64, wait: Duration) -> Result<Vec<Trip>, Fault>;

    /// Forgets trips up to and including `number`: they are journaled.
    async fn acknowledge(&self, number: u64) -> Result<(), Fault>;

    /// Takes the service out of the table altogether.
    async fn remove(&self, fence: Fence, service: &ServiceName) -> Result<(), Fault>;
}
