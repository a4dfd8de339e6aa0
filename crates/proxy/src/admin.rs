//! Serves the admin socket: one JSON request per line, one JSON reply per line.

mod drain;
mod scrape;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

#[cfg(not(feature = "acme"))]
use crate::acme;
use crate::compat::{self, OLDEST_PROTOCOL};
use crate::compiled::effective;
use crate::control::unknown;
use crate::error::{ErrorKind, ProxyError};
use crate::fds;
use crate::holder::{Sockets, is_friend};
use crate::moment;
use crate::protocol::{
    ArmObservation, Envelope, Event, Hello, MAX_LINE, Observation, Reply, Request, RevisionObservation,
    ServiceObservation,
};
use crate::store::boot_ms;
use crate::thread::Command;
use crate::worker::Worker;

const MAX_CONNECTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(60);
const MAX_DRAIN: Duration = Duration::from_secs(24 * 3_600);
/// Longer than a holder waits for the next worker.
const HAND_OVER: Duration = Duration::from_secs(30);
/// Much less than a holder waits for the word of the worker before.
const LAST_COUNTS: Duration = Duration::from_secs(1);
const MAX_WATCH: Duration = Duration::from_secs(60);

pub(crate) async fn accept(listener: UnixListener, worker: Rc<Worker>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        if worker.handing_over.get() {
            // The successor accepts from the same socket; who connects now waits for it in the kernel's queue.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.handing.notified() => continue,
        };
        match accepted {
            Ok((stream, _)) if !is_friend(&stream) => tracing::error!("another user tried the admin socket"),
            Ok((stream, _)) => {
                // Refused rather than queued: 64 callers at once are a defect somewhere.
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    let _slot = slot;
                    converse(stream, &worker).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn converse(stream: UnixStream, worker: &Worker) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut reader = (&mut stream).take(MAX_LINE as u64);
        match timeout(IDLE, reader.read_until(b'\n', &mut line)).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => return,
        }
        if scrape::asks(&line) {
            return scrape::answer(stream, &line, worker).await;
        }
        let reply = match parse(&line, worker.holder_pid.get()) {
            Ok(Request::Handover) => return hand_over(stream.into_inner(), worker).await,
            Ok(request) => obey(request, worker).await,
            Err((Some(Request::Handover), error)) => {
                // A holder waits for sockets, not for a reply. Who asked and went away needs no answer.
                let _ = fds::send(stream.get_ref(), &Sockets::refuse(&error), &[]).await;
                return;
            }
            Err((_, error)) => Err(error),
        };
        let reply = match reply {
            Ok(value) => Reply::Ok(value),
            Err(error) => Reply::Error { kind: error.kind().clone(), message: error.wire_message() },
        };
        let Ok(mut line) = serde_json::to_vec(&reply) else { return };
        line.push(b'\n');
        if !matches!(timeout(IDLE, stream.write_all(&line)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads a request; one of another version may come back beside the error.
fn parse(line: &[u8], holder_pid: Option<u32>) -> Result<Request, (Option<Request>, ProxyError)> {
    let unreadable = |what: String| (None, ProxyError::new(ErrorKind::Protocol, what));
    if line.last() != Some(&b'\n') {
        return Err(unreadable(format!("a request has at most {MAX_LINE} bytes")));
    }
    let cannot = |error: serde_json::Error| unreadable(format!("request cannot be read: {error}"));
    let value: Value = serde_json::from_slice(line).map_err(cannot)?;
    let verb = value.get("verb").and_then(Value::as_str).unwrap_or_default().to_owned();
    if verb == "hello" {
        return Ok(Request::Hello);
    }
    let version = value.get("version").and_then(Value::as_u64);
    let schema = value.get("schema").and_then(Value::as_u64);
    let understood = compat::understand(version, holder_pid)
        // Before the rest is read: a newer table may not even look like one.
        .and_then(|()| compat::understand_schema(schema, holder_pid));
    let read = serde_json::from_value::<Envelope>(value).map(|envelope| envelope.request);
    match (understood, read) {
        (Err(error), read) => Err((read.ok(), error)),
        (Ok(()), Ok(Request::Unknown)) => {
            let what = format!("the request \"{verb}\" is not known here");
            Err((None, compat::refuse(&what, holder_pid)))
        }
        (Ok(()), read) => read.map_err(cannot),
    }
}

async fn obey(request: Request, worker: &Worker) -> Result<Value, ProxyError> {
    let control = &worker.control;
    if worker.handing_over.get() {
        return Err(ProxyError::new(
            ErrorKind::Closing,
            "this worker is handing over to its successor; repeat",
        ));
    }
    let value = match request {
        Request::Hello => serde_json::to_value(hello(worker)),
        Request::Listen { addr } => return Ok(json!(worker.listen(addr).await?)),
        Request::Observe { service } => serde_json::to_value(observe(worker, service.as_deref()).await?),
        Request::Set { service, expected_generation, epoch, table, .. } => {
            serde_json::to_value(control.set(&service, expected_generation, epoch, *table).await?)
        }
        Request::Renew { service, release, epoch } => {
            serde_json::to_value(control.renew(&service, &release, epoch).await?)
        }
        Request::Drain { service, revision, deadline_ms } => {
            serde_json::to_value(drain::revision(worker, service, revision, window(deadline_ms)).await?)
        }
        Request::DrainTargets { service, targets, epoch, deadline_ms } => {
            serde_json::to_value(drain::targets(worker, service, targets, epoch, window(deadline_ms)).await?)
        }
        Request::Back { service, why } => {
            return Ok(json!({ "generation": control.back(&service, &why).await? }));
        }
        Request::Judge { service, release, question } => {
            serde_json::to_value(control.judged(&service, &release, &question).await?)
        }
        Request::Traffic { service, traffic } => {
            return control.let_traffic(&service, *traffic).await.map(|()| Value::Null);
        }
        Request::RemoveService { service, expected_generation, epoch } => {
            serde_json::to_value(control.remove(&service, expected_generation, epoch).await?)
        }
        Request::Events { after } => serde_json::to_value(events(worker, after)),
        Request::Watch { after, timeout_ms } => {
            let mut seen = control.events_seen.subscribe();
            let limit = Duration::from_millis(timeout_ms).min(MAX_WATCH);
            let end = tokio::time::Instant::now() + limit;
            while *seen.borrow_and_update() <= after && tokio::time::Instant::now() < end {
                if worker.handing_over.get() {
                    return Err(ProxyError::new(ErrorKind::Closing, "watch the successor of this worker"));
                }
                // Wakes in between to notice a successor, which alone sees the next events.
                let step = end.min(tokio::time::Instant::now() + Duration::from_millis(100));
                let _ = tokio::time::timeout_at(step, seen.changed()).await;
            }
            serde_json::to_value(events(worker, after))
        }
        Request::Ack { up_to } => return control.acknowledge(up_to).await.map(|()| Value::Null),
        Request::Handover | Request::Unknown => {
            return Err(ProxyError::new(ErrorKind::Protocol, "this request is not for here"));
        }
    };
    value.map_err(|error| ProxyError::new(ErrorKind::Protocol, format!("reply cannot be written: {error}")))
}

fn window(deadline_ms: u64) -> Duration {
    Duration::from_millis(deadline_ms).min(MAX_DRAIN)
}

fn hello(worker: &Worker) -> Hello {
    Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: compat::newest(),
        oldest_protocol: OLDEST_PROTOCOL,
        worker_pid: std::process::id(),
        holder_pid: worker.holder_pid.get(),
        threads: worker.options.threads,
        dir: worker.options.dir.display().to_string(),
        listeners: worker.holdings.borrow().held.iter().map(|held| held.address).collect(),
        tables: Some(worker.control.state.borrow().stored.stamp()),
    }
}

fn events(worker: &Worker, after: u64) -> Vec<Event> {
    let state = worker.control.state.borrow();
    state.log.events.iter().filter(|event| event.number > after).cloned().collect()
}

async fn observe(worker: &Worker, only: Option<&str>) -> Result<Observation, ProxyError> {
    let control = &worker.control;
    let answers = control.ask(|done| Command::Observe { done }).await;
    if answers.iter().any(Option::is_none) {
        return Err(ProxyError::new(ErrorKind::Unacknowledged, "a thread of the worker does not answer"));
    }
    let state = control.state.borrow();
    let mut seen = Observation {
        worker_pid: std::process::id(),
        listeners: state.stored.table.listeners.clone(),
        services: BTreeMap::new(),
        unrouted: BTreeMap::new(),
        connections: 0,
        events: state.log.events.clone(),
        damage: state.damage.clone(),
    };
    for (name, table) in &state.stored.table.services {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let live = state.live.get(name);
        let suspended = live.is_some_and(|live| live.suspended);
        let weights = effective(table, suspended);
        let targets = control.health.observe(name, table);
        let mut certificates = control.certificates.borrow().observe(&table.tls);
        #[cfg(feature = "acme")]
        control.acme.tell(&table.tls, &mut certificates);
        #[cfg(not(feature = "acme"))]
        table.tls.iter().zip(&mut certificates).for_each(|(route, seen)| acme::cannot_renew(route, seen));
        let mut table = table.clone();
        (table.pin_key, table.former_pin_key) = (None, None);
        let service = ServiceObservation {
            effective: table.tracks.iter().map(|track| track.revision.clone()).zip(weights).collect(),
            table,
            awaiting_renewal: suspended,
            lease_left_ms: live
                .and_then(|live| live.lease_until_ms)
                .map(|until| until.saturating_sub(boot_ms())),
            tripped: state
                .stored
                .trips
                .get(name)
                .map(|trips| trips.keys().cloned().collect())
                .unwrap_or_default(),
            certificates,
            guard: live.and_then(|live| live.gate.as_ref()).map(|gate| gate.numbers()),
            revisions: BTreeMap::new(),
            arms: Vec::new(),
            targets,
            traffic: (*control.rooms.of(name).traffic()).clone(),
            waiting: control.rooms.of(name).waiting(),
            per_hour: control.rates.per_hour(name),
            log_lines_lost: control.lines_lost(name),
            judge: live.and_then(|live| live.judging.as_ref()).map(|judging| judging.standing()),
        };
        seen.services.insert(name.clone(), service);
    }
    if let Some(only) = only.filter(|only| !seen.services.contains_key(*only)) {
        return Err(unknown(only));
    }
    for answer in answers.into_iter().flatten() {
        seen.connections += answer.connections;
        for (reason, count) in answer.unrouted {
            *seen.unrouted.entry(reason.to_owned()).or_default() += count;
        }
        for (service, revision, share) in answer.revisions {
            if let Some(service) = seen.services.get_mut(&*service) {
                add_revision(service.revisions.entry(revision.to_string()).or_default(), &share);
            }
        }
        for (service, arm) in answer.arms {
            if let Some(service) = seen.services.get_mut(&*service) {
                add_arm(&mut service.arms, arm);
            }
        }
    }
    let before = control.counted_before();
    for (reason, count) in before.unrouted {
        *seen.unrouted.entry(reason).or_default() += count;
    }
    for (service, arm) in before.arms {
        if let Some(service) = seen.services.get_mut(&service) {
            add_arm(&mut service.arms, arm);
        }
    }
    for service in seen.services.values_mut() {
        service.arms.sort_by(|a, b| (&a.revision, &a.release, a.arm).cmp(&(&b.revision, &b.release, b.arm)));
    }
    Ok(seen)
}

fn add_revision(sum: &mut RevisionObservation, share: &RevisionObservation) {
    sum.in_flight += share.in_flight;
    sum.websockets += share.websockets;
    sum.pooled += share.pooled;
    sum.connections += share.connections;
    sum.draining |= share.draining;
}

fn add_arm(arms: &mut Vec<ArmObservation>, share: ArmObservation) {
    let same = |arm: &&mut ArmObservation| {
        arm.revision == share.revision && arm.release == share.release && arm.arm == share.arm
    };
    match arms.iter_mut().find(same) {
        Some(arm) => arm.counts.merge(&share.counts),
        None => arms.push(share),
    }
}

/// Gives a new holder all sockets; goes on serving until the successor serves too.
async fn hand_over(stream: UnixStream, worker: &Worker) {
    let refused = |text: String| ProxyError::new(ErrorKind::Locked, text);
    let dir = worker.options.dir.display();
    let own = stream.peer_cred().ok().and_then(|peer| peer.pid()).map(i32::cast_unsigned);
    if let Some(pid) = worker.holder_pid.get().filter(|pid| Some(*pid) != own) {
        let error = refused(format!("folder {dir} is held by process {pid}, which lives; stop it first"));
        // Who asked and went away needs no answer.
        let _ = fds::send(&stream, &Sockets::refuse(&error), &[]).await;
        return;
    }
    let already = worker.handing_over.replace(true);
    worker.handing.notify_one();
    if already {
        let text = format!("the worker on folder {dir} is handing over already");
        let error = ProxyError::new(ErrorKind::Closing, text);
        let _ = fds::send(&stream, &Sockets::refuse(&error), &[]).await;
        return;
    }
    moment::reached("old-was-asked");
    let copies = worker.holdings.borrow().copy();
    let told = async {
        let copies = copies.ok()?;
        let (mut message, fds) = copies.describe(None);
        let control = &worker.control;
        message.lacks = Some(control.certificates.borrow().lacking(&control.state.borrow().stored.table));
        message.leaving = worker.leaving.iter().copied().chain([std::process::id()]).collect();
        fds::send(&stream, &message, &fds).await.ok()?;
        moment::reached("old-gave-sockets");
        fds::receive::<String>(&stream).await.ok()?
    };
    // Whoever holds the connection limits the time that the next worker has, unless it hangs itself.
    if timeout(HAND_OVER, told).await.ok().flatten().is_none() {
        // The new holder died or its worker never served: this one goes on.
        worker.handing_over.set(false);
        return;
    }
    moment::reached("old-was-told");
    // For the guards of the next one; what comes of requests under way is written once they have ended.
    let _ = timeout(LAST_COUNTS, worker.control.keep_counted()).await;
    if let Err(error) = worker.control.promise_to_follow() {
        // Full or read-only: the next one then does not wait for this one to follow.
        tracing::error!(%error, "a worker that leaves cannot say that it follows");
    }
    let Some(turn) = worker.turn.take() else { return };
    if fds::send(&stream, &"gone", &[turn.as_fd()]).await.is_err() {
        // The holder died before it heard that, so no next one serves.
        worker.control.stop_following();
        worker.turn.replace(Some(turn));
        worker.handing_over.set(false);
        return;
    }
    drop(turn);
    moment::reached("old-said-gone");
    worker.quit.notify_one();
}
