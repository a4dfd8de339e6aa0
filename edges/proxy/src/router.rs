//! The router port over the proxy's admin socket.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    Account, Counts, Evidence, FLOOR, Fault, Fence, InstanceId, JudgeProgress, Prove, ReleaseId, RevisionId,
    ServiceName, Shift, Traffic as Known, Verdict, Weight, file,
};
use cutover_ports::{FailingTarget, LeaseSupport, Router, RouterView, Target, TrackView, Trip};
use cutover_proxy::{
    Arm, CertificateObservation, Client, DrainReply, ErrorKind, EventKind, JudgeQuestion, ProxyError,
    ServiceObservation, ServiceTable, TargetObservation, TlsRoute, Track, Traffic,
};

use crate::faults::fault;
use crate::judge;
use crate::table::{
    access_log, assets, balance, check, https, limits, mirror, passing, paths, preview, retries, speak,
    sticky, targets_of, wanted,
};

/// What the judge is asked, so that a step may go on.
fn question(prove: &Prove) -> JudgeQuestion {
    JudgeQuestion {
        margin_ppb: prove.margin_ppb,
        latency: prove.latency,
        floor_ms: FLOOR.ms(),
        epochs_from: None,
        close: false,
    }
}

/// How long a candidate keeps its weight without a living driver, in milliseconds.
pub const LEASE_MS: u64 = 10_000;

/// cutover's own proxy as a router.
pub struct ProxyRouter {
    client: Client,
    pin_key: String,
    /// The generation that each service had after our last change: another one is somebody else's edit.
    ours: Mutex<HashMap<ServiceName, u64>>,
}

impl ProxyRouter {
    /// Makes the router of the proxy on `dir`; `pin_key` (hex) signs the headers that pin a revision.
    pub fn new(dir: &Path, pin_key: String) -> Self {
        Self { client: Client::new(dir), pin_key, ours: Mutex::default() }
    }

    async fn service(&self, service: &ServiceName) -> Result<Option<ServiceObservation>, Fault> {
        match self.client.observe_service(service.as_str()).await {
            Ok(mut seen) => Ok(seen.services.remove(service.as_str())),
            Err(error) if *error.kind() == ErrorKind::UnknownService => Ok(None),
            Err(error) => Err(fault(&format!("observe \"{service}\" in the proxy"), &error)),
        }
    }

    /// Ensures that the addresses of the routes are open; returns them as bound, with their hosts.
    async fn open(&self, routes: &[file::Route]) -> Result<Vec<(SocketAddr, Option<String>)>, Fault> {
        let mut bound = Vec::new();
        for file::Route::Proxy(route) in routes {
            let opened = self.client.listen(route.listen).await;
            let address = opened.map_err(|error| fault("open the route", &error))?;
            bound.push((address, route.host.clone()));
        }
        Ok(bound)
    }

    /// Compare-and-swap on what was just observed; remembers the generation as ours.
    async fn swap(
        &self,
        fence: Fence,
        service: &ServiceName,
        before: Option<&ServiceObservation>,
        table: &ServiceTable,
    ) -> Result<Evidence, Fault> {
        // Whatever becomes of the call, and of us while it is under way: only an answer makes a generation ours.
        self.forget(service);
        let mut expected = before.map_or(0, |seen| seen.table.generation);
        let mut answer = self.client.set(service.as_str(), expected, fence.epoch, table).await;
        // A service that was removed keeps its generation: going on from there is no conflict, nobody has it.
        if let (None, Some(ErrorKind::Conflict { actual })) =
            (before, answer.as_ref().err().map(ProxyError::kind))
        {
            expected = *actual;
            if self.service(service).await?.is_none() {
                answer = self.client.set(service.as_str(), expected, fence.epoch, table).await;
            }
        }
        let reply = answer
            .map_err(|error| fault(&format!("set the weights of \"{service}\" in the proxy"), &error))?;
        self.remember(service, reply.generation);
        Ok(Evidence::Shifted {
            generation: reply.generation,
            acknowledged_us: reply.acknowledged_ns.saturating_sub(reply.persisted_ns) / 1000,
        })
    }

