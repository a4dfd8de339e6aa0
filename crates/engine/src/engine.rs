//! The engine: opens the journal's services, takes over what nobody drives, and stops in good order.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutover_core::{Event, LoadProgress, Machine, ReleaseId, ServiceName};
use cutover_ports::Edges;
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::clock::Anchor;
use crate::driver::{Begun, Driver, provisioning};
use crate::error::{EngineError, EngineErrorKind};
use crate::options::EngineOptions;
use crate::service::{Live, Service};
use crate::store::{
    Append, Claimed, ReleaseRow, ServiceRow, Store, StoreError, StoreErrorKind, Stored, Tenant, opened,
};
use crate::util::lock;
use crate::{lease, live, revisions, sync, trips};

/// How long a stopping engine waits for its tasks.
const STOP: Duration = Duration::from_secs(10);
const PAGE: u32 = 1_000;
const AGAIN: Duration = Duration::from_secs(1);
/// The number of the trip that a reboot is. Routers count theirs from 1.
const REBOOT: u64 = 0;

/// Drives releases: one engine per process.
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// What all tasks of an engine share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) edges: Edges,
    pub(crate) options: EngineOptions,
    services: Mutex<BTreeMap<ServiceName, Arc<Service>>>,
    tasks: Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
    background: std::sync::Once,
    /// Where the load tests are that run now.
    pub(crate) loads: Mutex<BTreeMap<ReleaseId, watch::Receiver<Option<LoadProgress>>>>,
    /// Taking services over happens one at a time: no release gets two drivers.
    pub(crate) taking: tokio::sync::Mutex<()>,
}

impl Engine {
    /// Makes an engine on an open journal. It drives nothing until it is asked to.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn open(
        store: Store,
        edges: Edges,
        options: EngineOptions,
    ) -> Result<Arc<Engine>, EngineError> {
        store.services().await?;
        let shared = Arc::new(Shared {
            store,
            edges,
            options,
            services: Mutex::default(),
            tasks: Mutex::default(),
            stop: watch::Sender::new(false),
            background: std::sync::Once::new(),
            loads: Mutex::default(),
            taking: tokio::sync::Mutex::default(),
        });
        Ok(Arc::new(Engine { shared }))
    }

    /// Takes over every service of the journal and drives on what is not ended, tails included. A service that a
    /// living driver has is waited for in the background. Returns the releases taken over now.
    ///
    /// # Errors
    /// When the journal cannot be read or written.
    pub async fn recover(&self) -> Result<Vec<ReleaseId>, EngineError> {
        self.shared.start_background();
        let mut taken = Vec::new();
        for row in self.shared.store.services().await? {
            match self.shared.take(&row.name, self.shared.options.sole).await? {
                Taken::Now(releases) => taken.extend(releases),
                Taken::Held { owner, .. } => {
                    info!(service = %row.name, %owner, "another driver has the service, waiting for its lease to end");
                    let shared = self.shared.clone();
                    self.shared.spawn(async move { shared.take_later(row.name).await });
                }
            }
        }
        Ok(taken)
    }

    /// Stops driving and gives the leases back. Nothing is undone: traffic stays as it is, and the next engine
    /// drives on. A candidate's traffic returns by itself when its lease lapses before that.
    pub async fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        let end = tokio::time::Instant::now() + STOP;
        let mut tasks = std::mem::take(&mut *lock(&self.shared.tasks));
        while let Ok(Some(_)) = tokio::time::timeout_at(end, tasks.join_next()).await {}
        tasks.shutdown().await;
        for service in self.shared.services() {
            if let Err(error) = self.shared.store.vacate(&service.name, service.epoch()).await {
                warn!(service = %service.name, %error, "the lease could not be given back, it ends by itself");
            }
        }
    }

    /// Drops everything at once, as a crash would: for tests.
    #[doc(hidden)]
    pub async fn crash(&self) {
        self.shared.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *lock(&self.shared.tasks));
        tasks.shutdown().await;
    }
}

/// What came of taking a service over.
pub(crate) enum Taken {
    Now(Vec<ReleaseId>),
    Held { owner: String, left_ms: u64 },
}

