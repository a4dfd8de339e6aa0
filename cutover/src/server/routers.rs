//! The proxies as one router: a service on several hosts has theirs, any other that of this machine.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    Account, Counts, Evidence, Fault, Fence, JudgeProgress, Prove, ReleaseId, RevisionId, ServiceName, Shift,
    Traffic, Verdict, file,
};
use cutover_ports::{LeaseSupport, Router, RouterView, Target, Trip};

use super::hosts::Places;

pub(super) struct Routers(pub(super) Arc<Places>);

impl Routers {
    fn of(&self, service: &ServiceName) -> Arc<dyn Router> {
        match self.0.of(service) {
            Some(place) => place.router,
            None => self.0.own().clone(),
        }
    }
}

#[async_trait]
impl Router for Routers {
    fn lease_support(&self) -> LeaseSupport {
        // All of them are cutover's own proxies.
        self.0.own().lease_support()
    }

    async fn preflight(&self, service: &ServiceName, routes: &[file::Route]) -> Result<(), Fault> {
        self.of(service).preflight(service, routes).await
    }

    async fn set(
        &self,
        fence: Fence,
        service: &ServiceName,
        routes: &[file::Route],
        shift: &Shift,
        targets: &[Target],
    ) -> Result<Evidence, Fault> {
        self.of(service).set(fence, service, routes, shift, targets).await
    }

    async fn pin(
        &self,
        fence: Fence,
        service: &ServiceName,
        routes: &[file::Route],
        revision: &RevisionId,
        targets: &[Target],
    ) -> Result<(String, String), Fault> {
        self.of(service).pin(fence, service, routes, revision, targets).await
    }

    async fn set_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
    ) -> Result<(), Fault> {
        self.of(service).set_targets(fence, service, targets).await
    }

    async fn observe(&self, service: &ServiceName) -> Result<RouterView, Fault> {
        self.of(service).observe(service).await
    }

    async fn stamp(&self) -> Option<u64> {
        let own = self.0.own().stamp().await?;
        let mut hash = DefaultHasher::new();
        own.hash(&mut hash);
        for place in self.0.all() {
            place.router.stamp().await?.hash(&mut hash);
        }
        Some(hash.finish())
    }

    async fn renew(
        &self,
        fence: Fence,
        service: &ServiceName,
        release: &ReleaseId,
    ) -> Result<Duration, Fault> {
        self.of(service).renew(fence, service, release).await
    }

    async fn drain(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        self.of(service).drain(fence, service, revision, within).await
    }

    async fn drain_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
        within: Duration,
    ) -> Result<Evidence, Fault> {
        self.of(service).drain_targets(fence, service, targets, within).await
    }

    async fn counts(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        revision: &RevisionId,
    ) -> Result<Counts, Fault> {
        self.of(service).counts(service, release, revision).await
    }

    async fn traffic(&self, service: &ServiceName) -> Result<Option<Traffic>, Fault> {
        self.of(service).traffic(service).await
    }

    async fn verdict(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        prove: &Prove,
    ) -> Result<Verdict, Fault> {
        self.of(service).verdict(service, release, prove).await
    }

    async fn progress(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        prove: &Prove,
    ) -> Result<Option<JudgeProgress>, Fault> {
        self.of(service).progress(service, release, prove).await
    }

    async fn account(&self, service: &ServiceName, release: &ReleaseId) -> Result<Option<Account>, Fault> {
        self.of(service).account(service, release).await
    }

    async fn trips(&self, after: u64, wait: Duration) -> Result<Vec<Trip>, Fault> {
        let (trips, answers) = self.0.trips.trips(after, wait).await;
        match answers.into_iter().find_map(|(index, answer)| answer.err().filter(|_| index == 0)) {
            // This machine's own proxy is away; what others tell counts all the same.
            Some(fault) if trips.is_empty() => Err(fault),
            _ => Ok(trips),
        }
    }

    async fn acknowledge(&self, number: u64) -> Result<(), Fault> {
        self.0.trips.acknowledge(number).await
    }

    async fn remove(&self, fence: Fence, service: &ServiceName) -> Result<(), Fault> {
        self.of(service).remove(fence, service).await
    }
}
