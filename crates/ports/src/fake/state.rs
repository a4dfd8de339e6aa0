//! The world's state and its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use cutover_core::{
    Counts, Fault, Fence, InstanceId, Lease, ReleaseId, RevisionId, ServiceName, Shift, Weight,
};
use tokio::time::Instant;

use super::staff::Staff;
use super::world::{Behavior, Called, LEASE};
use crate::{
    FailingTarget, InstanceState, ObservedInstance, ObservedRevision, RouterView, Target, TrackView, Trip,
};

/// Requests per second that each service gets.
const RATE: u64 = 100;
/// Requests are counted in parts, so that short times add up: one is 1000 ms times 10000 basis points.
const PARTS: u64 = 10_000_000;

pub(super) struct State {
    pub(super) stored: BTreeSet<(ServiceName, RevisionId)>,
    pub(super) sets: BTreeMap<(ServiceName, RevisionId), Set>,
    pub(super) staff: BTreeMap<(ServiceName, RevisionId), Staff>,
    pub(super) behaviors: BTreeMap<RevisionId, Behavior>,
    pub(super) tables: BTreeMap<ServiceName, Table>,
    pub(super) fences: BTreeMap<(ServiceName, bool), Fence>,
    pub(super) trips: Vec<Trip>,
    pub(super) trip_count: u64,
    pub(super) violations: Vec<String>,
    pub(super) log: Vec<Called>,
    pub(super) now: Instant,
    /// What the judge says of every candidate.
    pub(super) proven: bool,
    port: u16,
}

/// The instances of a revision.
pub(super) struct Set {
    pub(super) desired: u32,
    pub(super) instances: Vec<Instance>,
}

pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) address: SocketAddr,
    pub(super) started: Instant,
    pub(super) restarts: u32,
}

/// A service in the router.
#[derive(Default)]
pub(super) struct Table {
    pub(super) generation: u64,
    pub(super) tracks: Vec<Track>,
    pub(super) lease: Option<(Lease, Instant)>,
    pub(super) edited: bool,
    pinned: Vec<(ReleaseId, RevisionId)>,
    /// Targets that hold requests or pooled connections.
    in_flight: BTreeSet<(RevisionId, SocketAddr)>,
    since: BTreeMap<(ReleaseId, RevisionId), (u64, u64)>,
    requests: u64,
    failed: u64,
    failed_by_router: u64,
}

#[derive(Clone)]
pub(super) struct Track {
    revision: RevisionId,
    weight: Weight,
    targets: Vec<Target>,
    requests: u64,
    failed: u64,
}

impl Table {
    pub(super) fn weights(&self) -> Vec<(RevisionId, Weight)> {
        self.tracks.iter().map(|track| (track.revision.clone(), track.weight)).collect()
    }

    fn weight(&self, revision: &RevisionId) -> Weight {
        self.tracks
            .iter()
            .find(|track| &track.revision == revision)
            .map_or(Weight::ZERO, |track| track.weight)
    }

    fn split(&mut self, weights: &[(RevisionId, Weight)], targets: Option<&[Target]>) {
        let old = std::mem::take(&mut self.tracks);
        let mut names: Vec<RevisionId> = weights.iter().map(|(revision, _)| revision.clone()).collect();
        names.extend(targets.unwrap_or_default().iter().map(|target| target.revision.clone()));
        if targets.is_none() {
            names.extend(old.iter().map(|track| track.revision.clone()));
        }
        for revision in names {
            if self.tracks.iter().any(|track| track.revision == revision) {
                continue;
            }
            let before = old.iter().find(|track| track.revision == revision);
            let weight =
                weights.iter().find(|(r, _)| r == &revision).map_or(Weight::ZERO, |(_, weight)| *weight);
            let targets = match targets {
                Some(all) => all.iter().filter(|target| target.revision == revision).cloned().collect(),
                None => before.map(|track| track.targets.clone()).unwrap_or_default(),
            };
            let (requests, failed) = before.map_or((0, 0), |track| (track.requests, track.failed));
            self.tracks.push(Track { revision, weight, targets, requests, failed });
        }
        self.take_requests();
    }

