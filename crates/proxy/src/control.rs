//! The control thread's state: the table that is, its leases, trips and events.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::compiled::{Compiled, Live};
use crate::error::{ErrorKind, ProxyError};
use crate::gate::Gate;
use crate::protocol::{Event, EventKind, GuardNumbers, RenewReply, SetReply};
use crate::store::{EventLog, Store, Stored, boot_ms, wall_ms};
use crate::table::{ServiceTable, Track, validate};
use crate::thread::{Command, ThreadHandle};

/// A thread that does not acknowledge within this is reported.
const ACKNOWLEDGE: Duration = Duration::from_secs(2);
const REACH: Duration = Duration::from_millis(300);
const VERIFY_AGAIN_MS: u64 = 500;
/// How long after an alert a lapsed lease is looked at again.
const ALERT_AGAIN_MS: u64 = 1_000;

/// Owned by the control thread.
pub(crate) struct Control {
    pub(crate) store: Store,
    pub(crate) threads: Vec<ThreadHandle>,
    pub(crate) state: RefCell<State>,
    /// Held by whatever changes the table: changes are made one after the other.
    changing: tokio::sync::Mutex<()>,
    /// Number of the last event.
    pub(crate) events_seen: watch::Sender<u64>,
    wake: mpsc::Sender<()>,
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
    /// End of the lease on boot time.
    pub(crate) lease_until_ms: Option<u64>,
    /// The candidate waits for the first renewal since boot.
    pub(crate) suspended: bool,
    /// Not before this is a lapsed lease looked at again.
    look_again_ms: u64,
}

