//! Death at a chosen place of the journal, for the kill tests: debug builds only.
//!
//! `CUTOVER_TEST_DIE=before:N` (or `after:N`) kills this process before (after) its N-th append is written;
//! `CUTOVER_TEST_STOP` stops it there, until SIGCONT: a test then does what it likes to others, at that very place.
//! With `each` for N it happens at all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use cutover_core::{ReleaseId, ServiceName};
use cutover_engine::store::{
    Append, Claimed, Journal, Memo, Opening, ReleaseRow, ServiceRow, Store, StoreError, Stored, Tenant,
};
use cutover_engine::{Clock, Reading, SystemClock};
use rustix::process::{Signal, getpid, kill_process};

/// Wraps the store where the environment asks for it.
pub(super) fn wrap(store: Store) -> Store {
    let place = |name| std::env::var(name).ok();
    let (text, signal) = match (place("CUTOVER_TEST_DIE"), place("CUTOVER_TEST_STOP")) {
        (Some(text), _) => (text, Signal::KILL),
        (None, Some(text)) => (text, Signal::STOP),
        (None, None) => return store,
    };
    let (when, number) = text.split_once(':').unwrap_or(("after", "0"));
    let (left, each) = (AtomicI64::new(number.parse().unwrap_or(0)), number == "each");
    Store::new(Arc::new(Hit { journal: store.journal(), left, each, before: when == "before", signal }))
}

/// The clock that the environment asks for.
pub(super) fn clock() -> Arc<dyn Clock> {
    let system = SystemClock::new();
    match std::env::var_os("CUTOVER_TEST_WALL") {
        Some(file) => Arc::new(Stepped { system, file: file.into() }),
        None => Arc::new(system),
    }
}

struct Stepped {
    system: SystemClock,
    file: PathBuf,
}

impl Clock for Stepped {
    fn read(&self) -> Reading {
        let reading = self.system.read();
        let step = std::fs::read_to_string(&self.file).ok().and_then(|text| text.trim().parse().ok());
        Reading { wall_ms: reading.wall_ms.saturating_add_signed(step.unwrap_or(0)), ..reading }
    }
}

struct Hit {
    journal: Arc<dyn Journal>,
    left: AtomicI64,
    each: bool,
    before: bool,
    signal: Signal,
}

impl Hit {
    async fn at<T>(&self, write: impl Future<Output = T>) -> T {
        let now = self.each || self.left.fetch_sub(1, Ordering::SeqCst) == 0;
        if now && self.before {
            self.hit();
        }
        let written = write.await;
        if now && !self.before {
            self.hit();
        }
        written
    }

    fn hit(&self) {
        let _ = kill_process(getpid(), self.signal);
    }
}

#[async_trait]
impl Journal for Hit {
    async fn open_release(&self, opening: &Opening) -> Result<u64, StoreError> {
        self.at(self.journal.open_release(opening)).await
    }

    async fn append(&self, append: &Append) -> Result<(), StoreError> {
        self.at(self.journal.append(append)).await
    }

    async fn claim(
        &self,
        service: &ServiceName,
        tenant: &Tenant,
        force: bool,
    ) -> Result<Claimed, StoreError> {
        self.journal.claim(service, tenant, force).await
    }

    async fn remember(&self, memo: &Memo) -> Result<(), StoreError> {
        self.journal.remember(memo).await
    }

    async fn remembered(&self, release: &ReleaseId) -> Result<BTreeMap<String, String>, StoreError> {
        self.journal.remembered(release).await
    }

    async fn renew(&self, service: &ServiceName, epoch: u64, tenant: &Tenant) -> Result<(), StoreError> {
        self.journal.renew(service, epoch, tenant).await
    }

    async fn vacate(&self, service: &ServiceName, epoch: u64) -> Result<(), StoreError> {
        self.journal.vacate(service, epoch).await
    }

    async fn destroy(&self, service: &ServiceName, epoch: u64) -> Result<(), StoreError> {
        self.journal.destroy(service, epoch).await
    }

    async fn records(&self, release: &ReleaseId, from: u64, limit: u32) -> Result<Vec<Stored>, StoreError> {
        self.journal.records(release, from, limit).await
    }

    async fn services(&self) -> Result<Vec<ServiceRow>, StoreError> {
        self.journal.services().await
    }

    async fn releases(
        &self,
        service: Option<&ServiceName>,
        limit: u32,
    ) -> Result<Vec<ReleaseRow>, StoreError> {
        self.journal.releases(service, limit).await
    }

    async fn release(&self, id: &ReleaseId) -> Result<Option<ReleaseRow>, StoreError> {
        self.journal.release(id).await
    }
}