    /// Whoever has weight is sent requests.
    fn take_requests(&mut self) {
        for track in self.tracks.iter().filter(|track| track.weight > Weight::ZERO) {
            let addresses = track.targets.iter().map(|target| target.address);
            self.in_flight.extend(addresses.map(|address| (track.revision.clone(), address)));
        }
    }

    /// Returns of how many targets of the revision something is in flight.
    fn busy(&self, revision: &RevisionId) -> usize {
        self.in_flight.iter().filter(|(r, _)| r == revision).count()
    }
}

impl State {
    pub(super) fn new() -> State {
        State {
            stored: BTreeSet::new(),
            sets: BTreeMap::new(),
            staff: BTreeMap::new(),
            behaviors: BTreeMap::new(),
            tables: BTreeMap::new(),
            fences: BTreeMap::new(),
            trips: Vec::new(),
            trip_count: 0,
            violations: Vec::new(),
            log: Vec::new(),
            now: Instant::now(),
            proven: false,
            port: 20_000,
        }
    }

    pub(super) fn behavior(&self, revision: &RevisionId) -> Behavior {
        self.behaviors.get(revision).cloned().unwrap_or_default()
    }

    /// Lets time pass: requests come, leases lapse.
    pub(super) fn pass(&mut self, now: Instant) {
        let ms = u64::try_from(now.saturating_duration_since(self.now).as_millis()).unwrap_or(0);
        if ms == 0 {
            return;
        }
        self.now = now;
        let addresses: BTreeSet<SocketAddr> =
            self.sets.values().flat_map(|set| &set.instances).map(|instance| instance.address).collect();
        let behaviors = self.behaviors.clone();
        for table in self.tables.values_mut() {
            for track in &mut table.tracks {
                let parts = RATE * ms * u64::from(track.weight.bp());
                table.requests += parts;
                track.requests += parts;
                let failing = behaviors.get(&track.revision).map_or(0, |behavior| behavior.failing);
                track.failed += parts * failing / 100;
                table.failed += parts * failing / 100;
                if !track.targets.iter().any(|target| addresses.contains(&target.address)) {
                    table.failed_by_router += parts;
                }
            }
        }
        let lapsed =
            self.tables.iter().filter(|(_, table)| matches!(&table.lease, Some((_, until)) if now >= *until));
        let lapsed: Vec<ServiceName> = lapsed.map(|(name, _)| name.clone()).collect();
        for service in lapsed {
            self.trip(&service, "the lease lapsed: nobody renewed it");
        }
    }

    /// Refuses what is older than what was seen.
    pub(super) fn fence(&mut self, service: &ServiceName, router: bool, fence: Fence) -> Result<(), Fault> {
        let highest = self.fences.entry((service.clone(), router)).or_default();
        if fence < *highest {
            return Err(Fault::fenced(format!("{service}: fence {fence} is lower than {highest}")));
        }
        *highest = fence;
        Ok(())
    }

    pub(super) fn ensure(
        &mut self,
        service: &ServiceName,
        revision: &RevisionId,
        count: u32,
    ) -> Result<(), Fault> {
        let key = (service.clone(), revision.clone());
        if !self.stored.contains(&key) {
            return Err(Fault::platform(format!("start {revision}: it is not stored")).fatal());
        }
        let mut instances = self.sets.remove(&key).map(|set| set.instances).unwrap_or_default();
        for stopped in instances.split_off(instances.len().min(count as usize)) {
            self.stopped(service, revision, &stopped);
        }
        while instances.len() < count as usize {
            self.port += 1;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
            let free = (1..).map(|n: u32| InstanceId::new(format!("{service}-{revision}-{n}")));
            let mut free = free.filter(|id| !instances.iter().any(|instance: &Instance| &instance.id == id));
            let id = free.next().unwrap_or_else(|| InstanceId::new("none"));
            instances.push(Instance { id, address, started: self.now, restarts: 0 });
        }
        self.sets.insert(key, Set { desired: count, instances });
        Ok(())
    }

