//! The journal: what happened to each release, who drives which service, and up to when.

mod error;
mod sqlite;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::event::JOURNAL_SCHEMA;
use cutover_core::{Ending, Event, Record, ReleaseId, ReleaseKind, RevisionId, ServiceName};

pub use error::{StoreError, StoreErrorKind};

use crate::clock::Reading;
use crate::error::EngineError;

/// Where the journal is kept. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    journal: Arc<dyn Journal>,
}

impl Store {
    /// Opens the journal in the file at `path`, or makes it where there is none.
    ///
    /// # Errors
    /// When the file is damaged, written by a newer version, or cannot be written. A damaged file is never replaced.
    pub async fn open(path: &Path) -> Result<Store, EngineError> {
        Ok(Store { journal: Arc::new(sqlite::Sqlite::open(path, JOURNAL_SCHEMA).await?) })
    }

    /// Makes a store of anything that keeps a journal: tests wrap one to fail at chosen places.
    pub fn new(journal: Arc<dyn Journal>) -> Store {
        Store { journal }
    }

    /// Returns what keeps the journal.
    pub fn journal(&self) -> Arc<dyn Journal> {
        self.journal.clone()
    }
}

impl std::ops::Deref for Store {
    type Target = dyn Journal;

    fn deref(&self) -> &Self::Target {
        &*self.journal
    }
}

/// Keeps the journal. Each call is one transaction.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Opens a release: it holds its service from then on, and every older driver of the service is fenced.
    ///
    /// # Errors
    /// [`StoreErrorKind::Conflict`] when another release holds the service or took the number.
    async fn open_release(&self, opening: &Opening) -> Result<u64, StoreError>;

    /// Takes over a service whose driver is gone, or that nobody drives.
    async fn claim(&self, service: &ServiceName, tenant: &Tenant, force: bool)
    -> Result<Claimed, StoreError>;

    /// Adds a record to a release's journal. Adding the same again is harmless.
    ///
    /// # Errors
    /// [`StoreErrorKind::Fenced`] when the service has a higher epoch.
    async fn append(&self, append: &Append) -> Result<(), StoreError>;

    /// Prolongs the driver's lease.
    ///
    /// # Errors
    /// [`StoreErrorKind::Fenced`] when the service has a higher epoch.
    async fn renew(&self, service: &ServiceName, epoch: u64, tenant: &Tenant) -> Result<(), StoreError>;

    /// Ends the driver's lease before its time, if it is still its.
    async fn vacate(&self, service: &ServiceName, epoch: u64) -> Result<(), StoreError>;

    /// Makes all releases of a service so far mere history: nothing of it is stable any more.
    ///
    /// # Errors
    /// [`StoreErrorKind::Fenced`] when the service has a higher epoch, [`StoreErrorKind::Conflict`] when a release
    /// holds it.
    async fn destroy(&self, service: &ServiceName, epoch: u64) -> Result<(), StoreError>;

    /// Keeps what was measured in a release, under a name, in place of what was kept before; until the release ends. It is
    /// no record: it makes nothing happen, and is only what a driver that takes over goes on with.
    ///
    /// # Errors
    /// [`StoreErrorKind::Fenced`] when the service has a higher epoch.
    async fn remember(&self, memo: &Memo) -> Result<(), StoreError>;

    /// Returns what is kept of a release, by name.
    async fn remembered(&self, release: &ReleaseId) -> Result<BTreeMap<String, String>, StoreError>;

    /// Returns the records of a release from sequence `from` on, at most `limit`.
    async fn records(&self, release: &ReleaseId, from: u64, limit: u32) -> Result<Vec<Stored>, StoreError>;

    /// Returns the services, by name.
    async fn services(&self) -> Result<Vec<ServiceRow>, StoreError>;

    /// Returns the newest releases, of one service or of all, newest first.
    async fn releases(
        &self,
        service: Option<&ServiceName>,
        limit: u32,
    ) -> Result<Vec<ReleaseRow>, StoreError>;

    /// Returns one release.
    async fn release(&self, id: &ReleaseId) -> Result<Option<ReleaseRow>, StoreError>;
}

