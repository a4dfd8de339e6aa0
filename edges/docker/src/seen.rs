//! What is shown of a service: its containers by revision, with the last lines of their logs.

use std::collections::BTreeMap;

use bollard::models::ContainerSummary;
use cutover_core::{Fault, ProcessName, RevisionId, ServiceName};
use cutover_keep::Wish;
use cutover_ports::{InstanceState, ObservedInstance, ObservedProcess, ObservedRevision, ObservedWorker};
use futures_util::future::try_join_all;

use crate::container::Container;
use crate::logs;
use crate::names::Place;
use crate::platform::Shared;

const LOG_LINES: usize = 20;

#[derive(Default)]
struct Revision {
    desired: u32,
    instances: Vec<ObservedInstance>,
    processes: BTreeMap<ProcessName, (u32, Vec<ObservedWorker>)>,
}

/// Returns what really runs of a service that was asked for so much.
pub(crate) async fn of(
    shared: &Shared,
    service: &ServiceName,
    wish: &Wish,
) -> Result<Vec<ObservedRevision>, Fault> {
    let mut revisions: BTreeMap<RevisionId, Revision> = BTreeMap::new();
    for (revision, beside, count) in wish.wishes() {
        let entry = revisions.entry(revision).or_default();
        match beside {
            None => entry.desired = count,
            Some(name) => entry.processes.entry(name).or_default().0 = count,
        }
    }
    let mut found = shared.containers.of(service).await?;
    // What is being made is no instance yet.
    found.retain(|one| !one.is_new());
    let logs =
        try_join_all(found.iter().map(|one| logs::tail(&shared.containers, &one.id, LOG_LINES))).await?;
    for (one, log) in found.iter().zip(logs) {
        let entry = revisions.entry(one.labels.place.revision.clone()).or_default();
        let ended = shared.memory.ending(&one.id);
        let worker = worker(shared, one, wish, log);
        match (&one.labels.place.beside, one.address()) {
            (Some(name), _) => entry.processes.entry(name.clone()).or_default().1.push(worker),
            (None, Some(address)) => {
                let ObservedWorker { id, pid, state, restarts, why, log } = worker;
                entry.instances.push(ObservedInstance { id, address, pid, state, restarts, why, ended, log });
            }
            (None, None) => {}
        }
    }
    let process = |(name, (desired, instances))| ObservedProcess { name, desired, instances };
    let revision = |(revision, seen): (RevisionId, Revision)| ObservedRevision {
        revision,
        desired: seen.desired,
        instances: seen.instances,
        processes: seen.processes.into_iter().map(process).collect(),
    };
    Ok(revisions.into_iter().map(revision).collect())
}

fn worker(shared: &Shared, one: &Container, wish: &Wish, log: Vec<String>) -> ObservedWorker {
    let leaves = !wanted(wish, &one.labels.place) || shared.memory.is_stopping(&one.id);
    let state = if leaves { InstanceState::Stopping } else { one.instance_state() };
    let why = match one.why() {
        // The engine forgets why a container ended that it started again, or did not.
        why if why.is_empty() => why,
        why => Some(shared.memory.ending(&one.id)).filter(|ended| !ended.is_empty()).unwrap_or(why),
    };
    ObservedWorker {
        id: one.labels.instance.clone(),
        pid: one.pid(),
        state,
        restarts: one.restarts,
        why,
        log,
    }
}

/// Tells whether a container of this place is wanted.
pub(crate) fn wanted(wish: &Wish, place: &Place) -> bool {
    let count = match &place.beside {
        None => wish.desired.get(&place.revision),
        Some(name) => wish.processes.get(&place.revision).and_then(|run| run.get(name)),
    };
    count.is_some_and(|count| place.number <= *count)
}

/// Returns all of a short look at a container that another look could show otherwise.
pub(crate) fn summary(one: &ContainerSummary) -> String {
    let mut ports: Vec<_> = one.ports.iter().flatten().map(|port| port.public_port).collect();
    ports.sort_unstable();
    let networks = one.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let mut addresses: Vec<_> =
        networks.into_iter().flatten().map(|(_, network)| &network.ip_address).collect();
    addresses.sort_unstable();
    format!("{:?} {:?} {ports:?} {addresses:?}", one.id, one.state)
}