    pub(super) fn observe(&self, service: &ServiceName) -> Vec<ObservedRevision> {
        let mine = |(name, revision): &(ServiceName, RevisionId)| (name == service).then(|| revision.clone());
        let routed = self.sets.iter().filter(|(_, set)| !set.instances.is_empty()).map(|(key, _)| key);
        let working = self.staff.iter().filter(|(_, staff)| !staff.workers.is_empty()).map(|(key, _)| key);
        let revisions: BTreeSet<RevisionId> = routed.chain(working).filter_map(mine).collect();
        let show = |revision: RevisionId| {
            let (key, behavior) = ((service.clone(), revision.clone()), self.behavior(&revision));
            let set = self.sets.get(&key);
            let instances = set.into_iter().flat_map(|set| &set.instances);
            ObservedRevision {
                desired: set.map_or(0, |set| set.desired),
                instances: instances.map(|instance| self.observed(instance, &behavior)).collect(),
                processes: self.observed_processes(&key, &behavior),
                revision,
            }
        };
        revisions.into_iter().map(show).collect()
    }

    fn observed(&self, instance: &Instance, behavior: &Behavior) -> ObservedInstance {
        let up = self.now.saturating_duration_since(instance.started);
        let (state, why, log) = match &behavior.exits {
            Some((why, log)) if up >= behavior.start => (InstanceState::Restarting, why.clone(), log.clone()),
            _ => (InstanceState::Running, String::new(), vec![format!("{} listens", instance.id)]),
        };
        ObservedInstance {
            id: instance.id.clone(),
            address: instance.address,
            pid: None,
            state,
            restarts: instance.restarts,
            ended: why.clone(),
            why,
            log,
        }
    }

    pub(super) fn vouch(&self, service: &ServiceName, id: &InstanceId) -> Result<(), Fault> {
        let mine = self.sets.iter().filter(|((name, _), _)| name == service);
        let found = mine.flat_map(|((_, revision), set)| set.instances.iter().map(move |i| (revision, i)));
        let Some((revision, instance)) = found.into_iter().find(|(_, instance)| &instance.id == id) else {
            return Err(Fault::platform(format!("{id} does not run")));
        };
        let behavior = self.behavior(revision);
        if self.now.saturating_duration_since(instance.started) < behavior.start {
            return Err(Fault::platform(format!("{id} listens on no port yet")));
        }
        if behavior.wrong_port {
            let what = format!("{id} listens on 9999 instead of $PORT={}", instance.address.port());
            return Err(Fault::candidate(what).hint("Let the service listen on $PORT."));
        }
        Ok(())
    }

    pub(super) fn retire(&mut self, service: &ServiceName, revision: &RevisionId) {
        let key = (service.clone(), revision.clone());
        if let Some(staff) = self.staff.get_mut(&key) {
            staff.workers.clear();
        }
        if self.sets.remove(&key).is_none_or(|set| set.instances.is_empty()) {
            return;
        }
        let Some(table) = self.tables.get(service) else { return };
        if table.weight(revision) > Weight::ZERO {
            self.violations.push(format!("{revision} of {service} was stopped with weight"));
        }
        if table.busy(revision) > 0 {
            self.violations.push(format!("{revision} of {service} was stopped with requests in flight"));
        }
    }

    /// Notes that one of several instances was stopped while the router still uses it.
    fn stopped(&mut self, service: &ServiceName, revision: &RevisionId, instance: &Instance) {
        let Some(table) = self.tables.get(service) else { return };
        if table.in_flight.contains(&(revision.clone(), instance.address)) {
            let what = format!("{} of {service} was stopped with requests in flight", instance.id);
            self.violations.push(what);
        }
    }