/// What takes a candidate's traffic away.
struct Cause {
    kind: EventKind,
    why: String,
    guard: Option<GuardNumbers>,
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
        let state = RefCell::new(State { stored, log, damage, ..State::default() });
        Self { store, threads, state, changing: tokio::sync::Mutex::new(()), events_seen, wake }
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
        for (name, service) in services {
            let Some(candidate) = service.candidate.clone() else { continue };
            let weighted = service.track(&candidate.revision).is_some_and(|track| track.weight_bp > 0);
            let reachable = reachable(&service).await;
            let others = service.fallback_weights(|track| reachable.contains(&track.revision)).is_some();
            let answers = service.track(&candidate.revision).is_some_and(|track| {
                let unverified = &self.state.borrow().unverified;
                ready(track).any(|address| !unverified.contains(&address))
            });
            // Where nobody answers, after a reboot of the machine say, the first to come up must not be the candidate.
            let suspended = weighted && (others || !answers);
            let gate = self.gate(&service);
            let lease_until_ms = (weighted && !suspended).then(|| boot_ms() + candidate.lease_ms);
            let live = ServiceLive { gate, suspended, lease_until_ms, look_again_ms: 0 };
            self.state.borrow_mut().live.insert(name.clone(), live);
            if weighted && !suspended {
                let why =
                    "no target of another revision answers, the candidate keeps its traffic after this boot";
                self.note(Some(&name), EventKind::Alert, why.to_owned(), None);
            }
        }
        self.swap().await
    }

    fn gate(&self, service: &ServiceTable) -> Option<Arc<Gate>> {
        let candidate = service.candidate.as_ref()?;
        let guard = candidate.guard.clone();
        Some(Arc::new(Gate::new(&candidate.release, guard, self.wake.clone())))
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
                }
            };
            Arc::new(Compiled::build(
                &state.stored.table,
                state.stored.damaged,
                state.unverified.clone(),
                live,
            ))
        };
        let answers = self.ask(|done| Command::Swap { compiled: compiled.clone(), done }).await;
        let missing = answers.iter().filter(|answer| answer.is_none()).count();
        if missing > 0 {
            let text =
                format!("{missing} of {} threads did not acknowledge the table; observe", answers.len());
            return Err(ProxyError::new(ErrorKind::Unacknowledged, text));
        }
        Ok(())
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
        validate(name, &table, &stored.table)?;
        refuse_tripped(&mut stored, name, &table)?;
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
        }
        Ok(SetReply { generation, changed, acknowledged_ns: nanos(received), persisted_ns })
    }

    /// Puts a changed service in force.
    async fn enliven(&self, name: &str, table: &ServiceTable) -> Result<(), ProxyError> {
        // Whoever sets a table vouches for its targets.
        self.state.borrow_mut().unverified.retain(|address| !ready_addresses(table).contains(address));
        let gate = self.gate(table);
        let old = {
            let mut state = self.state.borrow_mut();
            let live = state.live.entry(name.to_owned()).or_default();
            let old = std::mem::replace(&mut live.gate, gate);
            live.suspended = false;
            live.look_again_ms = 0;
            live.lease_until_ms = table.candidate.as_ref().map(|candidate| boot_ms() + candidate.lease_ms);
            old
        };
        let swapped = self.swap().await;
        // A guard may have decided while the change was under way: its word counts for the new table too.
        if let (Some(old), Some(candidate)) = (old, &table.candidate)
            && old.release == candidate.release
            && let Some(why) = old.numbers().why
            && table.track(&candidate.revision).is_some_and(|track| track.weight_bp > 0)
        {
            let cause = Cause { kind: EventKind::Trip, why, guard: Some(old.numbers()) };
            self.trip(name, cause).await?;
        }
        swapped
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
        self.store.save(&stored)?;
        let persisted_ns = nanos(received);
        {
            let mut state = self.state.borrow_mut();
            state.stored = stored;
            state.live.remove(name);
        }
        self.swap().await?;
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
        let (candidate, generation, restored) = {
            let mut state = self.state.borrow_mut();
            if state.stored.trips.get(name).is_some_and(|trips| trips.contains_key(release)) {
                return Err(tripped(name, release));
            }
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

    /// Takes the candidate's traffic away by hand.
    pub(crate) async fn back(&self, name: &str, why: &str) -> Result<u64, ProxyError> {
        let _changing = self.changing.lock().await;
        {
            let state = self.state.borrow();
            let service = state.stored.table.services.get(name).ok_or_else(|| unknown(name))?;
            if service.candidate.is_none() {
                let text = format!("service \"{name}\" has no candidate to go back from");
                return Err(ProxyError::new(ErrorKind::UnknownRelease, text));
            }
        }
        let cause = Cause { kind: EventKind::Back, why: why.to_owned(), guard: None };
        self.trip(name, cause).await
    }

    /// Trusts the targets of the last worker's table again as soon as they answer.
    async fn verify(&self) {
        let now = boot_ms();
        let waiting = {
            let mut state = self.state.borrow_mut();
            if state.unverified.is_empty() || state.verify_again_ms > now {
                return;
            }
            state.verify_again_ms = now + VERIFY_AGAIN_MS;
            state.unverified.clone()
        };
        let still = silent(waiting.clone()).await;
        if still != waiting {
            // Not beside a change: a thread must never get an older table after a newer one was acknowledged.
            let _changing = self.changing.lock().await;
            self.state.borrow_mut().unverified.retain(|address| still.contains(address));
            if let Err(error) = self.swap().await {
                tracing::error!(%error, "targets that answer again are not trusted yet");
            }
        }
    }

    /// Looks at every gate and lease; called often, and at once when a gate closes.
    pub(crate) async fn tick(&self) {
        self.verify().await;
        let now = boot_ms();
        let due: Vec<String> = {
            let state = self.state.borrow();
            let due = state.live.iter().filter(|(name, live)| {
                let closed = live.gate.as_ref().is_some_and(|gate| gate.is_closed());
                let weighted = state.stored.table.services.get(*name).is_some_and(|service| {
                    let candidate =
                        service.candidate.as_ref().and_then(|lease| service.track(&lease.revision));
                    candidate.is_some_and(|track| track.weight_bp > 0)
                });
                let lapsed = live.lease_until_ms.is_some_and(|until| until <= now);
                weighted && !live.suspended && (closed || (lapsed && live.look_again_ms <= now))
            });
            due.map(|(name, _)| name.clone()).collect()
        };
        for name in due {
            let _changing = self.changing.lock().await;
            self.trip_if_closed(&name).await;
            let lapsed = self.state.borrow().live.get(&name).is_some_and(|live| {
                !live.suspended
                    && live.look_again_ms <= now
                    && live.lease_until_ms.is_some_and(|until| until <= boot_ms())
            });
            if lapsed {
                let why = "the lease was not renewed in time: the server is gone or cannot reach the proxy"
                    .to_owned();
                // Its failure is an event already, and the next tick tries again.
                let _ = self.trip(&name, Cause { kind: EventKind::Lapse, why, guard: None }).await;
            }
        }
    }

    async fn trip_if_closed(&self, name: &str) {
        let gate = self.state.borrow().live.get(name).and_then(|live| live.gate.clone());
        if let Some(gate) = gate.filter(|gate| gate.is_closed()) {
            let numbers = gate.numbers();
            if let Some(why) = numbers.why.clone() {
                let cause = Cause { kind: EventKind::Trip, why, guard: Some(numbers) };
                let _ = self.trip(name, cause).await;
            }
        }
    }

    /// Moves the candidate's traffic to those who can take it. The caller holds `changing`.
    async fn trip(&self, name: &str, cause: Cause) -> Result<u64, ProxyError> {
        let service = self.state.borrow().stored.table.services.get(name).cloned();
        let service = service.ok_or_else(|| unknown(name))?;
        let Some(candidate) = service.candidate.clone() else { return Ok(service.generation) };
        let already =
            self.state.borrow().stored.trips.get(name).is_some_and(|t| t.contains_key(&candidate.release));
        if already {
            return Ok(service.generation);
        }
        let had_weight = service.tracks.iter().any(|track| track.weight_bp > 0);
        let reachable = reachable(&service).await;
        let weights = service.fallback_weights(|track| reachable.contains(&track.revision));
        let gate = self.state.borrow().live.get(name).and_then(|live| live.gate.clone());
        let Some(weights) = weights else {
            // Nobody answers but the candidate: bad answers are better than none.
            let (alerted, release) = {
                let mut state = self.state.borrow_mut();
                let live = state.live.entry(name.to_owned()).or_default();
                let alerted = live.look_again_ms > 0;
                live.look_again_ms = boot_ms() + ALERT_AGAIN_MS;
                (alerted, candidate.release.clone())
            };
            if let Some(gate) = gate {
                gate.reopen();
            }
            let text =
                format!("{}; but no target of another revision answers, traffic stays on it", cause.why);
            if !alerted {
                self.note(Some(name), EventKind::Alert, text.clone(), cause.guard);
            }
            return Err(ProxyError::new(ErrorKind::Invalid, format!("release \"{release}\": {text}")));
        };
        // Closed first: every thread stops claiming the candidate before anything slow happens.
        if let Some(gate) = &gate {
            gate.close();
        }
        let mut changed = service;
        for (track, weight) in changed.tracks.iter_mut().zip(weights) {
            track.weight_bp = if had_weight { weight } else { 0 };
        }
        changed.generation += 1;
        let generation = changed.generation;
        {
            let mut state = self.state.borrow_mut();
            state.stored.table.services.insert(name.to_owned(), changed);
            let trips = state.stored.trips.entry(name.to_owned()).or_default();
            trips.insert(candidate.release.clone(), candidate.revision.clone());
            let live = state.live.entry(name.to_owned()).or_default();
            live.lease_until_ms = None;
            live.suspended = false;
            live.gate = None;
        }
        let swapped = self.swap().await;
        let saved = self.store.save(&self.state.borrow().stored);
        self.remark(saved);
        tracing::error!(service = name, release = %candidate.release, why = %cause.why, "candidate lost its traffic");
        self.note_candidate(name, &candidate.release, &candidate.revision, generation, cause);
        swapped.map(|()| generation)
    }

    /// Keeps a failed write visible: what is in force is not what a restart would find.
    fn remark(&self, written: Result<(), ProxyError>) {
        if let Err(error) = written {
            tracing::error!(%error, "a change is in force but not on disk");
            let mut state = self.state.borrow_mut();
            if state.damage.len() < 100 {
                state.damage.push(error.wire_message());
            }
        }
    }

    fn note(&self, service: Option<&str>, kind: EventKind, why: String, guard: Option<GuardNumbers>) {
        let candidate = service.and_then(|name| {
            let state = self.state.borrow();
            let service = state.stored.table.services.get(name)?;
            service.candidate.clone().map(|candidate| (candidate, service.generation))
        });
        self.append(Event {
            number: 0,
            wall_ms: wall_ms(),
            kind,
            service: service.map(str::to_owned),
            release: candidate.as_ref().map(|(candidate, _)| candidate.release.clone()),
            revision: candidate.as_ref().map(|(candidate, _)| candidate.revision.clone()),
            generation: candidate.map(|(_, generation)| generation),
            why,
            guard,
        });
    }

    fn note_candidate(&self, service: &str, release: &str, revision: &str, generation: u64, cause: Cause) {
        self.append(Event {
            number: 0,
            wall_ms: wall_ms(),
            kind: cause.kind,
            service: Some(service.to_owned()),
            release: Some(release.to_owned()),
            revision: Some(revision.to_owned()),
            generation: Some(generation),
            why: cause.why,
            guard: cause.guard,
        });
    }

    fn append(&self, event: Event) {
        let (number, saved) = {
            let mut state = self.state.borrow_mut();
            let number = state.log.push(event).number;
            (number, self.store.save_events(&state.log))
        };
        self.remark(saved);
        self.events_seen.send_replace(number);
    }

    /// Forgets events up to a number.
    pub(crate) async fn acknowledge(&self, up_to: u64) -> Result<(), ProxyError> {
        let _changing = self.changing.lock().await;
        let (mut log, mut stored) = {
            let state = self.state.borrow();
            (state.log.clone(), state.stored.clone())
        };
        let damage_known =
            log.events.iter().any(|event| event.kind == EventKind::Damage && event.number <= up_to);
        log.events.retain(|event| event.number > up_to);
        self.store.save_events(&log)?;
        self.state.borrow_mut().log = log;
        if damage_known {
            stored.damaged = false;
            self.store.save(&stored)?;
            {
                let mut state = self.state.borrow_mut();
                state.stored = stored;
                state.damage.clear();
            }
            self.swap().await?;
        }
        Ok(())
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

pub(crate) fn unknown(name: &str) -> ProxyError {
    ProxyError::new(ErrorKind::UnknownService, format!("the proxy has no service \"{name}\""))
}

fn tripped(name: &str, release: &str) -> ProxyError {
    let text = format!(
        "service \"{name}\": the candidate of release \"{release}\" was tripped and gets no traffic again; \
         start a new release"
    );
    ProxyError::new(ErrorKind::Tripped { release: release.to_owned() }, text)
}

fn fenced(name: &str, epoch: u64, actual: u64) -> ProxyError {
    let text = format!(
        "service \"{name}\": epoch {epoch} is over, the proxy has seen {actual}; another driver took over"
    );
    ProxyError::new(ErrorKind::Fenced { actual }, text)
}

fn fence(stored: &Stored, name: &str, expected: u64, epoch: u64) -> Result<(), ProxyError> {
    let known = stored.table.services.get(name).map(|service| (service.generation, service.epoch));
    let (generation, seen) = known.or_else(|| stored.removed.get(name).copied()).unwrap_or((0, 0));
    if epoch < seen {
        return Err(fenced(name, epoch, seen));
    }
    if generation != expected {
        let text = format!(
            "service \"{name}\" has generation {generation}, not {expected}; observe and decide anew"
        );
        return Err(ProxyError::new(ErrorKind::Conflict { actual: generation }, text));
    }
    Ok(())
}

/// Refuses weight for what was tripped. A new release with the same revision begins anew.
fn refuse_tripped(stored: &mut Stored, name: &str, table: &ServiceTable) -> Result<(), ProxyError> {
    let Some(trips) = stored.trips.get_mut(name) else { return Ok(()) };
    if let Some(candidate) = &table.candidate
        && !trips.contains_key(&candidate.release)
    {
        trips.retain(|_, revision| *revision != candidate.revision);
    }
    for (release, revision) in trips.iter() {
        if table.track(revision).is_some_and(|track| track.weight_bp > 0) {
            return Err(tripped(name, release));
        }
    }
    // Once a revision is gone from the table its trips are history.
    trips.retain(|_, revision| table.track(revision).is_some());
    Ok(())
}

/// Returns the revisions beside the candidate of which a ready target accepts connections now.
async fn reachable(service: &ServiceTable) -> BTreeSet<String> {
    let candidate = service.candidate.as_ref().map(|candidate| candidate.revision.as_str());
    let others: Vec<&Track> =
        service.tracks.iter().filter(|track| Some(track.revision.as_str()) != candidate).collect();
    let silent = silent(others.iter().flat_map(|track| ready(track)).collect()).await;
    let answers = |track: &&&Track| ready(track).any(|address| !silent.contains(&address));
    others.iter().filter(answers).map(|track| track.revision.clone()).collect()
}

fn ready(track: &Track) -> impl Iterator<Item = SocketAddr> + '_ {
    track.targets.iter().filter(|target| target.ready).map(|target| target.address)
}

fn ready_addresses(service: &ServiceTable) -> BTreeSet<SocketAddr> {
    service.tracks.iter().flat_map(ready).collect()
}

/// Returns those addresses that do not accept a connection.
async fn silent(addresses: BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
    let looks: Vec<_> = addresses
        .into_iter()
        .map(|address| {
            let look = async move { matches!(timeout(REACH, TcpStream::connect(address)).await, Ok(Ok(_))) };
            (address, tokio::task::spawn_local(look))
        })
        .collect();
    let mut silent = BTreeSet::new();
    for (address, look) in looks {
        if !look.await.unwrap_or(false) {
            silent.insert(address);
        }
    }
    silent
}

/// Shared by the tasks of the control thread.
pub(crate) type SharedControl = Rc<Control>;
