//! The control thread's state: the table that is, its leases, trips and events.

#[cfg(feature = "acme")]
mod acme;
mod counted;
mod events;
mod fence;
mod follow;
mod health;
mod judge;
mod rates;
mod reach;
mod traffic;
mod trip;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

#[cfg(feature = "acme")]
use self::acme::Acme;
use self::counted::Counted;
use self::fence::{fence, fenced, refuse_tripped, tripped};
pub(crate) use self::fence::{fence_epoch, unknown};
use self::health::Health;
use self::rates::Rates;
use self::reach::{reachable, ready, ready_addresses, silent};
pub(crate) use self::traffic::Rooms;
use crate::access::ServiceLog;
use crate::access_file::AccessFile;
use crate::clients::Clients;
use crate::compiled::{Compiled, Live};
use crate::error::{ErrorKind, ProxyError};
use crate::gate::Gate;
use crate::judging::Judging;
use crate::protocol::{EventKind, RenewReply, SetReply};
use crate::store::{EventLog, Store, Stored, boot_ms};
use crate::table::{ServiceTable, Table};
use crate::thread::{Command, ThreadHandle};
use crate::tls::Certificates;
use crate::traffic::Traffic;
use crate::validate::validate;

/// A thread that does not acknowledge within this is reported.
const ACKNOWLEDGE: Duration = Duration::from_secs(2);

/// Owned by the control thread.
pub(crate) struct Control {
    pub(crate) store: Store,
    pub(crate) threads: Vec<ThreadHandle>,
    pub(crate) state: RefCell<State>,
    /// Held by whatever changes the table: changes are made one after the other.
    changing: tokio::sync::Mutex<()>,
    pub(crate) certificates: RefCell<Certificates>,
    #[cfg(feature = "acme")]
    pub(crate) acme: Acme,
    /// Number of the last event.
    pub(crate) events_seen: watch::Sender<u64>,
    wake: mpsc::Sender<()>,
    pub(crate) health: Health,
    pub(crate) rooms: Rooms,
    /// Connections of clients that are limited.
    connected: Arc<Clients>,
    /// What workers that have ended have counted.
    before: RefCell<Counted>,
    /// Workers before this one that finish their last requests.
    predecessors: RefCell<Vec<u32>>,
    /// Its successor serves; this one finishes its last requests.
    pub(crate) leaving: Cell<bool>,
    /// Where this worker writes what it has counted.
    counts_file: String,
    /// What was written down last.
    written: RefCell<Counted>,
    /// How many requests come lately.
    pub(crate) rates: Rates,
    /// Access logs by service.
    logs: RefCell<BTreeMap<String, Arc<ServiceLog>>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) stored: Stored,
    pub(crate) live: BTreeMap<String, ServiceLive>,
    pub(crate) log: EventLog,
    pub(crate) damage: Vec<String>,
    /// Targets of the last worker's table that have not answered yet.
    pub(crate) unverified: BTreeSet<SocketAddr>,
    verify_again_ms: u64,
}

/// What is true only as long as this worker lives.
#[derive(Default)]
pub(crate) struct ServiceLive {
    pub(crate) gate: Option<Arc<Gate>>,
    /// The judge of the release under way, or of the last one.
    pub(crate) judging: Option<Arc<Judging>>,
    /// End of the lease on boot time.
    pub(crate) lease_until_ms: Option<u64>,
    /// The candidate waits for the first renewal since boot.
    pub(crate) suspended: bool,
    /// Not before this is a lapsed lease looked at again.
    look_again_ms: u64,
}

impl Control {
    pub(crate) fn new(
        store: Store,
        threads: Vec<ThreadHandle>,
        wake: mpsc::Sender<()>,
        listeners: Vec<SocketAddr>,
    ) -> Self {
        let (mut stored, mut damage) = store.load();
        let (log, lost_events) = store.load_events();
        damage.extend(lost_events);
        stored.table.listeners = listeners;
        let events_seen = watch::Sender::new(log.last);
        let certificates = RefCell::new(Certificates::new(store.acme()));
        let state = RefCell::new(State { stored, log, damage, ..State::default() });
        Self {
            store,
            threads,
            state,
            changing: tokio::sync::Mutex::new(()),
            events_seen,
            wake,
            health: Health::default(),
            certificates,
            #[cfg(feature = "acme")]
            acme: Acme::default(),
            rooms: Rooms::default(),
            connected: Arc::default(),
            before: RefCell::default(),
            counts_file: counted::own_file(),
            leaving: Cell::new(false),
            predecessors: RefCell::default(),
            written: RefCell::default(),
            rates: Rates::default(),
            logs: RefCell::default(),
        }
    }

