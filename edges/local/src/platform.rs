//! The local platform: processes on this machine, supervised one task each.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{After, Fault, Fence, InstanceId, ProcessCounts, ProcessName, RevisionId, ServiceName};
use cutover_keep::{Vault, Wish};
use cutover_ports::{ObservedRevision, Platform, RevisionSpec};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::cgroup::Groups;
use crate::disk;
use crate::logs;
use crate::losses;
use crate::options::Options;
use crate::ports::Ports;
use crate::preflight::{self, Running};
use crate::process::{self, Leader};
use crate::record::{InstanceRecord, Records};
use crate::seen::Seen;
use crate::store::Store;
use crate::supervise::{Handle, Shared, Status};
use crate::upkeep::Upkeep;
use crate::{upkeep, vouch};

/// How long an open waits for an earlier platform in the same folder to let go.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long killed processes may take to vanish before `retire` gives up waiting.
pub(crate) const KILL_WAIT: Duration = Duration::from_secs(20);
const DEAD_LOGS_KEPT: usize = 8;

/// Processes on this machine. Dropping it, or the death of this process, leaves the instances running; the
/// next open adopts them.
pub struct LocalPlatform {
    pub(crate) shared: Arc<Shared>,
    pub(crate) services: Mutex<BTreeMap<ServiceName, Service>>,
    closing: watch::Sender<bool>,
    upkeep: JoinHandle<()>,
}

#[derive(Default)]
pub(crate) struct Service {
    pub(crate) record: Wish,
    pub(crate) instances: Vec<Handle>,
}

impl LocalPlatform {
    /// Opens the platform whose state lies in `<state_dir>/local`, adopts the instances that run, finishes
    /// stops that were
    /// cut short, and starts what is wanted but does not run. One process at a time; needs a tokio runtime
    /// with I/O and time.
    pub async fn open(state_dir: PathBuf, options: Options) -> Result<LocalPlatform, Fault> {
        let shared = Arc::new(blocking(move || prepare(&state_dir, options)).await?);
        let closing = watch::channel(false).0;
        let upkeep = tokio::spawn(upkeep::follow(shared.clone(), closing.subscribe()));
        let platform = LocalPlatform { shared, services: Mutex::default(), closing, upkeep };
        platform.adopt_all().await?;
        Ok(platform)
    }

    /// Lets go of the instances, which go on running, and returns when no task of the platform is left.
    pub async fn shutdown(mut self) {
        self.closing.send_replace(true);
        let services = std::mem::take(&mut *self.services.lock().await);
        for handle in services.into_values().flat_map(|service| service.instances) {
            handle.join().await;
        }
        if let Err(error) = (&mut self.upkeep).await {
            tracing::error!(%error, "looking after the instances ended badly");
        }
    }

    /// Returns what a stored revision was made from, whatever became of its artifact since. Its secrets stay
    /// sealed.
    pub async fn spec(&self, revision: &RevisionId) -> Result<RevisionSpec, Fault> {
        let revision = revision.clone();
        self.with_store(move |store| store.spec(&revision)).await
    }