    fn remember(&self, service: &ServiceName, generation: u64) {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner).insert(service.clone(), generation);
    }

    fn forget(&self, service: &ServiceName) {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner).remove(service);
    }

    fn remembered(&self, service: &ServiceName) -> Option<u64> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner).get(service).copied()
    }

    /// Returns why the proxy took a release's traffic away, as long as it has not been told to forget it.
    async fn why_tripped(&self, release: &str) -> String {
        let events = self.client.events(0).await.unwrap_or_default();
        let event = events.into_iter().find(|event| event.release.as_deref() == Some(release));
        event.map_or_else(|| "see the proxy's log".into(), |event| event.why)
    }

    /// Stops where the proxy took the candidate's traffic away, or where somebody else changed the table.
    async fn refuse_foreign(
        &self,
        service: &ServiceName,
        seen: &ServiceObservation,
        shift: &Shift,
    ) -> Result<(), Fault> {
        let tripped =
            seen.table.candidate.as_ref().filter(|candidate| seen.tripped.contains(&candidate.release));
        if let Some(candidate) = tripped {
            let same = shift.lease.as_ref().is_none_or(|lease| lease.release.as_str() == candidate.release);
            let has = seen.effective.get(&candidate.revision).copied().unwrap_or(0);
            // The way back lowers what it was left with; nobody raises it again.
            if same && shift.weight_of(&RevisionId::new(&*candidate.revision)).bp() > has {
                let why = self.why_tripped(&candidate.release).await;
                let what = format!("the proxy took its traffic away already: {why}");
                return Err(Fault::candidate(what));
            }
            return Ok(());
        }
        match self.remembered(service) {
            Some(ours) if ours != seen.table.generation => {
                self.remember(service, seen.table.generation);
                let what = format!(
                    "somebody else changed \"{service}\" in the proxy: generation {}, ours was {ours}",
                    seen.table.generation
                );
                Err(Fault::platform(what)
                    .fatal()
                    .hint("see what is there now: cutover status; then release again"))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Router for ProxyRouter {
    fn lease_support(&self) -> LeaseSupport {
        LeaseSupport::Yes
    }

    async fn preflight(&self, _service: &ServiceName, routes: &[file::Route]) -> Result<(), Fault> {
        let bound = self.open(routes).await?;
        let (tls, _) = https(&bound, routes);
        if tls.is_empty() {
            return Ok(());
        }
        // Said now rather than when traffic shall move. What is in use needs no proof: the proxy keeps it.
        let failed = |error| fault("see which certificates are in use", &error);
        let seen = self.client.observe().await.map_err(failed)?;
        let in_use =
            |route: &TlsRoute| seen.services.values().any(|service| service.table.tls.contains(route));
        let new = || tls.iter().filter(|route| !in_use(route));
        let plain = |address: &&SocketAddr| {
            let speaks = |tls: &[TlsRoute]| tls.iter().any(|route| route.listen == **address);
            !speaks(&tls) && !seen.services.values().any(|service| speaks(&service.table.tls))
        };
        if let Some(route) = new().find(|route| route.acme.is_some())
            && seen.listeners.iter().find(plain).is_none()
        {
            let host = route.host.as_deref().unwrap_or_default();
            let what = format!(
                "get a certificate for {host}: the authority looks at port 80 of it, and no listener speaks plain HTTP"
            );
            let hint = format!(
                "add a route such as `- proxy: {{listen: \"0.0.0.0:80\", host: {host}, redirect: https}}`"
            );
            return Err(Fault::configuration(what).hint(hint));
        }
        for route in new() {
            route.check().map_err(|why| {
                let host = route.host.as_deref().unwrap_or("any host");
                Fault::configuration(format!("speak TLS for {host} on {}: {why}", route.listen))
            })?;
        }
        Ok(())
    }

    async fn set(
        &self,
        fence: Fence,
        service: &ServiceName,
        routes: &[file::Route],
        shift: &Shift,
        targets: &[Target],
    ) -> Result<Evidence, Fault> {
        let seen = self.service(service).await?;
        if seen.is_none() && shift.weights.iter().all(|(_, weight)| *weight == Weight::ZERO) {
            // No traffic for a service that is not there: the way back of a first release that never got so far.
            return Ok(Evidence::Plain);
        }
        let bound = self.open(routes).await?;
        if let Some(seen) = &seen {
            self.refuse_foreign(service, seen, shift).await?;
        }
        let mut table =
            wanted(seen.as_ref().map(|seen| &seen.table), &bound, shift, targets, LEASE_MS, &self.pin_key);
        if !routes.is_empty() {
            table.assets = assets(routes);
            let candidate = shift.lease.as_ref().map(|lease| &lease.candidate);
            speak(&mut table, seen.as_ref().map(|seen| &seen.table), candidate, routes);
            table.balance = balance(routes);
            (table.tls, table.redirect) = https(&bound, routes);
            table.passing = passing(&bound, routes);
            table.retries = retries(routes);
            table.limits = limits(routes);
            table.access_log = access_log(routes);
            (table.paths, table.sticky) = (paths(routes), sticky(routes));
            (table.mirror_bp, table.preview) = (mirror(routes), preview(routes));
            check(&mut table.tracks, routes);
        }
        self.swap(fence, service, seen.as_ref(), &table).await
    }

    async fn pin(
        &self,
        fence: Fence,
        service: &ServiceName,
        routes: &[file::Route],
        revision: &RevisionId,
        targets: &[Target],
    ) -> Result<(String, String), Fault> {
        let signed = cutover_proxy::sign_pin(&self.pin_key, service.as_str(), revision.as_str());
        let header = (cutover_proxy::PIN_HEADER.to_string(), signed);
        let seen = self.service(service).await?;
        let own = targets_of(revision, targets);
        let track = seen.as_ref().and_then(|seen| seen.table.track(revision.as_str()));
        let known = |target: &cutover_proxy::Target, all: &[cutover_proxy::Target]| {
            all.iter().any(|one| (&one.instance, one.address) == (&target.instance, target.address))
        };
        if track.is_some_and(|track| {
            track.targets.len() == own.len() && own.iter().all(|target| known(target, &track.targets))
        }) {
            return Ok(header);
        }
        let before = seen.as_ref().map(|seen| &seen.table);
        // Of a service that is there only this track changes: its routes change when traffic moves.
        let bound = if seen.is_none() { self.open(routes).await? } else { Vec::new() };
        let nothing = Shift { weights: Vec::new(), lease: None };
        let fresh = wanted(before, &bound, &nothing, targets, LEASE_MS, &self.pin_key);
        let mut table = match before {
            Some(before) => ServiceTable { pin_key: fresh.pin_key.clone(), ..before.clone() },
            None => fresh.clone(),
        };
        let protocol = match file::TargetProtocol::of(routes) {
            file::TargetProtocol::Http1 => cutover_proxy::TargetProtocol::Http1,
            file::TargetProtocol::H2c => cutover_proxy::TargetProtocol::H2c,
        };
        table.tracks.retain(|track| track.revision != revision.as_str());
        let mine = fresh.tracks.into_iter().filter(|track| track.revision == revision.as_str());
        let weight_bp =
            before.and_then(|before| before.track(revision.as_str())).map_or(0, |track| track.weight_bp);
        table.tracks.extend(mine.map(|track| Track { protocol, weight_bp, ..track }));
        table.tracks.sort_by(|one, other| one.revision.cmp(&other.revision));
        if seen.is_none() {
            (table.tls, table.redirect) = https(&bound, routes);
            (table.paths, table.passing) = (paths(routes), passing(&bound, routes));
        }
        self.swap(fence, service, seen.as_ref(), &table).await?;
        Ok(header)
    }

    async fn set_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
    ) -> Result<(), Fault> {
        let Some(seen) = self.service(service).await? else { return Ok(()) };
        let mut table = seen.table.clone();
        for track in &mut table.tracks {
            let fresh = targets_of(&RevisionId::new(&*track.revision), targets);
            // An empty list would take a track off the air because of a moment without instances; dead targets
            // are passed over by the proxy anyhow.
            if !fresh.is_empty() {
                track.targets = fresh;
            }
        }
        // A trip in between changes the generation: the swap then fails, and the next round sees it.
        self.swap(fence, service, Some(&seen), &table).await.map(drop)
    }

    async fn observe(&self, service: &ServiceName) -> Result<RouterView, Fault> {
        let seen = match self.client.observe_service(service.as_str()).await {
            Ok(seen) => seen,
            Err(error) if *error.kind() == ErrorKind::UnknownService => return Ok(RouterView::default()),
            Err(error) => return Err(fault(&format!("observe \"{service}\" in the proxy"), &error)),
        };
        let Some(it) = seen.services.get(service.as_str()) else { return Ok(RouterView::default()) };
        let mut view = RouterView {
            generation: it.table.generation,
            notes: seen.damage.clone(),
            ..RouterView::default()
        };
        // Nobody waits for the answer to a copy.
        for arm in it.arms.iter().filter(|arm| arm.arm != Arm::Mirrored) {
            let sums = Sums::of(&arm.counts);
            view.requests += sums.requests;
            view.failed += sums.failed;
            view.failed_by_router += sums.failed_by_router;
        }
        if it.awaiting_renewal {
            view.notes.push(
                "the proxy was restarted: the candidate has no weight until its lease is renewed".into(),
            );
        }
        view.notes.extend(kept(it));
        view.notes.extend(sick(it));
        view.notes.extend(uncertified(it));
        view.notes.extend(it.tripped.iter().map(|release| format!("the candidate of {release} was tripped")));
        view.tracks = it.table.tracks.iter().map(|track| track_view(it, track)).collect();
        Ok(view)
    }

    async fn stamp(&self) -> Option<u64> {
        let hello = self.client.hello().await.ok()?;
        // A worker that came back may have an older table under the same generations.
        let mut hash = DefaultHasher::new();
        (hello.worker_pid, hello.tables?).hash(&mut hash);
        Some(hash.finish())
    }

    async fn renew(
        &self,
        fence: Fence,
        service: &ServiceName,
        release: &ReleaseId,
    ) -> Result<Duration, Fault> {
        let reply = self
            .client
            .renew(service.as_str(), release.as_str(), fence.epoch)
            .await
            .map_err(|error| fault(&format!("renew the lease of {release}"), &error))?;
        if reply.restored {
            self.remember(service, reply.generation);
        }
        Ok(Duration::from_millis(reply.lease_ms))
    }

    async fn drain(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let doing = || format!("drain {revision} of \"{service}\"");
        let reply = match self.client.drain(service.as_str(), revision.as_str(), within).await {
            Ok(reply) => reply,
            Err(error) if matches!(error.kind(), ErrorKind::UnknownService | ErrorKind::UnknownRevision) => {
                return Ok(Evidence::Drained { cut: 0, closed: 0 });
            }
            Err(error) => return Err(fault(&doing(), &error)),
        };
        let evidence = drained(&doing(), reply)?;
        if let Some(seen) = self.service(service).await? {
            let mut table = seen.table.clone();
            table.tracks.retain(|track| track.revision != revision.as_str());
            table.candidate = table.candidate.filter(|candidate| candidate.revision != revision.as_str());
            if let Some(candidate) = &mut table.candidate {
                candidate.fallback.retain(|(fallback, _)| fallback != revision.as_str());
            }
            self.swap(fence, service, Some(&seen), &table).await?;
        }
        Ok(evidence)
    }

    async fn drain_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let names: Vec<&str> = targets.iter().map(|target| target.instance.as_str()).collect();
        let doing = format!("drain {} of \"{service}\"", names.join(", "));
        let addresses: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
        let reply = self.client.drain_targets(service.as_str(), &addresses, fence.epoch, within).await;
        drained(&doing, reply.map_err(|error| fault(&doing, &error))?)
    }

    async fn counts(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        revision: &RevisionId,
    ) -> Result<Counts, Fault> {
        let Some(seen) = self.service(service).await? else { return Ok(Counts::default()) };
        let mut all = cutover_proxy::Counts::default();
        // Pinned requests are a person trying the candidate, not its traffic.
        for arm in seen.arms.iter().filter(|arm| {
            arm.revision == revision.as_str()
                && arm.release.as_deref() == Some(release.as_str())
                && arm.arm == Arm::Candidate
        }) {
            all.merge(&arm.counts);
        }
        // What the proxy itself could not do is no verdict on the candidate.
        all.failed.remove(cutover_proxy::EXHAUSTED);
        let sums = Sums::of(&all);
        Ok(Counts {
            requests: sums.requests,
            failed: sums.failed + sums.failed_by_router,
            latency_us_sum: all.latency.sum_us(),
            latency_us_p95: all.latency.quantile_us(0.95),
        })
    }

    async fn traffic(&self, service: &ServiceName) -> Result<Option<Known>, Fault> {
        Ok(self.service(service).await?.as_ref().map(judge::traffic))
    }

    async fn progress(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        prove: &Prove,
    ) -> Result<Option<JudgeProgress>, Fault> {
        let judged = self.client.judge(service.as_str(), release.as_str(), &question(prove)).await;
        let judged = judged.map_err(|error| fault(&format!("ask the judge of {release}"), &error))?;
        Ok(judge::progress(&judged))
    }

    async fn verdict(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        prove: &Prove,
    ) -> Result<Verdict, Fault> {
        let question = question(prove);
        let judged = self.client.judge(service.as_str(), release.as_str(), &question).await;
        match judged {
            Ok(judged) => Ok(judge::verdict(&judged)),
            // A proxy of another version that judges nothing, or one that has lost its table: nothing is proven.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::UnknownService | ErrorKind::UnknownRelease | ErrorKind::Protocol
                ) =>
            {
                Ok(judge::nobody(&error))
            }
            Err(error) => Err(fault(&format!("ask the judge of {release}"), &error)),
        }
    }

    async fn account(&self, service: &ServiceName, release: &ReleaseId) -> Result<Option<Account>, Fault> {
        let question = JudgeQuestion { epochs_from: Some(0), close: true, ..JudgeQuestion::default() };
        match self.client.judge(service.as_str(), release.as_str(), &question).await {
            Ok(judged) => Ok(Some(judge::account(judged))),
            Err(error) if matches!(error.kind(), ErrorKind::UnknownService | ErrorKind::UnknownRelease) => {
                Ok(None)
            }
            Err(error) => Err(fault(&format!("ask the judge of {release}"), &error)),
        }
    }

    async fn trips(&self, after: u64, wait: Duration) -> Result<Vec<Trip>, Fault> {
        let events = self
            .client
            .watch(after, wait)
            .await
            .map_err(|error| fault("watch the proxy's events", &error))?;
        Ok(events
            .into_iter()
            .map(|event| Trip {
                number: event.number,
                service: ServiceName::new(event.service.unwrap_or_default()),
                release: event
                    .release
                    .filter(|_| matches!(event.kind, EventKind::Trip | EventKind::Lapse | EventKind::Back))
                    .map(ReleaseId::new),
                why: event.why,
                shared: event.shared,
            })
            .collect())
    }

    async fn acknowledge(&self, number: u64) -> Result<(), Fault> {
        let failed = |error| fault("acknowledge the proxy's events", &error);
        // A proxy that lost its table answers 503 and says why, until it is given one again: forgetting the event
        // would make it a proxy that simply knows no service.
        let seen = self.client.observe().await.map_err(failed)?;
        if seen.services.is_empty() && !seen.damage.is_empty() {
            return Ok(());
        }
        self.client.ack(number).await.map_err(failed)
    }

    async fn remove(&self, fence: Fence, service: &ServiceName) -> Result<(), Fault> {
        self.forget(service);
        let Some(seen) = self.service(service).await? else { return Ok(()) };
        match self.client.remove_service(service.as_str(), seen.table.generation, fence.epoch).await {
            Err(error) if *error.kind() != ErrorKind::UnknownService => {
                Err(fault(&format!("remove \"{service}\" from the proxy"), &error))
            }
            _ => Ok(()),
        }
    }
}