    /// Makes the table of the last worker this one's: candidates wait for their lease.
    pub(crate) async fn boot(&self) -> Result<(), ProxyError> {
        let damage = self.state.borrow().damage.clone();
        for why in damage {
            tracing::error!(%why, "files of the proxy are damaged");
            self.note(None, EventKind::Damage, why, None);
        }
        let services = self.state.borrow().stored.table.services.clone();
        // What the table says of the targets may be long ago; who does not answer is asked last.
        let known: BTreeSet<SocketAddr> = services.values().flat_map(ready_addresses).collect();
        let unverified = silent(known).await;
        for address in &unverified {
            tracing::warn!(%address, "target of the stored table does not answer");
        }
        self.state.borrow_mut().unverified = unverified;
        let problems = self.certificates.borrow_mut().boot(&self.state.borrow().stored.table);
        for (name, why) in problems {
            tracing::error!(service = name, %why, "clients of a certificate are refused");
            self.note(Some(&name), EventKind::Alert, format!("{why}; its clients are refused"), None);
        }
        for (name, service) in services {
            let Some(candidate) = service.candidate.clone() else { continue };
            let weighted = service.track(&candidate.revision).is_some_and(|track| track.weight_bp > 0);
            if self.is_tripped(&name, &candidate.release) {
                // What it still has was decided when it lost its lease: there is no renewal to wait for.
                continue;
            }
            let reachable = reachable(&service).await;
            let others = service.fallback_weights(|track| reachable.contains(&track.revision)).is_some();
            let answers = service.track(&candidate.revision).is_some_and(|track| {
                let unverified = &self.state.borrow().unverified;
                ready(track).any(|address| !unverified.contains(&address))
            });
            // Where nobody answers, after a reboot of the machine say, the first to come up must not be the candidate.
            let suspended = weighted && (others || !answers);
            let gate = self.gate(&name, &service);
            let lease_until_ms = (weighted && !suspended).then(|| boot_ms() + candidate.lease_ms);
            {
                let mut state = self.state.borrow_mut();
                let live = state.live.entry(name.clone()).or_default();
                (live.gate, live.suspended, live.lease_until_ms) = (gate, suspended, lease_until_ms);
            }
            if weighted && !suspended {
                let why =
                    "no target of another revision answers, the candidate keeps its traffic after this boot";
                self.note(Some(&name), EventKind::Alert, why.to_owned(), None);
            }
        }
        self.health.follow(&self.state.borrow().stored.table, false);
        self.rooms.follow(&self.state.borrow().stored.traffic);
        self.swap().await
    }

    /// Refuses to take over from a worker that has certificates which this one cannot read; `lacks` are those that it
    /// does not have either.
    pub(crate) fn refuse_to_lose_certificates(&self, lacks: &[String]) -> Result<(), ProxyError> {
        let unreadable = self.certificates.borrow().unreadable(&self.state.borrow().stored.table);
        match unreadable.into_iter().find(|(cert, _)| !lacks.contains(cert)) {
            Some((_, why)) => {
                let text = format!(
                    "the worker before has a certificate that this one cannot read, and goes on serving: {why}; put that \
                     right and send SIGHUP to the holder again"
                );
                Err(ProxyError::new(ErrorKind::Storage, text))
            }
            None => Ok(()),
        }
    }

    fn is_tripped(&self, name: &str, release: &str) -> bool {
        self.state.borrow().stored.trips.get(name).is_some_and(|trips| trips.contains_key(release))
    }

    /// Returns where the requests of a service are logged; the same as before unless something else is wanted.
    fn access_log(&self, name: &str, state: &State) -> Option<Arc<ServiceLog>> {
        let mut logs = self.logs.borrow_mut();
        let Some(log) = state.stored.table.services.get(name).and_then(|service| service.access_log.clone())
        else {
            logs.remove(name);
            return None;
        };
        if let Some(known) = logs.get(name).filter(|known| known.log == log) {
            return Some(known.clone());
        }
        let file = AccessFile::new(self.store.access_log(name), log.size);
        let log = Arc::new(ServiceLog { service: name.to_owned(), log, file });
        logs.insert(name.to_owned(), log.clone());
        Some(log)
    }

    /// Returns how many lines of a service's access log were lost.
    pub(crate) fn lines_lost(&self, name: &str) -> u64 {
        self.logs.borrow().get(name).map_or(0, |log| log.file.dropped())
    }