    async fn adopt_all(&self) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let found = blocking(move || {
            let mut found = Vec::new();
            for service in shared.records.services()? {
                shared.records.prepare(&service)?;
                let (record, instances) = shared.records.read(&service)?;
                let ports = instances.iter().filter_map(|instance| instance.port);
                ports.for_each(|port| shared.ports.claim(port));
                found.push((service, record, instances));
            }
            let ids = found.iter().flat_map(|(_, _, instances)| instances).map(|one| one.id.to_string());
            shared.groups.sweep(&ids.collect());
            Ok(found)
        })
        .await?;
        let mut services = self.services.lock().await;
        for (name, record, instances) in found {
            let mut service = Service { record, instances: Vec::new() };
            for mut instance in instances {
                let leader = Leader::adopt(&instance, &self.shared.boot)
                    .map_err(|error| Fault::platform(format!("adopt instance {}: {error}", instance.id)))?;
                // Its revision is wanted no more: a retire was cut short between the wish and the signal.
                instance.stopping |= !service.record.wants(&instance.revision, instance.beside.as_ref());
                tracing::info!(instance = %instance.id, runs = leader.is_some(), stopping = instance.stopping, "instance adopted");
                service.instances.push(self.supervise(instance, leader, false));
            }
            for (revision, beside, count) in service.record.wishes() {
                self.settle(&name, &mut service, &revision, beside.as_ref(), count).await?;
            }
            services.insert(name, service);
        }
        Ok(())
    }

    fn supervise(&self, instance: InstanceRecord, leader: Option<Leader>, fresh: bool) -> Handle {
        Handle::supervise(&self.shared, instance, leader, fresh, self.closing.subscribe())
    }

    /// Starts what is missing of the revision's routed instances, or of a process beside them, and stops what is too much.
    pub(crate) async fn settle(
        &self,
        name: &ServiceName,
        service: &mut Service,
        revision: &RevisionId,
        beside: Option<&ProcessName>,
        count: u32,
    ) -> Result<(), Fault> {
        service.instances.retain(|handle| !handle.is_gone());
        let kept: Vec<&Handle> = service
            .instances
            .iter()
            .filter(|handle| handle.revision == *revision && handle.beside.as_ref() == beside)
            .filter(|handle| !handle.is_stopping())
            .collect();
        let mut slots: Vec<u32> = kept.iter().map(|handle| handle.slot).collect();
        slots.sort_unstable();
        for surplus in slots.iter().skip(count as usize) {
            kept.iter().filter(|handle| handle.slot == *surplus).for_each(|handle| handle.stop());
        }
        let missing = (count as usize).saturating_sub(slots.len());
        let free: Vec<u32> = (1..).filter(|slot| !slots.contains(slot)).take(missing).collect();
        if !free.is_empty() {
            let (folder, live) = (
                self.shared.records.logs(name, revision),
                service.instances.iter().map(|handle| handle.log.clone()).collect::<Vec<_>>(),
            );
            let _ = spawn_blocking(move || logs::prune(&folder, &live, DEAD_LOGS_KEPT)).await;
        }
        for slot in free {
            let (shared, name, revision) = (self.shared.clone(), name.clone(), revision.clone());
            let beside = beside.cloned();
            let instance = blocking(move || {
                let port = if beside.is_none() { Some(shared.ports.take()?) } else { None };
                let written = InstanceRecord::intend(&name, &revision, beside.as_ref(), slot, port)
                    .and_then(|record| shared.records.write(&record).map(|()| record));
                written.inspect_err(|_| port.iter().for_each(|port| shared.ports.free(*port)))
            })
            .await?;
            service.instances.push(self.supervise(instance, None, true));
        }
        Ok(())
    }

    /// Notes the fence and what `change` makes of the wish, on disk before anything acts on it.
    pub(crate) async fn admit(
        &self,
        fence: Fence,
        name: &ServiceName,
        service: &mut Service,
        change: impl FnOnce(&mut Wish),
    ) -> Result<(), Fault> {
        let mut record = service.record.admit(fence, name)?;
        change(&mut record);
        let (shared, name, written) = (self.shared.clone(), name.clone(), record.clone());
        blocking(move || {
            shared.records.prepare(&name)?;
            shared.records.write_service(&name, &written)
        })
        .await?;
        service.record = record;
        Ok(())
    }

    pub(crate) async fn statuses(
        &self,
        service: &ServiceName,
        of: impl Fn(&Handle) -> bool,
    ) -> Vec<(InstanceId, watch::Receiver<Status>)> {
        let services = self.services.lock().await;
        let handles = services.get(service).into_iter().flat_map(|service| &service.instances);
        handles.filter(|handle| of(handle)).map(|handle| (handle.id.clone(), handle.status.clone())).collect()
    }

    pub(crate) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let shared = self.shared.clone();
        blocking(move || work(&shared.store)).await
    }
}

impl Drop for LocalPlatform {
    /// Ends the supervisors, not the instances.
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

#[async_trait]
impl Platform for LocalPlatform {
    async fn identify(&self, spec: &RevisionSpec) -> Result<RevisionId, Fault> {
        let spec = spec.clone();
        self.with_store(move |store| store.identify(&spec)).await
    }

    async fn losses(&self, spec: &RevisionSpec) -> Result<Vec<String>, Fault> {
        let (spec, shared) = (spec.clone(), self.shared.clone());
        blocking(move || losses::of(&shared, &spec)).await
    }

