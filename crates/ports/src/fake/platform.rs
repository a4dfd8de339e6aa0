//! The fake platform.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{Fault, Fence, InstanceId, ProcessCounts, RevisionId, ServiceName, file};

use super::world::{About, Call, World};
use crate::{ObservedRevision, Platform, RevisionSpec};

/// Runs instances in a [`World`]. A revision is named by `REVISION` in its environment, else by its content.
pub struct FakePlatform(pub Arc<World>);

#[async_trait]
impl Platform for FakePlatform {
    async fn identify(&self, spec: &RevisionSpec) -> Result<RevisionId, Fault> {
        let (env, own) = match &spec.platform {
            file::Platform::Local(local) => {
                (&local.env, format!("{:?} {:?} {:?}", local.command, local.artifact, local.env))
            }
            file::Platform::Docker(docker) => (&docker.env, format!("{docker:?}")),
        };
        let name = env.get("REVISION").cloned().unwrap_or_else(|| {
            let text = format!("{own} {:?} {}", spec.processes, spec.settings);
            // FNV-1a: enough to tell the revisions of a test apart.
            let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            format!("r-{:012x}", hash >> 16)
        });
        let revision = RevisionId::new(name);
        let about = About::new(Call::Identify, &spec.service, &revision, None);
        self.0.call(about, revision.clone(), move |_| Ok(revision.clone())).await
    }

    async fn losses(&self, spec: &RevisionSpec) -> Result<Vec<String>, Fault> {
        let about = About::new(Call::Losses, &spec.service, "", None);
        self.0.call(about, Vec::new(), |_| Ok(Vec::new())).await
    }

    async fn preflight(&self, spec: &RevisionSpec, candidate: &RevisionId) -> Result<String, Fault> {
        let about = About::new(Call::Preflight, &spec.service, candidate, None);
        self.0.call(about, String::new(), |_| Ok("room for both".to_string())).await
    }

    async fn build(&self, fence: Fence, spec: &RevisionSpec, revision: &RevisionId) -> Result<String, Fault> {
        let about = About::new(Call::Build, &spec.service, revision, Some(fence));
        let (service, revision, processes) = (spec.service.clone(), revision.clone(), spec.processes.clone());
        let act = move |state: &mut super::state::State| {
            state.fence(&service, false, fence)?;
            let key = (service.clone(), revision.clone());
            state.stored.insert(key.clone());
            state.staff.entry(key).or_default().known.clone_from(&processes);
            Ok("stored".to_string())
        };
        self.0.call(about, String::new(), act).await
    }

    async fn ensure(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        count: u32,
    ) -> Result<(), Fault> {
        let about = About::new(Call::Ensure, service, revision, Some(fence));
        let (service, revision) = (service.clone(), revision.clone());
        let act = move |state: &mut super::state::State| {
            state.fence(&service, false, fence)?;
            state.ensure(&service, &revision, count)
        };
        self.0.call(about, (), act).await
    }

    async fn ensure_processes(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        run: &ProcessCounts,
    ) -> Result<(), Fault> {
        let about = About::new(Call::EnsureProcesses, service, revision, Some(fence));
        let (service, revision, run) = (service.clone(), revision.clone(), run.clone());
        let act = move |state: &mut super::state::State| {
            state.fence(&service, false, fence)?;
            state.ensure_processes(&service, &revision, &run)
        };
        self.0.call(about, (), act).await
    }

    async fn observe(&self, service: &ServiceName) -> Result<Vec<ObservedRevision>, Fault> {
        let about = About::new(Call::ObserveInstances, service, "", None);
        let service = service.clone();
        self.0.call(about, Vec::new(), move |state| Ok(state.observe(&service))).await
    }

    async fn stamp(&self, service: &ServiceName) -> Option<u64> {
        let mut hash = DefaultHasher::new();
        for instance in self.0.state().observe(service).into_iter().flat_map(|seen| seen.instances) {
            (instance.id.as_str(), instance.address, instance.state as u8).hash(&mut hash);
        }
        Some(hash.finish())
    }

    async fn vouch(&self, service: &ServiceName, instance: &InstanceId) -> Result<(), Fault> {
        let about = About::new(Call::Vouch, service, instance, None);
        let (service, instance) = (service.clone(), instance.clone());
        self.0.call(about, (), move |state| state.vouch(&service, &instance)).await
    }

    async fn restart(
        &self,
        fence: Fence,
        service: &ServiceName,
        instance: &InstanceId,
        _why: &str,
    ) -> Result<(), Fault> {
        let about = About::new(Call::Restart, service, instance, Some(fence));
        let (service, instance) = (service.clone(), instance.clone());
        let act = move |state: &mut super::state::State| {
            state.fence(&service, false, fence)?;
            state.restart(&service, &instance);
            Ok(())
        };
        self.0.call(about, (), act).await
    }

    async fn retire(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let about = About::new(Call::Retire, service, revision, Some(fence));
        let (service, revision) = (service.clone(), revision.clone());
        let act = move |state: &mut super::state::State| {
            state.fence(&service, false, fence)?;
            state.retire(&service, &revision);
            Ok(())
        };
        self.0.call(about, (), act).await
    }

    async fn stored(&self, service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        let about = About::new(Call::Stored, service, "", None);
        let service = service.clone();
        let act = move |state: &mut super::state::State| {
            let mine = state.stored.iter().filter(|(of, _)| *of == service);
            Ok(mine.map(|(_, revision)| revision.clone()).collect())
        };
        self.0.call(about, Vec::new(), act).await
    }

    async fn discard(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let about = About::new(Call::Discard, service, revision, Some(fence));
        let (service, revision) = (service.clone(), revision.clone());
        let act = move |state: &mut super::state::State| {
            state.fence(&service, false, fence)?;
            let seen = state.observe(&service).into_iter().find(|seen| seen.revision == revision);
            if seen.is_some_and(|seen| {
                seen.desired > 0 || !seen.instances.is_empty() || !seen.processes.is_empty()
            }) {
                return Err(Fault::platform(format!(
                    "throw {revision} away: instances of it run or are wanted"
                )));
            }
            state.stored.remove(&(service.clone(), revision.clone()));
            Ok(())
        };
        self.0.call(about, (), act).await
    }

    async fn logs(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        lines: usize,
    ) -> Result<Vec<(InstanceId, Vec<String>)>, Fault> {
        let about = About::new(Call::Logs, service, revision, None);
        let (service, revision) = (service.clone(), revision.clone());
        let act = move |state: &mut super::state::State| {
            let seen = state.observe(&service).into_iter().filter(|seen| seen.revision == revision);
            let tail = |log: Vec<String>| log[log.len().saturating_sub(lines)..].to_vec();
            let mut logs = Vec::new();
            for seen in seen {
                logs.extend(seen.instances.into_iter().map(|instance| (instance.id, tail(instance.log))));
                let workers = seen.processes.into_iter().flat_map(|process| process.instances);
                logs.extend(workers.map(|worker| (worker.id, tail(worker.log))));
            }
            Ok(logs)
        };
        self.0.call(about, Vec::new(), act).await
    }
}