    /// Gives every thread the table and waits until each has taken it.
    pub(crate) async fn swap(&self) -> Result<(), ProxyError> {
        let compiled = {
            let state = self.state.borrow();
            let live = |name: &str| {
                let live = state.live.get(name);
                Live {
                    gate: live.and_then(|live| live.gate.clone()),
                    suspended: live.is_some_and(|live| live.suspended),
                    tripped: state.stored.table.services.get(name).is_some_and(|service| {
                        let trips = state.stored.trips.get(name);
                        service
                            .candidate
                            .as_ref()
                            .zip(trips)
                            .is_some_and(|(candidate, trips)| trips.contains_key(&candidate.release))
                    }),
                    down: self.health.down(name),
                    room: self.rooms.of(name),
                    log: self.access_log(name, &state),
                }
            };
            let tls = self.certificates.borrow_mut().listeners(&state.stored.table);
            let stored = &state.stored;
            let mut compiled = Compiled::build(&stored.table, stored.damaged, state.unverified.clone(), live);
            compiled.tls = tls;
            compiled.connected = self.connected.clone();
            compiled.challenges = self.challenges(&stored.table);
            Arc::new(compiled)
        };
        let answers = self.ask(|done| Command::Swap { compiled: compiled.clone(), done }).await;
        // A thread that has left with its last connection claims nothing any more.
        let left = |thread: &ThreadHandle| self.leaving.get() && thread.commands.is_closed();
        let threads = answers.iter().zip(&self.threads);
        let missing = threads.filter(|(answer, thread)| answer.is_none() && !left(thread)).count();
        if missing > 0 {
            let text =
                format!("{missing} of {} threads did not acknowledge the table; observe", answers.len());
            return Err(ProxyError::new(ErrorKind::Unacknowledged, text));
        }
        Ok(())
    }

    /// Returns where the answers to challenges lie, if any certificate is asked for.
    fn challenges(&self, table: &Table) -> Option<Arc<Path>> {
        let asks =
            table.services.values().any(|service| service.tls.iter().any(|route| route.acme.is_some()));
        asks.then(|| crate::acme::challenges(&self.store.acme()).into())
    }

    /// Asks every thread at once; None for one that did not answer in time.
    pub(crate) async fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<Option<T>> {
        self.ask_within(ACKNOWLEDGE, command).await
    }