/// Who wants a lease, and for how long.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The driver, as shown to people.
    pub owner: String,
    /// Now.
    pub now: Reading,
    /// How long the lease holds.
    pub lease_ms: u64,
}

/// A release to be opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its number among the service's releases.
    pub number: u64,
    /// Its first record, an [`Event::Opened`]; the epoch is filled in.
    pub record: Record,
    /// Who drives it.
    pub tenant: Tenant,
}

/// What came of a claim.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// The service is the claimant's.
    Yes {
        /// Its epoch.
        epoch: u64,
        /// The releases that are not ended, oldest first.
        unended: Vec<ReleaseRow>,
    },
    /// A living driver has it.
    No {
        /// Who.
        owner: String,
        /// For how long at least, in milliseconds.
        left_ms: u64,
    },
}

/// A record to be added.
#[derive(Clone, Debug)]
pub struct Append {
    /// The service.
    pub service: ServiceName,
    /// The release.
    pub release: ReleaseId,
    /// The record.
    pub record: Record,
    /// The clocks at that moment.
    pub reading: Reading,
    /// The candidate is stable as of this record.
    pub decided: bool,
    /// The release is ended as of this record.
    pub ended: Option<Ending>,
    /// How long the candidate took to become ready, once known.
    pub ready_ms: Option<u64>,
}

/// Something to be kept while a release is under way.
#[derive(Clone, Debug)]
pub struct Memo {
    /// The service.
    pub service: ServiceName,
    /// The driver's epoch.
    pub epoch: u64,
    /// The release.
    pub release: ReleaseId,
    /// What it is called.
    pub name: String,
    /// What is kept.
    pub text: String,
}

/// A record as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// The clocks when it was written.
    pub reading: Reading,
}

/// A service as the journal knows it.
#[derive(Clone, Debug)]
pub struct ServiceRow {
    /// Its name.
    pub name: ServiceName,
    /// Raised with each release and each change of driver.
    pub epoch: u64,
    /// The release that holds it.
    pub holder: Option<ReleaseId>,
    /// Its driver, while there is something to drive.
    pub owner: Option<String>,
    /// The end of the driver's lease: boot, milliseconds since that boot.
    pub lease_until: Option<(String, u64)>,
}

impl ServiceRow {
    /// Returns for how many milliseconds the driver's lease still holds; none when it is over.
    ///
    /// A lease of another boot is over: the file lies on this machine, and so did its driver.
    pub fn lease_left_ms(&self, now: &Reading) -> Option<u64> {
        let (boot, until) = self.lease_until.as_ref()?;
        (boot == &now.boot && *until > now.boot_ms).then(|| until - now.boot_ms)
    }
}

/// A release as the journal knows it, without its records.
#[derive(Clone, Debug)]
pub struct ReleaseRow {
    /// Its name.
    pub id: ReleaseId,
    /// The service.
    pub service: ServiceName,
    /// Its number among the service's releases, from 1.
    pub number: u64,
    /// Why it exists.
    pub kind: ReleaseKind,
    /// The revision to release.
    pub candidate: RevisionId,
    /// The revision that was stable before.
    pub replaced: Option<RevisionId>,
    /// Who asked for it.
    pub by: String,
    /// When it began, on the wall.
    pub opened_ms: u64,
    /// When its candidate became stable, on the wall.
    pub decided_ms: Option<u64>,
    /// When it ended, on the wall.
    pub ended_ms: Option<u64>,
    /// How it ended.
    pub ending: Option<Ending>,
    /// How long the candidate took to become ready.
    pub ready_ms: Option<u64>,
    /// The service was taken off the machine since.
    pub gone: bool,
}

impl ReleaseRow {
    /// Tells whether it holds its service: neither decided nor ended.
    pub fn holds_service(&self) -> bool {
        self.decided_ms.is_none() && self.ended_ms.is_none()
    }
}

/// Returns the release and plan of a journal's first record.
pub(crate) fn opened(records: &[Stored]) -> Option<(&cutover_core::Release, &cutover_core::Plan)> {
    match &records.first()?.record.event {
        Event::Opened { release, plan } => Some((release, plan)),
        _ => None,
    }
}