/// Says what an operator lets the requests do, unless they pass.
fn kept(seen: &ServiceObservation) -> Option<String> {
    let what = match &seen.traffic {
        Traffic::Open => return None,
        Traffic::Queue(_) => format!("requests are held, {} wait", seen.waiting),
        Traffic::Flow { per_second, .. } => {
            format!("{per_second} requests a second are let through, {} wait", seen.waiting)
        }
        Traffic::Maintenance { .. } => "requests are answered with the maintenance page".to_owned(),
    };
    Some(format!("{what}; let them pass: cutover traffic open"))
}

/// Says which targets fail their checks, and what that means.
fn sick(seen: &ServiceObservation) -> Vec<String> {
    let down = seen.targets.iter().filter(|target| !target.up);
    let say = |target: &TargetObservation| {
        let others = seen.targets.iter().any(|other| other.revision == target.revision && other.up);
        let but = if others {
            "it gets no requests until it passes again"
        } else {
            "so do all targets of its revision, which keep their requests"
        };
        let why = target.why.as_deref().unwrap_or("it passes again, but not often enough yet");
        format!("{} fails its checks ({} at {}: {why}): {but}", target.instance, target.check, target.address)
    };
    down.map(say).collect()
}

/// Says which certificates are missing or cannot be renewed, and why.
fn uncertified(seen: &ServiceObservation) -> Vec<String> {
    let say = |certificate: &CertificateObservation| {
        let host = certificate.host.as_deref().unwrap_or("any other host");
        match (&certificate.problem, certificate.not_after) {
            (Some(problem), _) => Some(format!("certificate of {host}: {problem}")),
            (None, None) => Some(format!(
                "the certificate of {host} is asked for; until it is there, its clients are refused"
            )),
            (None, Some(_)) => None,
        }
    };
    seen.certificates.iter().filter_map(say).collect()
}