    pub(crate) async fn ask_within<T>(
        &self,
        limit: Duration,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Vec<Option<T>> {
        let mut waiting = Vec::new();
        for thread in &self.threads {
            let (done, answer) = oneshot::channel();
            let sent = timeout(limit, thread.commands.send(command(done))).await;
            waiting.push(matches!(sent, Ok(Ok(()))).then_some(answer));
        }
        let end = tokio::time::Instant::now() + limit;
        let mut answers = Vec::new();
        for answer in waiting {
            answers.push(match answer {
                Some(answer) => tokio::time::timeout_at(end, answer).await.ok().and_then(Result::ok),
                None => None,
            });
        }
        answers
    }

    /// Replaces the routing of one service, if it still is as the caller believes.
    pub(crate) async fn set(
        &self,
        name: &str,
        expected: u64,
        epoch: u64,
        mut table: ServiceTable,
    ) -> Result<SetReply, ProxyError> {
        let received = Instant::now();
        let _changing = self.changing.lock().await;
        self.trip_if_closed(name).await;
        let mut stored = self.state.borrow().stored.clone();
        fence(&stored, name, expected, epoch)?;
        let before = stored.table.services.get(name).cloned();
        table.generation = expected;
        table.epoch = epoch;
        match &table.pin_key {
            Some(key) if key.0.is_empty() => table.pin_key = None,
            Some(_) => {}
            None => table.pin_key = before.as_ref().and_then(|before| before.pin_key.clone()),
        }
        // Whoever was signed for with the key before is not forgotten by its change.
        table.former_pin_key = before.as_ref().and_then(|before| match &before.pin_key {
            Some(key) if table.pin_key.as_ref() != Some(key) => Some(key.clone()),
            _ => before.former_pin_key.clone(),
        });
        validate(name, &table, &stored.table)?;
        let tls_before = before.as_ref().map_or(&[][..], |before| &before.tls);
        let admitted = self.certificates.borrow_mut().admit(&table.tls, tls_before);
        admitted.map_err(|why| ProxyError::new(ErrorKind::Invalid, format!("service \"{name}\": {why}")))?;
        refuse_tripped(&mut stored, name, before.as_ref(), &table)?;
        let changed = before.as_ref().is_none_or(|before| !before.same_routing(&table));
        let same_epoch = before.is_some_and(|before| before.epoch == epoch);
        if changed {
            table.generation += 1;
        }
        let generation = table.generation;
        stored.table.services.insert(name.to_owned(), table.clone());
        stored.removed.remove(name);
        if changed || !same_epoch {
            self.store.save(&stored)?;
        }
        let persisted_ns = nanos(received);
        self.state.borrow_mut().stored = stored;
        if changed {
            self.enliven(name, &table).await?;
            self.followed().await?;
        }
        Ok(SetReply { generation, changed, acknowledged_ns: nanos(received), persisted_ns })
    }

    /// Puts a changed service in force.
    async fn enliven(&self, name: &str, table: &ServiceTable) -> Result<(), ProxyError> {
        // Whoever sets a table vouches for its targets.
        self.state.borrow_mut().unverified.retain(|address| !ready_addresses(table).contains(address));
        self.health.follow(&self.state.borrow().stored.table, true);
        // A candidate that was tripped has no lease to lose any more, and nothing to be judged for.
        let leased = table.candidate.as_ref().filter(|candidate| !self.is_tripped(name, &candidate.release));
        let gate = leased.and_then(|_| self.gate(name, table));
        let old = {
            let mut state = self.state.borrow_mut();
            let live = state.live.entry(name.to_owned()).or_default();
            let old = std::mem::replace(&mut live.gate, gate);
            live.suspended = false;
            live.look_again_ms = 0;
            live.lease_until_ms = leased.map(|candidate| boot_ms() + candidate.lease_ms);
            old
        };
        let swapped = self.swap().await;
        // A guard may have decided while the change was under way: its word counts for the new table too.
        if let (Some(old), Some(candidate)) = (old, &table.candidate)
            && old.release == candidate.release
            && let Some(cause) = Self::cause(&old)
            && table.track(&candidate.revision).is_some_and(|track| track.weight_bp > 0)
        {
            self.trip(name, cause).await?;
        }
        swapped
    }

    /// Looks whether certificates were renewed; connections that are there keep the one they began with.
    pub(crate) async fn renew_certificates(&self) {
        let (renewed, problems) = self.certificates.borrow_mut().look();
        for why in problems {
            tracing::error!(%why, "certificate cannot be renewed");
            self.note(None, EventKind::Alert, why, None);
        }
        if renewed {
            let _changing = self.changing.lock().await;
            if let Err(error) = self.swap().await {
                tracing::error!(%error, "a thread does not know the new certificate yet");
            }
        }
    }

    /// Removes a service; its requests get 404 from then on.
    pub(crate) async fn remove(&self, name: &str, expected: u64, epoch: u64) -> Result<SetReply, ProxyError> {
        let received = Instant::now();
        let _changing = self.changing.lock().await;
        let mut stored = self.state.borrow().stored.clone();
        fence(&stored, name, expected, epoch)?;
        if stored.table.services.remove(name).is_none() {
            let reply =
                SetReply { generation: expected, changed: false, acknowledged_ns: 0, persisted_ns: 0 };
            return Ok(reply);
        }
        stored.removed.insert(name.to_owned(), (expected + 1, epoch));
        stored.trips.remove(name);
        stored.traffic.remove(name);
        self.store.save(&stored)?;
        let persisted_ns = nanos(received);
        {
            let mut state = self.state.borrow_mut();
            state.stored = stored;
            state.live.remove(name);
        }
        self.rooms.of(name).keep(&Traffic::Open);
        self.health.follow(&self.state.borrow().stored.table, true);
        self.swap().await?;
        self.followed().await?;
        let acknowledged_ns = nanos(received);
        Ok(SetReply { generation: expected + 1, changed: true, acknowledged_ns, persisted_ns })
    }

    /// Extends the candidate's lease; the first renewal after boot restores its weight.
    pub(crate) async fn renew(
        &self,
        name: &str,
        release: &str,
        epoch: u64,
    ) -> Result<RenewReply, ProxyError> {
        let _changing = self.changing.lock().await;
        if self.is_tripped(name, release) {
            return Err(tripped(name, release));
        }
        let (candidate, generation, restored) = {
            let mut state = self.state.borrow_mut();
            let service = state.stored.table.services.get(name).ok_or_else(|| unknown(name))?;
            if epoch < service.epoch {
                return Err(fenced(name, epoch, service.epoch));
            }
            let known = service.candidate.clone().filter(|candidate| candidate.release == release);
            let Some(candidate) = known else {
                let text = format!("service \"{name}\" has no candidate of release \"{release}\"");
                return Err(ProxyError::new(ErrorKind::UnknownRelease, text));
            };
            let generation = service.generation;
            let live = state.live.entry(name.to_owned()).or_default();
            live.lease_until_ms = Some(boot_ms() + candidate.lease_ms);
            (candidate, generation, std::mem::take(&mut live.suspended))
        };
        if restored {
            self.swap().await?;
        }
        Ok(RenewReply { lease_ms: candidate.lease_ms, generation, restored })
    }

    /// Keeps an address the holder has opened.
    pub(crate) fn add_listener(&self, address: SocketAddr) {
        let mut state = self.state.borrow_mut();
        if !state.stored.table.listeners.contains(&address) {
            state.stored.table.listeners.push(address);
        }
    }
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Shared by the tasks of the control thread.
pub(crate) type SharedControl = Rc<Control>;
