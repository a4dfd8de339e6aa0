//! The fake router.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    Counts, Evidence, Fault, Fence, Judgement, Prove, ReleaseId, RevisionId, ServiceName, Shift, Verdict,
    file,
};
use tokio::time::{Instant, sleep};

use super::state::State;
use super::world::{About, Call, LEASE, World};
use crate::{LeaseSupport, Router, RouterView, Target, Trip};

/// Moves traffic in a [`World`].
pub struct FakeRouter(pub Arc<World>);

#[async_trait]
impl Router for FakeRouter {
    fn lease_support(&self) -> LeaseSupport {
        LeaseSupport::Yes
    }

    async fn preflight(&self, service: &ServiceName, _routes: &[file::Route]) -> Result<(), Fault> {
        let about = About::new(Call::PreflightRoutes, service, "", None);
        self.0.call(about, (), |_| Ok(())).await
    }

    async fn set(
        &self,
        fence: Fence,
        service: &ServiceName,
        _routes: &[file::Route],
        shift: &Shift,
        targets: &[Target],
    ) -> Result<Evidence, Fault> {
        let weights: Vec<String> =
            shift.weights.iter().map(|(revision, weight)| format!("{revision}={weight}")).collect();
        let about = About::new(Call::Set, service, weights.join(" "), Some(fence));
        let (service, shift, targets) = (service.clone(), shift.clone(), targets.to_vec());
        let act = move |state: &mut State| {
            state.fence(&service, true, fence)?;
            let generation = state.set(&service, &shift, &targets)?;
            Ok(Evidence::Shifted { generation, acknowledged_us: 100 })
        };
        self.0.call(about, Evidence::Shifted { generation: 0, acknowledged_us: 0 }, act).await
    }

    async fn pin(
        &self,
        fence: Fence,
        service: &ServiceName,
        _routes: &[file::Route],
        revision: &RevisionId,
        targets: &[Target],
    ) -> Result<(String, String), Fault> {
        let about = About::new(Call::Pin, service, revision, Some(fence));
        let (service, header) = (service.clone(), ("pin".to_string(), revision.to_string()));
        let (lost, revision, targets) = (header.clone(), revision.clone(), targets.to_vec());
        let act = move |state: &mut State| {
            state.fence(&service, true, fence)?;
            state.pin(&service, &revision, &targets);
            Ok(header.clone())
        };
        self.0.call(about, lost, act).await
    }

    async fn set_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
    ) -> Result<(), Fault> {
        let about = About::new(Call::SetTargets, service, targets.len(), Some(fence));
        let (service, targets) = (service.clone(), targets.to_vec());
        let act = move |state: &mut State| {
            state.fence(&service, true, fence)?;
            state.set_targets(&service, &targets)
        };
        self.0.call(about, (), act).await
    }

    async fn observe(&self, service: &ServiceName) -> Result<RouterView, Fault> {
        let about = About::new(Call::ObserveRouter, service, "", None);
        let service = service.clone();
        self.0.call(about, RouterView::default(), move |state| Ok(state.view(&service))).await
    }

    async fn stamp(&self) -> Option<u64> {
        let mut hash = DefaultHasher::new();
        for (service, table) in &self.0.state().tables {
            (service.as_str(), table.generation).hash(&mut hash);
        }
        Some(hash.finish())
    }

    async fn verdict(
        &self,
        _service: &ServiceName,
        _release: &ReleaseId,
        _prove: &Prove,
    ) -> Result<Verdict, Fault> {
        let (judgement, why) = match self.0.state().proven {
            true => (Judgement::Pass, "proven"),
            false => (Judgement::Inconclusive, "not proven yet"),
        };
        Ok(Verdict { judgement, why: why.into(), counts: Counts::default(), epoch: None })
    }

    async fn renew(
        &self,
        fence: Fence,
        service: &ServiceName,
        release: &ReleaseId,
    ) -> Result<Duration, Fault> {
        let about = About::new(Call::Renew, service, release, Some(fence));
        let (service, release) = (service.clone(), release.clone());
        let act = move |state: &mut State| {
            state.fence(&service, true, fence)?;
            state.renew(&service, &release).map(|()| LEASE)
        };
        self.0.call(about, LEASE, act).await
    }

    async fn drain(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        _within: Duration,
    ) -> Result<Evidence, Fault> {
        let about = About::new(Call::Drain, service, revision, Some(fence));
        let (service, revision) = (service.clone(), revision.clone());
        let act = move |state: &mut State| {
            state.fence(&service, true, fence)?;
            state.drain(&service, &revision)?;
            Ok(Evidence::Drained { cut: 0, closed: 0 })
        };
        self.0.call(about, Evidence::Drained { cut: 0, closed: 0 }, act).await
    }

    async fn drain_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
        _within: Duration,
    ) -> Result<Evidence, Fault> {
        let names: Vec<&str> = targets.iter().map(|target| target.instance.as_str()).collect();
        let about = About::new(Call::DrainTargets, service, names.join(" "), Some(fence));
        let (service, targets) = (service.clone(), targets.to_vec());
        let act = move |state: &mut State| {
            state.fence(&service, true, fence)?;
            state.drain_targets(&service, &targets)?;
            Ok(Evidence::Drained { cut: 0, closed: 0 })
        };
        self.0.call(about, Evidence::Drained { cut: 0, closed: 0 }, act).await
    }

    async fn counts(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        revision: &RevisionId,
    ) -> Result<Counts, Fault> {
        let about = About::new(Call::Counts, service, revision, None);
        let (service, release, revision) = (service.clone(), release.clone(), revision.clone());
        self.0
            .call(about, Counts::default(), move |state| Ok(state.counts(&service, &release, &revision)))
            .await
    }

    async fn trips(&self, after: u64, wait: Duration) -> Result<Vec<Trip>, Fault> {
        let about = About::new(Call::Trips, &ServiceName::new(""), "", None);
        self.0.call(about, (), |_| Ok(())).await?;
        let end = Instant::now() + wait;
        loop {
            let trips: Vec<Trip> =
                self.0.state().trips.iter().filter(|trip| trip.number > after).cloned().collect();
            if !trips.is_empty() || Instant::now() >= end {
                return Ok(trips);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn acknowledge(&self, number: u64) -> Result<(), Fault> {
        let about = About::new(Call::Acknowledge, &ServiceName::new(""), number, None);
        let act = move |state: &mut State| {
            state.trips.retain(|trip| trip.number > number);
            Ok(())
        };
        self.0.call(about, (), act).await
    }

    async fn remove(&self, fence: Fence, service: &ServiceName) -> Result<(), Fault> {
        let about = About::new(Call::Remove, service, "", Some(fence));
        let service = service.clone();
        let act = move |state: &mut State| {
            state.fence(&service, true, fence)?;
            state.tables.remove(&service);
            Ok(())
        };
        self.0.call(about, (), act).await
    }
}
