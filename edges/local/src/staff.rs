//! The processes beside the routed ones, and waiting for what was started or stopped.

use cutover_core::{Fault, Fence, ProcessCounts, RevisionId, ServiceName};
use tokio::time::Instant;

use crate::platform::{KILL_WAIT, LocalPlatform};
use crate::supervise::Handle;

impl LocalPlatform {
    /// Runs exactly these processes of the revision. Returns when nothing is left of any other.
    pub(crate) async fn staff(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        run: &ProcessCounts,
    ) -> Result<(), Fault> {
        let run: ProcessCounts =
            run.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (name.clone(), *count)).collect();
        let mut services = self.services.lock().await;
        // Under the lock, so that it is not discarded between the question and the wish.
        let (wanted, asked) = (revision.clone(), run.clone());
        let manifest = self
            .with_store(move |store| {
                // Ending what runs must not need the revision's files.
                let manifest =
                    if asked.is_empty() { store.manifest(&wanted)? } else { Some(store.stored(&wanted)?) };
                for name in asked.keys() {
                    manifest.iter().try_for_each(|manifest| manifest.command(Some(name)).map(drop))?;
                }
                Ok(manifest)
            })
            .await?;
        let entry = services.entry(service.clone()).or_default();
        self.admit(fence, service, entry, |record| {
            match run.is_empty() {
                true => record.processes.remove(revision),
                false => record.processes.insert(revision.clone(), run.clone()),
            };
        })
        .await?;
        let ours = |handle: &&Handle| handle.revision == *revision;
        let unwanted = |handle: &&Handle| handle.beside.as_ref().is_some_and(|name| !run.contains_key(name));
        entry.instances.iter().filter(ours).filter(unwanted).for_each(Handle::stop);
        for (name, count) in &run {
            self.settle(service, entry, revision, Some(name), *count).await?;
        }
        drop(services);
        let grace =
            manifest.map_or(std::time::Duration::from_secs(30), |found| found.longest_grace().duration());
        let beside = |handle: &Handle| handle.revision == *revision && handle.beside.is_some();
        let deadline = Instant::now() + grace + KILL_WAIT;
        self.gone(service, deadline, |handle| beside(handle) && handle.is_stopping()).await?;
        self.started(service, beside).await
    }

    /// Waits until each of these was started, or could not be.
    pub(crate) async fn started(
        &self,
        service: &ServiceName,
        of: impl Fn(&Handle) -> bool,
    ) -> Result<(), Fault> {
        for (id, mut status) in self.statuses(service, |handle| of(handle) && !handle.is_stopping()).await {
            let lost = |_| Fault::cutover(format!("start instance {id}: its supervisor ended"));
            let status = status.wait_for(|status| status.tried || status.gone).await.map_err(lost)?;
            if let Some(fault) = &status.start_fault {
                return Err(fault.clone());
            }
        }
        Ok(())
    }

    /// Waits until nothing is left of these, which were asked to stop.
    pub(crate) async fn gone(
        &self,
        service: &ServiceName,
        deadline: Instant,
        of: impl Fn(&Handle) -> bool,
    ) -> Result<(), Fault> {
        for (id, mut status) in self.statuses(service, of).await {
            match tokio::time::timeout_at(deadline, status.wait_for(|status| status.gone)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => {
                    let what = format!("stop instance {id}: the platform was closed meanwhile");
                    return Err(Fault::cutover(what));
                }
                Err(_) => {
                    let wait = KILL_WAIT.as_secs();
                    let what = format!("stop instance {id}: it is still there {wait} s after it was killed");
                    return Err(Fault::unknown(what)
                        .hint("The kernel holds it, in a disk or network wait, say; see dmesg."));
                }
            }
        }
        Ok(())
    }
}
