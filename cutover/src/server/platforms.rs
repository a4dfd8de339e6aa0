//! The platforms of this machine as one: each revision is that of the platform that named it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{Fault, Fence, InstanceId, ProcessCounts, RevisionId, ServiceName, file};
use cutover_docker::{DockerPlatform, Engine, Options, is_instance, is_revision};
use cutover_local::LocalPlatform;
use cutover_ports::{ObservedRevision, Platform, RevisionSpec};

use super::hosts::Places;
use crate::state::StateDir;

/// Processes and containers. A service may have revisions of both: it moves from one to the other by a release.
pub(super) struct Platforms {
    local: Arc<LocalPlatform>,
    /// Or why there are no containers: that is nothing to services that have none.
    docker: Result<DockerPlatform, Fault>,
    /// Services that run on several hosts.
    places: Arc<Places>,
}

impl Platforms {
    /// Opens the platform of containers beside that of processes. The engine need not be there.
    pub(super) async fn open(state: &StateDir, local: Arc<LocalPlatform>, places: Arc<Places>) -> Platforms {
        let docker = match Engine::of_environment() {
            Ok(engine) => DockerPlatform::open(state.path(), engine, Options::default()).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = &docker {
            tracing::warn!(why = %fault, "no containers");
        }
        Platforms { local, docker, places }
    }

    fn docker(&self) -> Result<&DockerPlatform, Fault> {
        self.docker.as_ref().map_err(Clone::clone)
    }

    fn for_spec(&self, spec: &RevisionSpec) -> Result<&dyn Platform, Fault> {
        Ok(match &spec.platform {
            file::Platform::Local(_) => &*self.local,
            file::Platform::Docker(_) => self.docker()?,
        })
    }

    fn for_revision(&self, revision: &RevisionId) -> Result<&dyn Platform, Fault> {
        Ok(if is_revision(revision) { self.docker()? } else { &*self.local })
    }

    fn for_instance(&self, instance: &InstanceId) -> Result<&dyn Platform, Fault> {
        Ok(if is_instance(instance) { self.docker()? } else { &*self.local })
    }

    /// Returns the platform of containers if it was ever asked for the service.
    fn docker_of(&self, service: &ServiceName) -> Option<&DockerPlatform> {
        self.docker.as_ref().ok().filter(|docker| docker.knows(service))
    }
}

#[async_trait]
impl Platform for Platforms {
    async fn identify(&self, spec: &RevisionSpec) -> Result<RevisionId, Fault> {
        match self.places.settle(spec).await? {
            // Other hosts are another revision: a change of them has to be released to come true.
            Some(place) => place.platform.identify(&on_hosts(spec)).await,
            None => self.for_spec(spec)?.identify(spec).await,
        }
    }

    async fn losses(&self, spec: &RevisionSpec) -> Result<Vec<String>, Fault> {
        match self.places.of(&spec.service) {
            Some(place) => place.platform.losses(spec).await,
            None => self.for_spec(spec)?.losses(spec).await,
        }
    }

    async fn preflight(&self, spec: &RevisionSpec, candidate: &RevisionId) -> Result<String, Fault> {
        match self.places.of(&spec.service) {
            Some(place) => place.platform.preflight(spec, candidate).await,
            None => self.for_spec(spec)?.preflight(spec, candidate).await,
        }
    }

    async fn build(&self, fence: Fence, spec: &RevisionSpec, revision: &RevisionId) -> Result<String, Fault> {
        match self.places.of(&spec.service) {
            Some(place) => {
                self.places.keep()?;
                place.platform.build(fence, &on_hosts(spec), revision).await
            }
            None => self.for_spec(spec)?.build(fence, spec, revision).await,
        }
    }

    async fn build_output(&self, revision: &RevisionId, from: u64) -> Result<Vec<u8>, Fault> {
        self.for_revision(revision)?.build_output(revision, from).await
    }

    fn build_may_drop(&self, revision: &RevisionId) -> bool {
        self.for_revision(revision).is_ok_and(|platform| platform.build_may_drop(revision))
    }

    async fn ensure(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        count: u32,
    ) -> Result<(), Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.ensure(fence, service, revision, count).await;
        }
        self.for_revision(revision)?.ensure(fence, service, revision, count).await
    }

    async fn ensure_processes(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        run: &ProcessCounts,
    ) -> Result<(), Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.ensure_processes(fence, service, revision, run).await;
        }
        self.for_revision(revision)?.ensure_processes(fence, service, revision, run).await
    }

    async fn observe(&self, service: &ServiceName) -> Result<Vec<ObservedRevision>, Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.observe(service).await;
        }
        let mut seen = self.local.observe(service).await?;
        if let Some(docker) = self.docker_of(service) {
            seen.extend(docker.observe(service).await?);
        }
        Ok(seen)
    }

    async fn stamp(&self, service: &ServiceName) -> Option<u64> {
        if let Some(place) = self.places.of(service) {
            return place.platform.stamp(service).await;
        }
        let local = self.local.stamp(service).await?;
        let Some(docker) = self.docker_of(service) else { return Some(local) };
        let mut hash = DefaultHasher::new();
        (local, docker.stamp(service).await?).hash(&mut hash);
        Some(hash.finish())
    }

    async fn vouch(&self, service: &ServiceName, instance: &InstanceId) -> Result<(), Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.vouch(service, instance).await;
        }
        self.for_instance(instance)?.vouch(service, instance).await
    }

    async fn restart(
        &self,
        fence: Fence,
        service: &ServiceName,
        instance: &InstanceId,
        why: &str,
    ) -> Result<(), Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.restart(fence, service, instance, why).await;
        }
        self.for_instance(instance)?.restart(fence, service, instance, why).await
    }

    async fn retire(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.retire(fence, service, revision).await;
        }
        self.for_revision(revision)?.retire(fence, service, revision).await
    }

    async fn stored(&self, service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.stored(service).await;
        }
        let mut stored = self.local.stored(service).await?;
        if let Ok(docker) = &self.docker {
            stored.extend(docker.stored(service).await?);
        }
        Ok(stored)
    }

    async fn discard(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.discard(fence, service, revision).await;
        }
        self.for_revision(revision)?.discard(fence, service, revision).await
    }

    async fn logs(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        lines: usize,
    ) -> Result<Vec<(InstanceId, Vec<String>)>, Fault> {
        if let Some(place) = self.places.of(service) {
            return place.platform.logs(service, revision, lines).await;
        }
        self.for_revision(revision)?.logs(service, revision, lines).await
    }
}

/// Makes the hosts part of what a revision is named by.
fn on_hosts(spec: &RevisionSpec) -> RevisionSpec {
    let hosts = match &spec.platform {
        file::Platform::Docker(docker) => docker.hosts.join(" "),
        file::Platform::Local(_) => String::new(),
    };
    RevisionSpec { settings: format!("{} on {hosts}", spec.settings), ..spec.clone() }
}