/// What a set of counters comes to.
struct Sums {
    requests: u64,
    failed: u64,
    failed_by_router: u64,
}

impl Sums {
    fn of(counts: &cutover_proxy::Counts) -> Sums {
        let failed_by_router = counts.failed_total();
        let failed = counts.status[4];
        Sums {
            requests: counts.finished + failed_by_router + counts.cut,
            failed,
            failed_by_router: failed_by_router + counts.cut,
        }
    }
}

/// Returns what a drain shows; a fault while something is still in flight.
fn drained(doing: &str, reply: DrainReply) -> Result<Evidence, Fault> {
    if reply.left > 0 {
        return Err(Fault::platform(format!("{doing}: {} requests outlived the cut", reply.left)));
    }
    Ok(Evidence::Drained { cut: reply.cut, closed: reply.websockets_closed })
}

fn failing(seen: &ServiceObservation, revision: &str) -> Vec<FailingTarget> {
    let down = seen.targets.iter().filter(|target| !target.up && target.revision == revision);
    down.map(|target| FailingTarget {
        instance: InstanceId::new(&*target.instance),
        check: target.check.clone(),
        why: target.why.clone().unwrap_or_else(|| "it passes again, but not often enough yet".into()),
    })
    .collect()
}

fn track_view(seen: &ServiceObservation, track: &Track) -> TrackView {
    let revision = RevisionId::new(&*track.revision);
    let held = seen.revisions.get(&track.revision).copied().unwrap_or_default();
    let mut all = cutover_proxy::Counts::default();
    for arm in seen.arms.iter().filter(|arm| arm.revision == track.revision && arm.arm != Arm::Mirrored) {
        all.merge(&arm.counts);
    }
    let sums = Sums::of(&all);
    TrackView {
        weight: Weight::from_bp(seen.effective.get(&track.revision).copied().unwrap_or(0)),
        targets: track
            .targets
            .iter()
            .map(|target| Target {
                revision: revision.clone(),
                instance: InstanceId::new(&*target.instance),
                address: target.address,
            })
            .collect(),
        failing: failing(seen, &track.revision),
        in_flight: held.in_flight,
        requests: sums.requests,
        failed: sums.failed + sums.failed_by_router,
        revision,
    }
}
