//! What is shown of a service: what its supervisors know, and the last lines of its logs.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use cutover_core::{ProcessName, RevisionId};
use cutover_ports::{ObservedInstance, ObservedProcess, ObservedRevision, ObservedWorker};

use crate::logs;
use crate::platform::Service;
use crate::supervise::Handle;

const LOG_LINES: usize = 20;

/// A service at one moment; its logs are not read yet.
pub(crate) struct Seen {
    revisions: BTreeMap<RevisionId, Revision>,
}

#[derive(Default)]
struct Revision {
    desired: u32,
    instances: Vec<(ObservedInstance, PathBuf)>,
    processes: BTreeMap<ProcessName, (u32, Vec<(ObservedWorker, PathBuf)>)>,
}

impl Seen {
    pub(crate) fn of(service: &Service) -> Seen {
        let mut revisions: BTreeMap<RevisionId, Revision> = BTreeMap::new();
        for (revision, beside, count) in service.record.wishes() {
            let entry = revisions.entry(revision).or_default();
            match beside {
                None => entry.desired = count,
                Some(name) => entry.processes.entry(name).or_default().0 = count,
            }
        }
        let mut handles: Vec<&Handle> = service.instances.iter().collect();
        handles.sort_by(|a, b| (a.slot, &a.id).cmp(&(b.slot, &b.id)));
        for handle in handles {
            let entry = revisions.entry(handle.revision.clone()).or_default();
            let (log, worker) = (handle.log.clone(), worker(handle));
            match &handle.beside {
                None => entry.instances.extend(routed(handle, worker).map(|instance| (instance, log))),
                Some(name) => entry.processes.entry(name.clone()).or_default().1.push((worker, log)),
            }
        }
        Seen { revisions }
    }

    /// Reads the logs too: not under a lock.
    pub(crate) fn read(self) -> Vec<ObservedRevision> {
        let instance = |(instance, log): (ObservedInstance, PathBuf)| ObservedInstance {
            log: logs::tail(&log, LOG_LINES),
            ..instance
        };
        let worker = |(worker, log): (ObservedWorker, PathBuf)| ObservedWorker {
            log: logs::tail(&log, LOG_LINES),
            ..worker
        };
        let process = |(name, (desired, workers)): (ProcessName, (u32, Vec<(ObservedWorker, PathBuf)>))| {
            ObservedProcess { name, desired, instances: workers.into_iter().map(worker).collect() }
        };
        let revision = |(revision, seen): (RevisionId, Revision)| ObservedRevision {
            revision,
            desired: seen.desired,
            instances: seen.instances.into_iter().map(instance).collect(),
            processes: seen.processes.into_iter().map(process).collect(),
        };
        self.revisions.into_iter().map(revision).collect()
    }
}

fn routed(handle: &Handle, worker: ObservedWorker) -> Option<ObservedInstance> {
    let (port, ended) = {
        let status = handle.status.borrow();
        (status.port?, status.ended.clone())
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let ObservedWorker { id, pid, state, restarts, why, log } = worker;
    Some(ObservedInstance { id, address, pid, state, restarts, why, ended, log })
}

fn worker(handle: &Handle) -> ObservedWorker {
    let status = handle.status.borrow();
    ObservedWorker {
        id: handle.id.clone(),
        pid: status.process.as_ref().map(|process| process.pid),
        state: status.state,
        restarts: status.restarts,
        why: status.why.clone(),
        log: Vec::new(),
    }
}
