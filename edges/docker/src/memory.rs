//! What is known only as long as the server lives: how containers ended, which are being stopped, and whether anything
//! changed since it was last looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cutover_core::{RevisionId, ServiceName};
use cutover_ports::ObservedRevision;
use tokio::sync::Notify;

/// Logs that are shown may be so old.
const MOMENT: Duration = Duration::from_millis(300);

/// What was seen of a service: in which generation, when, and what.
type Look = (u64, Instant, Vec<ObservedRevision>);

#[derive(Default)]
pub(crate) struct Memory {
    /// By the engine's id of the container.
    endings: Mutex<BTreeMap<String, String>>,
    killed: Mutex<BTreeSet<String>>,
    stopping: Mutex<BTreeSet<String>>,
    building: Mutex<BTreeSet<RevisionId>>,
    restarts: Mutex<BTreeSet<String>>,
    /// Why those are ended that were asked to be started again.
    reasons: Mutex<BTreeMap<String, String>>,
    stamps: Mutex<BTreeMap<ServiceName, (u64, u64)>>,
    looks: Mutex<BTreeMap<ServiceName, Look>>,
    generation: AtomicU64,
    following: AtomicBool,
    pub(crate) woken: Notify,
}

impl Memory {
    /// Notes that something changed, or may have.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.woken.notify_one();
    }

    /// Notes whether the engine tells of changes.
    pub(crate) fn following(&self, does: bool) {
        self.following.store(does, Ordering::SeqCst);
        self.changed();
    }

    /// Returns a number that rises with each change.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Returns the stamp of a service, if nothing changed since it was computed.
    pub(crate) fn stamp(&self, service: &ServiceName) -> Option<u64> {
        let (at, stamp) = lock(&self.stamps).get(service).copied()?;
        (self.following.load(Ordering::SeqCst) && at == self.generation()).then_some(stamp)
    }

    /// Notes the stamp of a service as it was in a generation.
    pub(crate) fn note_stamp(&self, service: &ServiceName, generation: u64, stamp: u64) {
        lock(&self.stamps).insert(service.clone(), (generation, stamp));
    }

    /// Returns what was last seen of a service, if nothing changed since and its logs are no older than a moment.
    pub(crate) fn seen(&self, service: &ServiceName) -> Option<Vec<ObservedRevision>> {
        let looks = lock(&self.looks);
        let (at, when, seen) = looks.get(service)?;
        let fresh = self.following.load(Ordering::SeqCst) && *at == self.generation();
        (fresh && when.elapsed() < MOMENT).then(|| seen.clone())
    }

    /// Notes what was seen of a service in a generation.
    pub(crate) fn note_seen(&self, service: &ServiceName, generation: u64, seen: &[ObservedRevision]) {
        lock(&self.looks).insert(service.clone(), (generation, Instant::now(), seen.to_vec()));
    }

    /// Notes that the kernel killed a process of the container for its memory.
    pub(crate) fn out_of_memory(&self, id: &str) {
        lock(&self.killed).insert(id.into());
    }

    /// Tells whether the kernel killed a process of the container since it was last asked.
    pub(crate) fn take_out_of_memory(&self, id: &str) -> bool {
        lock(&self.killed).remove(id)
    }

    /// Notes why the container ended.
    pub(crate) fn ended(&self, id: &str, why: String) {
        lock(&self.endings).insert(id.into(), why);
    }

    /// Returns why the container ended the last time; empty where that is not known.
    pub(crate) fn ending(&self, id: &str) -> String {
        lock(&self.endings).get(id).cloned().unwrap_or_default()
    }

    /// Forgets a container that is gone.
    pub(crate) fn forget(&self, id: &str) {
        lock(&self.endings).remove(id);
        lock(&self.killed).remove(id);
        lock(&self.reasons).remove(id);
    }

    /// Asks for the container to be ended and started again.
    pub(crate) fn restart(&self, id: String, why: &str) {
        lock(&self.reasons).insert(id.clone(), why.into());
        self.ended(&id, why.into());
        lock(&self.restarts).insert(id);
        self.changed();
    }

    /// Returns what was asked to be started again since this was last called.
    pub(crate) fn take_restarts(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.restarts))
    }

    /// Returns why the container was ended, if that was asked for.
    pub(crate) fn take_reason(&self, id: &str) -> Option<String> {
        lock(&self.reasons).remove(id)
    }

    /// Notes that the revision is being built, until what is returned is dropped.
    pub(crate) fn build(&self, revision: &RevisionId) -> Building<'_> {
        lock(&self.building).insert(revision.clone());
        Building { memory: self, revision: revision.clone() }
    }

    /// Tells whether the revision is being built.
    pub(crate) fn is_building(&self, revision: &RevisionId) -> bool {
        lock(&self.building).contains(revision)
    }

    /// Claims the stop of a container; none where somebody stops it already.
    pub(crate) fn stop(&self, id: &str) -> Option<Stopping<'_>> {
        let first = lock(&self.stopping).insert(id.into());
        self.changed();
        first.then(|| Stopping { memory: self, id: id.into() })
    }

    /// Tells whether somebody stops the container.
    pub(crate) fn is_stopping(&self, id: &str) -> bool {
        lock(&self.stopping).contains(id)
    }
}

/// The build of a revision, until it is dropped.
pub(crate) struct Building<'a> {
    memory: &'a Memory,
    revision: RevisionId,
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        lock(&self.memory.building).remove(&self.revision);
    }
}

/// The stop of a container, until it is dropped.
pub(crate) struct Stopping<'a> {
    memory: &'a Memory,
    id: String,
}

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        lock(&self.memory.stopping).remove(&self.id);
        self.memory.changed();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
