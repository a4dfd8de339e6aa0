//! The fake platform's processes beside the routed ones.

use std::collections::BTreeMap;

use cutover_core::file::Process;
use cutover_core::{Fault, InstanceId, ProcessCounts, ProcessName, RevisionId, ServiceName};
use tokio::time::Instant;

use super::state::State;
use super::world::Behavior;
use crate::{InstanceState, ObservedProcess, ObservedWorker};

/// What a revision can run beside its routed process, and what it does run.
#[derive(Default)]
pub(super) struct Staff {
    pub(super) known: BTreeMap<ProcessName, Process>,
    pub(super) workers: BTreeMap<ProcessName, Vec<Worker>>,
}

pub(super) struct Worker {
    id: InstanceId,
    started: Instant,
}

impl State {
    pub(super) fn ensure_processes(
        &mut self,
        service: &ServiceName,
        revision: &RevisionId,
        run: &ProcessCounts,
    ) -> Result<(), Fault> {
        let key = (service.clone(), revision.clone());
        if !self.stored.contains(&key) {
            if run.is_empty() {
                return Ok(());
            }
            return Err(Fault::platform(format!("start processes of {revision}: it is not stored")).fatal());
        }
        let now = self.now;
        let staff = self.staff.entry(key).or_default();
        if let Some(name) = run.keys().find(|name| !staff.known.contains_key(*name)) {
            return Err(Fault::configuration(format!("start {name}: {revision} has no such process")));
        }
        staff.workers.retain(|name, _| run.get(name).is_some_and(|count| *count > 0));
        for (name, count) in run.iter().filter(|(_, count)| **count > 0) {
            let workers = staff.workers.entry(name.clone()).or_default();
            workers.truncate(*count as usize);
            for slot in workers.len()..*count as usize {
                let id = InstanceId::new(format!("{service}-{revision}-{name}-{}", slot + 1));
                workers.push(Worker { id, started: now });
            }
        }
        self.note_twins(service);
        Ok(())
    }

    /// A process that is to be alone runs in two revisions: that hurts a user.
    fn note_twins(&mut self, service: &ServiceName) {
        let mut runs: BTreeMap<&ProcessName, Vec<(&RevisionId, bool)>> = BTreeMap::new();
        for ((_, revision), staff) in self.staff.iter().filter(|((name, _), _)| name == service) {
            for name in staff.workers.keys() {
                let alone = staff.known.get(name).is_some_and(|process| !process.overlap);
                runs.entry(name).or_default().push((revision, alone));
            }
        }
        let twins = |all: &Vec<(&RevisionId, bool)>| all.len() > 1 && all.iter().any(|(_, alone)| *alone);
        let found: Vec<String> = runs
            .iter()
            .filter(|(_, all)| twins(all))
            .map(|(name, all)| format!("{name} of {service} runs in {} revisions at once", all.len()))
            .collect();
        self.violations.extend(found);
    }

    pub(super) fn observed_processes(
        &self,
        key: &(ServiceName, RevisionId),
        behavior: &Behavior,
    ) -> Vec<ObservedProcess> {
        let workers = self.staff.get(key).into_iter().flat_map(|staff| &staff.workers);
        let process = |(name, workers): (&ProcessName, &Vec<Worker>)| ObservedProcess {
            name: name.clone(),
            desired: u32::try_from(workers.len()).unwrap_or(u32::MAX),
            instances: workers.iter().map(|worker| self.observed_worker(name, worker, behavior)).collect(),
        };
        workers.map(process).collect()
    }

    fn observed_worker(&self, name: &ProcessName, worker: &Worker, behavior: &Behavior) -> ObservedWorker {
        let up = self.now.saturating_duration_since(worker.started);
        let exits =
            behavior.process_exits.as_ref().filter(|(exits, ..)| exits == name && up >= behavior.start);
        let (state, why, log) = match exits {
            Some((_, why, log)) => (InstanceState::Restarting, why.clone(), log.clone()),
            None => (InstanceState::Running, String::new(), vec![format!("{} works", worker.id)]),
        };
        ObservedWorker { id: worker.id.clone(), pid: None, state, restarts: 0, why, log }
    }

    pub(super) fn processes(&self, service: &ServiceName) -> BTreeMap<RevisionId, ProcessCounts> {
        let count = |workers: &Vec<Worker>| u32::try_from(workers.len()).unwrap_or(u32::MAX);
        let mine =
            self.staff.iter().filter(|((name, _), staff)| name == service && !staff.workers.is_empty());
        mine.map(|((_, revision), staff)| {
            let counts = staff.workers.iter().map(|(name, workers)| (name.clone(), count(workers)));
            (revision.clone(), counts.collect())
        })
        .collect()
    }
}