impl Shared {
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub(crate) fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Spawns a task that the engine joins when it stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        if !self.stopped() {
            tasks.spawn(task);
        }
    }

    pub(crate) fn start_background(self: &Arc<Self>) {
        self.background.call_once(|| {
            self.spawn(again("trips", self.clone(), trips::follow));
            self.spawn(again("leases", self.clone(), lease::renew));
            self.spawn(again("targets", self.clone(), sync::follow));
            self.spawn(again("liveness", self.clone(), live::follow));
            self.spawn(again("revisions", self.clone(), revisions::follow));
        });
    }

    /// Spawns a driver. One that panics is a defect of cutover: its release is taken over like a dead engine's.
    pub(crate) fn drive(self: &Arc<Self>, service: &Arc<Service>, driver: Driver) {
        let (shared, service) = (self.clone(), service.clone());
        self.spawn(async move {
            if AssertUnwindSafe(driver.run()).catch_unwind().await.is_err() {
                error!(service = %service.name, "a driver panicked: its service is taken over when its lease is over");
                service.lose();
                shared.forget(&service);
                shared.take_later(service.name.clone()).await;
            }
        });
    }

    pub(crate) fn tenant(&self) -> Tenant {
        let lease_ms = u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX);
        Tenant { owner: self.options.owner.clone(), now: self.options.clock.read(), lease_ms }
    }

    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        lock(&self.services).values().cloned().collect()
    }

    pub(crate) fn service(&self, name: &ServiceName) -> Option<Arc<Service>> {
        lock(&self.services).get(name).filter(|service| !service.lost()).cloned()
    }

    /// Forgets a service that another engine took over.
    pub(crate) fn forget(&self, service: &Arc<Service>) {
        let mut services = lock(&self.services);
        if services.get(&service.name).is_some_and(|known| Arc::ptr_eq(known, service)) {
            services.remove(&service.name);
        }
    }

    pub(crate) fn live(&self, id: &ReleaseId) -> Option<Live> {
        self.services().iter().filter(|service| !service.lost()).find_map(|service| service.live(id))
    }

    pub(crate) async fn service_row(&self, name: &ServiceName) -> Result<Option<ServiceRow>, StoreError> {
        Ok(self.store.services().await?.into_iter().find(|row| &row.name == name))
    }

    /// Returns this engine's service under `epoch`, known or new.
    pub(crate) fn occupy(&self, name: &ServiceName, epoch: u64) -> Arc<Service> {
        let mut services = lock(&self.services);
        let known = services.get(name).filter(|service| !service.lost()).cloned();
        let service = known.unwrap_or_else(|| Arc::new(Service::new(name.clone(), epoch)));
        service.raise(epoch);
        services.insert(name.clone(), service.clone());
        service
    }

    /// Takes a service over and drives its releases on.
    pub(crate) async fn take(
        self: &Arc<Self>,
        name: &ServiceName,
        force: bool,
    ) -> Result<Taken, EngineError> {
        let _turn = self.taking.lock().await;
        if let Some(service) = self.service(name)
            && self.service_row(name).await?.is_some_and(|row| row.epoch == service.epoch())
        {
            return Ok(Taken::Now(Vec::new()));
        }
        match self.store.claim(name, &self.tenant(), force).await? {
            Claimed::No { owner, left_ms } => Ok(Taken::Held { owner, left_ms }),
            Claimed::Yes { epoch, unended } => {
                if let Some(old) = self.service(name) {
                    // Someone else had it in between: its drivers here are fenced already.
                    old.lose();
                    self.forget(&old);
                }
                let service = self.occupy(name, epoch);
                let taken = self.resume(&service, unended).await?;
                self.spawn(sync::revive(self.clone(), service));
                Ok(Taken::Now(taken))
            }
        }
    }

    async fn take_later(self: Arc<Self>, name: ServiceName) {
        let mut stop = self.stopping();
        loop {
            let wait = match self.take(&name, false).await {
                Ok(Taken::Now(releases)) => {
                    for release in releases {
                        info!(%release, "release taken over");
                    }
                    return;
                }
                Ok(Taken::Held { left_ms, .. }) => Duration::from_millis(left_ms.clamp(50, 1_000)),
                Err(error) => {
                    warn!(service = %name, %error, "the service could not be taken over yet");
                    Duration::from_secs(1)
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts drivers for releases that are not ended and that this engine does not drive yet.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        service: &Arc<Service>,
        unended: Vec<ReleaseRow>,
    ) -> Result<Vec<ReleaseId>, EngineError> {
        let mut begun = Vec::new();
        for row in unended {
            if service.live(&row.id).is_some() {
                continue;
            }
            match self.taken_over(service, &row).await {
                Ok(one) => begun.push(one),
                // One unreadable release must not keep the others from being driven.
                Err(error) if error.kind() == EngineErrorKind::Damaged => {
                    error!(release = %row.id, %error, "release cannot be driven on");
                }
                Err(error) => return Err(error),
            }
        }
        // All are shown before any acts: each looks at the others.
        let ids = begun.iter().map(|begun| begun.release.id.clone()).collect();
        let drivers: Vec<Driver> =
            begun.into_iter().map(|begun| Driver::new(self.clone(), service.clone(), begun)).collect();
        for driver in drivers {
            self.drive(service, driver);
        }
        Ok(ids)
    }

    async fn taken_over(&self, service: &Arc<Service>, row: &ReleaseRow) -> Result<Begun, EngineError> {
        let _turn = service.journal.lock().await;
        let records = self.all_records(&row.id).await?;
        let mut begun = replay(row.number, &records)?;
        let reading = self.options.clock.read();
        let at = begun.anchor.moment(&reading);
        let rebooted = begun.anchor.reading.boot != reading.boot;
        let mut events = vec![Event::TakenOver { owner: self.options.owner.clone() }];
        if rebooted && begun.machine.moved() && begun.machine.holds_service() {
            // What the candidate showed before ended with the boot, perhaps because of it; the router gave it nothing since.
            let why = "the machine was started again while the candidate had traffic".to_string();
            events.push(Event::Tripped { number: REBOOT, why, shared: false });
        }
        for event in events {
            begun.machine.apply(&event, at)?;
            let (sequence, epoch) = (begun.next, service.epoch());
            let record = cutover_core::Record { sequence, epoch, at, wall_ms: reading.wall_ms, event };
            let append = Append {
                service: service.name.clone(),
                release: row.id.clone(),
                record,
                reading: reading.clone(),
                decided: false,
                ended: None,
                ready_ms: None,
            };
            self.store.append(&append).await?;
            begun.next += 1;
        }
        begun.anchor = Anchor { at, reading };
        Ok(begun)
    }

    pub(crate) async fn all_records(&self, release: &ReleaseId) -> Result<Vec<Stored>, EngineError> {
        let mut records: Vec<Stored> = Vec::new();
        loop {
            let from = records.len() as u64;
            let page = self.store.records(release, from, PAGE).await?;
            let whole = page.len() == PAGE as usize;
            records.extend(page);
            if !whole {
                return Ok(records);
            }
        }
    }
}

/// Runs a task of the engine until it ends; an edge that panics in it does not end it.
async fn again<F: Future<Output = ()>>(name: &'static str, shared: Arc<Shared>, task: fn(Arc<Shared>) -> F) {
    while AssertUnwindSafe(task(shared.clone())).catch_unwind().await.is_err() {
        error!(name, "a task of the engine panicked, it begins again");
        tokio::time::sleep(AGAIN).await;
    }
}

/// Replays a journal.
pub(crate) fn replay(number: u64, records: &[Stored]) -> Result<Begun, EngineError> {
    let broken = |what: String| {
        let error = StoreError::new(StoreErrorKind::Damaged, what);
        EngineError::from(error)
            .hinting("the rest of the journal is whole; move this release's traffic by hand")
    };
    let (Some((release, plan)), Some(first)) = (opened(records), records.first()) else {
        return Err(broken("the journal of a release has no beginning".into()));
    };
    let mut machine = Machine::open(plan.clone(), first.record.at);
    let mut since = None;
    let mut last = first;
    for (sequence, stored) in records.iter().enumerate().skip(1) {
        let before = machine.clone();
        let record = &stored.record;
        if record.sequence != sequence as u64 {
            return Err(broken(format!("record {sequence} of {} is missing", release.id)));
        }
        if let Err(illegal) = machine.apply(&record.event, record.at) {
            return Err(broken(format!("record {sequence} of {} does not follow: {illegal}", release.id)));
        }
        since = provisioning(since, &before, &machine);
        last = stored;
    }
    let anchor = Anchor { at: last.record.at, reading: last.reading.clone() };
    let next = records.len() as u64;
    Ok(Begun {
        number,
        release: release.clone(),
        machine,
        anchor,
        next,
        provisioning: since,
        secrets: BTreeMap::new(),
    })
}