    pub(super) fn set(
        &mut self,
        service: &ServiceName,
        shift: &Shift,
        targets: &[Target],
    ) -> Result<u64, Fault> {
        let sum: u32 = shift.weights.iter().map(|(_, weight)| u32::from(weight.bp())).sum();
        if sum != 0 && sum != 10_000 {
            return Err(Fault::cutover(format!("weights add up to {sum} basis points")).fatal());
        }
        for (revision, weight) in &shift.weights {
            let behavior = self.behavior(revision);
            let set = self.sets.get(&(service.clone(), revision.clone()));
            let ready = set.is_some_and(|set| {
                let up = |instance: &Instance| {
                    self.now.saturating_duration_since(instance.started) >= behavior.start
                };
                set.instances.iter().any(up)
            });
            // Targets that no instance stands behind are a router's test of its own.
            let lone = targets.iter().any(|target| &target.revision == revision) && set.is_none();
            if *weight > Weight::ZERO && !ready && !lone {
                self.violations.push(format!("{revision} of {service} got weight and is not ready"));
            }
        }
        if let Some(lease) =
            shift.lease.as_ref().filter(|lease| lease.retain > shift.weight_of(&lease.candidate))
        {
            let what = format!("{service}: {} would keep more than it has", lease.candidate);
            return Err(Fault::cutover(what).fatal());
        }
        let now = self.now;
        let table = self.tables.entry(service.clone()).or_default();
        if table.edited {
            return Err(Fault::platform(format!("{service}: someone else changed the table")).fatal());
        }
        for (release, revision) in &table.pinned {
            let mine = shift.lease.as_ref().is_none_or(|lease| &lease.release == release);
            if mine && shift.weight_of(revision) > table.weight(revision) {
                let what = format!("{service}: the router took the traffic of {release} away");
                return Err(Fault::platform(what).fatal());
            }
        }
        if let Some(lease) = &shift.lease {
            table.pinned.retain(|(release, _)| release == &lease.release);
        }
        let before = (table.weights(), table.targets());
        let had_lease = table.lease.is_some();
        if let Some(lease) = &shift.lease {
            let key = (lease.release.clone(), lease.candidate.clone());
            let track = table.tracks.iter().find(|track| track.revision == lease.candidate);
            let counts = track.map_or((0, 0), |track| (track.requests, track.failed));
            table.since.entry(key).or_insert(counts);
        }
        table.split(&shift.weights, Some(targets));
        table.lease = shift.lease.clone().map(|lease| (lease, now + LEASE));
        let same = before == (table.weights(), table.targets()) && had_lease == table.lease.is_some();
        if !same || table.generation == 0 {
            table.generation += 1;
        }
        Ok(table.generation)
    }

    pub(super) fn set_targets(&mut self, service: &ServiceName, targets: &[Target]) -> Result<(), Fault> {
        let Some(table) = self.tables.get_mut(service) else {
            return Err(Fault::platform(format!("{service} is not in the table")).fatal());
        };
        for track in &mut table.tracks {
            track.targets =
                targets.iter().filter(|target| target.revision == track.revision).cloned().collect();
        }
        table.take_requests();
        table.generation += 1;
        Ok(())
    }

    pub(super) fn renew(&mut self, service: &ServiceName, release: &ReleaseId) -> Result<(), Fault> {
        let now = self.now;
        let lease = self.tables.get_mut(service).and_then(|table| table.lease.as_mut());
        match lease {
            Some((lease, until)) if &lease.release == release => {
                *until = now + LEASE;
                Ok(())
            }
            _ => Err(Fault::platform(format!("{release} has no lease on {service}"))),
        }
    }

    pub(super) fn drain(&mut self, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let Some(table) = self.tables.get_mut(service) else { return Ok(()) };
        if table.weight(revision) > Weight::ZERO {
            return Err(Fault::platform(format!("{revision} of {service} still has weight")));
        }
        table.in_flight.retain(|(r, _)| r != revision);
        if table.tracks.iter().any(|track| &track.revision == revision) {
            table.tracks.retain(|track| &track.revision != revision);
            table.generation += 1;
        }
        Ok(())
    }

    pub(super) fn drain_targets(&mut self, service: &ServiceName, targets: &[Target]) -> Result<(), Fault> {
        let Some(table) = self.tables.get_mut(service) else { return Ok(()) };
        let routed = table.targets();
        for target in targets {
            if routed.iter().any(|routed| routed.address == target.address) {
                let what = format!("{} of {service} is still in the table", target.instance);
                return Err(Fault::platform(what));
            }
            table.in_flight.retain(|(_, address)| *address != target.address);
        }
        Ok(())
    }