    async fn preflight(&self, spec: &RevisionSpec, candidate: &RevisionId) -> Result<String, Fault> {
        let mut running = Running { of_candidate: 0, beside: 0, processes: Vec::new() };
        let services = self.services.lock().await;
        for handle in services.get(&spec.service).into_iter().flat_map(|service| &service.instances) {
            if let Some(process) = handle.status.borrow().process.clone() {
                let stays = u32::from(handle.revision == *candidate && !handle.is_stopping());
                match handle.beside {
                    None => running.of_candidate += stays,
                    Some(_) => running.beside += stays,
                }
                running.processes.push((handle.id.clone(), process));
            }
        }
        drop(services);
        let (spec, candidate) = (spec.clone(), candidate.clone());
        self.with_store(move |store| preflight::look(store, &spec, &candidate, &running)).await
    }

    async fn build(&self, fence: Fence, spec: &RevisionSpec, revision: &RevisionId) -> Result<String, Fault> {
        let mut services = self.services.lock().await;
        let service = services.entry(spec.service.clone()).or_default();
        self.admit(fence, &spec.service, service, |_| ()).await?;
        drop(services);
        let (spec, revision) = (spec.clone(), revision.clone());
        self.with_store(move |store| store.build(&spec, &revision)).await
    }

    async fn ensure(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        count: u32,
    ) -> Result<(), Fault> {
        let mut services = self.services.lock().await;
        // Under the lock, so that it is not discarded between the question and the wish.
        let wanted = revision.clone();
        self.with_store(move |store| store.stored(&wanted).map(drop)).await?;
        let entry = services.entry(service.clone()).or_default();
        self.admit(fence, service, entry, |record| {
            match count {
                0 => record.desired.remove(revision),
                _ => record.desired.insert(revision.clone(), count),
            };
        })
        .await?;
        self.settle(service, entry, revision, None, count).await?;
        drop(services);
        let routed = |handle: &Handle| handle.revision == *revision && handle.beside.is_none();
        self.started(service, routed).await
    }

    async fn ensure_processes(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        run: &ProcessCounts,
    ) -> Result<(), Fault> {
        self.staff(fence, service, revision, run).await
    }

    async fn observe(&self, service: &ServiceName) -> Result<Vec<ObservedRevision>, Fault> {
        let mut services = self.services.lock().await;
        let Some(service) = services.get_mut(service) else { return Ok(Vec::new()) };
        service.instances.retain(|handle| !handle.is_gone());
        let seen = Seen::of(service);
        drop(services);
        blocking(move || Ok(seen.read())).await
    }

    async fn stamp(&self, service: &ServiceName) -> Option<u64> {
        let services = self.services.lock().await;
        let mut hash = DefaultHasher::new();
        for handle in services.get(service).into_iter().flat_map(|service| &service.instances) {
            let status = handle.status.borrow();
            let process = status.process.as_ref().map(|process| (process.pid, process.start));
            (handle.id.as_str(), status.port, status.state as u8, process, status.gone).hash(&mut hash);
        }
        Some(hash.finish())
    }

    async fn vouch(&self, service: &ServiceName, instance: &InstanceId) -> Result<(), Fault> {
        let found = self.statuses(service, |handle| handle.id == *instance).await.pop();
        let status = found.map(|(_, status)| status.borrow().clone()).filter(|status| !status.gone);
        let status = status.ok_or_else(|| {
            Fault::cutover(format!("find instance {instance} of {service}: it is not there")).fatal()
        })?;
        let Some(leader) = status.process else {
            let what = format!("instance {instance} does not run: {}", status.why);
            return Err(Fault { after: After::Retry, ..Fault::candidate(what) });
        };
        let Some(port) = status.port else {
            let what = format!("see who listens for {instance}: no request goes to it");
            return Err(Fault::cutover(what).fatal());
        };
        let id = instance.clone();
        blocking(move || vouch::vouch(&id, &leader, port)).await
    }

    async fn restart(
        &self,
        fence: Fence,
        service: &ServiceName,
        instance: &InstanceId,
        why: &str,
    ) -> Result<(), Fault> {
        let mut services = self.services.lock().await;
        let entry = services.entry(service.clone()).or_default();
        self.admit(fence, service, entry, |_| {}).await?;
        // One that is gone meanwhile needs no end.
        entry.instances.iter().filter(|handle| handle.id == *instance).for_each(|handle| handle.restart(why));
        Ok(())
    }

