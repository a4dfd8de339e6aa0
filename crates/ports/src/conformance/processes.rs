//! What every platform promises of the processes beside the routed one.

use cutover_core::{ProcessCounts, ProcessName, RevisionId};

use super::platform::Case;
use super::{Fences, check, eventually, fenced, fine};
use crate::{InstanceState, ObservedWorker, RevisionSpec};

impl Case<'_> {
    fn staffed(&self, variant: u32) -> RevisionSpec {
        let mut spec = self.spec(variant);
        for name in ["worker", "clock"] {
            spec.processes.insert(name.into(), self.fixture.process());
        }
        spec
    }

    async fn ensure_processes(&mut self, revision: &RevisionId, run: &[(&str, u32)]) -> Result<(), String> {
        let run: ProcessCounts = run.iter().map(|(name, count)| (ProcessName::new(*name), *count)).collect();
        let fence = self.fences.next();
        let answer = self.platform.ensure_processes(fence, &self.service, revision, &run).await;
        fine(answer, "ensure the processes")
    }

    /// Returns what is there of each process, whatever its state.
    async fn workers(&self, revision: &RevisionId) -> Result<Vec<(ProcessName, ObservedWorker)>, String> {
        let seen = fine(self.platform.observe(&self.service).await, "observe")?;
        let mine = seen.into_iter().filter(|seen| &seen.revision == revision);
        Ok(mine
            .flat_map(|seen| seen.processes)
            .flat_map(|process| {
                process.instances.into_iter().map(move |worker| (process.name.clone(), worker))
            })
            .collect())
    }

    /// Waits until exactly these run, and returns their names.
    async fn working(&self, revision: &RevisionId, run: &[(&str, usize)]) -> Result<Vec<String>, String> {
        let there = || async {
            let workers = self.workers(revision).await?;
            let running = |name: &str| {
                let mine = workers.iter().filter(|(process, _)| process.as_str() == name);
                mine.filter(|(_, worker)| worker.state == InstanceState::Running).count()
            };
            let all: usize = run.iter().map(|(_, count)| count).sum();
            check(
                run.iter().all(|(name, count)| running(name) == *count) && workers.len() == all,
                &format!("there are {workers:?}"),
            )?;
            Ok(workers.iter().map(|(_, worker)| worker.id.to_string()).collect())
        };
        eventually(&format!("{run:?} run"), there).await
    }

    pub(super) async fn processes_are_part_of_a_revision(&mut self) -> Result<(), String> {
        let name = fine(self.platform.identify(&self.spec(1)).await, "identify")?;
        let staffed = fine(self.platform.identify(&self.staffed(2)).await, "identify")?;
        check(name != staffed, "a revision with processes is another one")?;
        let revision = self.built(&self.staffed(2)).await?;
        let unknown: ProcessCounts = [(ProcessName::new("mailer"), 1)].into();
        let fence = self.fences.next();
        let answer = self.platform.ensure_processes(fence, &self.service, &revision, &unknown).await;
        check(answer.is_err(), "a process that the revision does not have cannot run")
    }

    pub(super) async fn processes_beside_routed_instances(&mut self) -> Result<(), String> {
        let revision = self.built(&self.staffed(1)).await?;
        self.ensure(&revision, 1).await?;
        self.up(&revision, 1).await?;
        self.ensure_processes(&revision, &[("worker", 2), ("clock", 1)]).await?;
        let first = self.working(&revision, &[("worker", 2), ("clock", 1)]).await?;
        // No target is a worker: it has no address.
        self.up(&revision, 1).await?;
        self.ensure(&revision, 2).await?;
        self.up(&revision, 2).await?;
        self.ensure(&revision, 1).await?;
        self.up(&revision, 1).await?;
        let after = self.working(&revision, &[("worker", 2), ("clock", 1)]).await?;
        check(first == after, "the routed instances come and go without them")?;
        let logs = fine(self.platform.logs(&self.service, &revision, 5).await, "read the logs")?;
        let missing = first.iter().find(|id| !logs.iter().any(|(known, _)| known.as_str() == id.as_str()));
        check(missing.is_none(), "each process has its log")
    }

    pub(super) async fn processes_are_exactly_as_asked(&mut self) -> Result<(), String> {
        let revision = self.built(&self.staffed(1)).await?;
        self.ensure_processes(&revision, &[("worker", 2)]).await?;
        let first = self.working(&revision, &[("worker", 2)]).await?;
        self.ensure_processes(&revision, &[("worker", 2)]).await?;
        check(self.working(&revision, &[("worker", 2)]).await? == first, "what runs is left as it is")?;
        self.ensure_processes(&revision, &[("clock", 1)]).await?;
        // Not a moment later: another revision's may start now.
        let left = self.workers(&revision).await?;
        check(left.iter().all(|(name, _)| name.as_str() == "clock"), "what is too much has ended by then")?;
        self.working(&revision, &[("clock", 1)]).await?;
        let run: ProcessCounts = [(ProcessName::new("worker"), 1)].into();
        let (platform, service) = (&self.platform, &self.service);
        fenced(platform.ensure_processes(Fences::old(), service, &revision, &run).await, "ensure")?;
        self.ensure_processes(&revision, &[]).await?;
        check(self.workers(&revision).await?.is_empty(), "none is left where none is wanted")?;
        let other = self.built(&self.spec(2)).await?;
        self.ensure_processes(&other, &[]).await
    }

    pub(super) async fn retired_processes_are_gone(&mut self) -> Result<(), String> {
        let revision = self.built(&self.staffed(1)).await?;
        self.ensure_processes(&revision, &[("worker", 1)]).await?;
        self.working(&revision, &[("worker", 1)]).await?;
        let discarded = self.platform.discard(self.fences.next(), &self.service, &revision).await;
        let kept = fine(self.platform.stored(&self.service).await, "list the revisions")?;
        check(kept.is_empty() || discarded.is_err(), "a revision whose processes run is not thrown away")?;
        fine(self.platform.retire(self.fences.next(), &self.service, &revision).await, "retire")?;
        check(self.workers(&revision).await?.is_empty(), "retire ends the processes too")?;
        check(self.instances(&revision).await?.is_empty(), "nothing of a retired revision is left")
    }
}