    pub(super) fn counts(&self, service: &ServiceName, release: &ReleaseId, revision: &RevisionId) -> Counts {
        let Some(table) = self.tables.get(service) else { return Counts::default() };
        let Some(since) = table.since.get(&(release.clone(), revision.clone())) else {
            return Counts::default();
        };
        let track = table.tracks.iter().find(|track| &track.revision == revision);
        let Some(track) = track else { return Counts::default() };
        let requests = track.requests.saturating_sub(since.0) / PARTS;
        let failed = track.failed.saturating_sub(since.1) / PARTS;
        Counts { requests, failed, latency_us_sum: requests * 1_000, latency_us_p95: 2_000 }
    }

    pub(super) fn trip(&mut self, service: &ServiceName, why: &str) {
        let Some(table) = self.tables.get_mut(service) else { return };
        let Some((lease, until)) = table.lease.take() else { return };
        self.trip_count += 1;
        let mut trip = Trip {
            number: self.trip_count,
            service: service.clone(),
            release: None,
            why: why.to_string(),
            shared: false,
        };
        if lease.retain == Weight::FULL {
            // Nobody can take anything: the traffic stays, and a person is told.
            table.lease = Some((lease, until + LEASE));
        } else {
            table.pinned.push((lease.release.clone(), lease.candidate.clone()));
            table.split(&[(lease.fallback, lease.retain.rest()), (lease.candidate, lease.retain)], None);
            table.generation += 1;
            trip.release = Some(lease.release);
        }
        self.trips.push(trip);
    }

    pub(super) fn restart(&mut self, service: &ServiceName, id: &InstanceId) {
        let now = self.now;
        let sets = self.sets.iter_mut().filter(|((of, _), _)| of == service);
        let found = sets.flat_map(|(_, set)| &mut set.instances).find(|instance| &instance.id == id);
        if let Some(instance) = found {
            instance.restarts += 1;
            instance.started = now;
        }
    }

    pub(super) fn move_instance(&mut self, service: &ServiceName, revision: &RevisionId) {
        self.port += 1;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let now = self.now;
        let set = self.sets.get_mut(&(service.clone(), revision.clone()));
        if let Some(instance) = set.and_then(|set| set.instances.first_mut()) {
            instance.address = address;
            instance.restarts += 1;
            instance.started = now;
        }
    }

    /// What the router's checks would say of those whose behaviour has changed since they took traffic.
    fn failing(&self, targets: &[Target]) -> Vec<FailingTarget> {
        let unwell = |target: &Target| {
            let why = self.behavior(&target.revision).unhealthy?;
            Some(FailingTarget { instance: target.instance.clone(), check: "GET /health".into(), why })
        };
        targets.iter().filter_map(unwell).collect()
    }

    /// Lets targets of a revision be reached without weight.
    pub(super) fn pin(&mut self, service: &ServiceName, revision: &RevisionId, targets: &[Target]) {
        let table = self.tables.entry(service.clone()).or_default();
        let mine: Vec<Target> =
            targets.iter().filter(|target| &target.revision == revision).cloned().collect();
        match table.tracks.iter_mut().find(|track| &track.revision == revision) {
            Some(track) if track.targets == mine => return,
            Some(track) => track.targets = mine,
            None => table.tracks.push(Track {
                revision: revision.clone(),
                weight: Weight::ZERO,
                targets: mine,
                requests: 0,
                failed: 0,
            }),
        }
        table.generation += 1;
    }

    pub(super) fn view(&self, service: &ServiceName) -> RouterView {
        let Some(table) = self.tables.get(service) else { return RouterView::default() };
        let tracks = table.tracks.iter().map(|track| TrackView {
            revision: track.revision.clone(),
            weight: track.weight,
            targets: track.targets.clone(),
            failing: self.failing(&track.targets),
            in_flight: table.busy(&track.revision) as u64,
            requests: track.requests / PARTS,
            failed: track.failed / PARTS,
        });
        RouterView {
            generation: table.generation,
            tracks: tracks.collect(),
            requests: table.requests / PARTS,
            failed: table.failed / PARTS,
            failed_by_router: table.failed_by_router / PARTS,
            notes: Vec::new(),
        }
    }
}

impl Table {
    fn targets(&self) -> Vec<Target> {
        self.tracks.iter().flat_map(|track| track.targets.clone()).collect()
    }
}