    async fn retire(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let mut services = self.services.lock().await;
        let entry = services.entry(service.clone()).or_default();
        self.admit(fence, service, entry, |record| {
            record.desired.remove(revision);
            record.processes.remove(revision);
        })
        .await?;
        entry.instances.iter().filter(|handle| handle.revision == *revision).for_each(Handle::stop);
        drop(services);
        let stored = revision.clone();
        let grace = self
            .with_store(move |store| Ok(store.manifest(&stored)?.map(|manifest| manifest.longest_grace())))
            .await;
        let grace = grace.ok().flatten().map_or(Duration::from_secs(30), |grace| grace.duration());
        let deadline = tokio::time::Instant::now() + grace + KILL_WAIT;
        self.gone(service, deadline, |handle| handle.revision == *revision).await?;
        let mut services = self.services.lock().await;
        if let Some(entry) = services.get_mut(service) {
            entry.instances.retain(|handle| !handle.is_gone());
        }
        Ok(())
    }

    async fn stored(&self, service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        let service = service.clone();
        self.with_store(move |store| store.list(&service)).await
    }

    async fn discard(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let mut services = self.services.lock().await;
        let entry = services.entry(service.clone()).or_default();
        self.admit(fence, service, entry, |_| ()).await?;
        let runs = |handle: &Handle| handle.revision == *revision && !handle.is_gone();
        let record = &entry.record;
        let wanted = record.desired.contains_key(revision) || record.processes.contains_key(revision);
        if wanted || entry.instances.iter().any(runs) {
            return Err(Fault::platform(format!("throw {revision} away: instances of it run or are wanted")));
        }
        let (shared, of, which) = (self.shared.clone(), service.clone(), revision.clone());
        let removed = blocking(move || {
            // Its logs first: what a crash leaves is still a revision, and is thrown away again.
            disk::remove_tree(&shared.records.logs(&of, &which));
            shared.store.take_out(&of, &which)
        })
        .await?;
        // Nobody can start it any more; removing what may be large keeps nobody waiting.
        drop(services);
        spawn_blocking(move || removed.iter().for_each(|folder| disk::remove_tree(folder)))
            .await
            .map_err(|error| Fault::cutover(format!("finish a task: {error}")))
    }

    async fn logs(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        lines: usize,
    ) -> Result<Vec<(InstanceId, Vec<String>)>, Fault> {
        let folder = self.shared.records.logs(service, revision);
        let read = move || {
            if !folder.exists() {
                return Ok(Vec::new());
            }
            let names = disk::names(&folder)?;
            let ids = names.iter().filter_map(|name| name.strip_suffix(".log"));
            Ok(ids
                .map(|id| (InstanceId::new(id), logs::tail(&folder.join(format!("{id}.log")), lines)))
                .collect())
        };
        blocking(read).await
    }
}

fn prepare(state_dir: &Path, options: Options) -> Result<Shared, Fault> {
    let folder = state_dir.join("local");
    let folder = folder.as_path();
    disk::ensure_folder(folder, 0o711)?;
    let lock = lock(&folder.join("lock"))?;
    let vault = Vault::open(folder.join("sealed"))?;
    let store = Store::open(folder.join("revisions"), vault, options.reserve_bytes)?;
    let records = Records::open(folder.join("services"))?;
    let boot =
        process::boot_id().map_err(|error| Fault::platform(format!("read this boot's id: {error}")))?;
    let groups = if options.cgroups { Groups::open(state_dir) } else { Groups::none() };
    Ok(Shared {
        store,
        records,
        ports: Ports::default(),
        groups,
        upkeep: Upkeep::default(),
        options,
        boot,
        _lock: lock,
    })
}

fn lock(path: &Path) -> Result<std::fs::File, Fault> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.map_err(|error| disk::fault("open", path, &error))?;
    let begin = std::time::Instant::now();
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(disk::fault("lock", path, &error.into()));
        }
        if begin.elapsed() > LOCK_WAIT {
            let what = format!("lock {}: another cutover server uses this state folder", path.display());
            return Err(Fault::cutover(what)
                .fatal()
                .hint("Use that server, or another folder: --state DIR."));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(file)
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(Fault::cutover(format!("finish a task: {error}"))))
}
