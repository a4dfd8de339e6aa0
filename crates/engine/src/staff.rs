//! Brings the processes beside the routed ones back with their service: the right ones, of the right revision.

use std::sync::Arc;

use cutover_core::effect::Resource;
use cutover_core::{Mode, ProcessCounts, Release, RevisionId};
use tokio::time::timeout;

use crate::effects::fenced;
use crate::engine::Shared;
use crate::service::{Live, Service};
use crate::sync::wish;

/// Ensures what is wanted of `stable`, and of a candidate under way.
pub(crate) async fn revive(
    shared: &Shared,
    service: &Arc<Service>,
    stable: &RevisionId,
) -> Result<(), String> {
    keep(shared, service, stable).await?;
    let candidates = service.lives().into_iter().filter(|live| live.look(|machine| machine.holds_service()));
    for candidate in candidates.map(|live| live.look(|machine| machine.plan().candidate.clone())) {
        keep(shared, service, &candidate).await?;
    }
    Ok(())
}

/// Returns what the newest release that has to do with a revision wants of its processes; none where none has.
fn wanted(service: &Service, revision: &RevisionId) -> Option<ProcessCounts> {
    let mut lives: Vec<Live> = service.lives();
    lives.sort_by_key(|live| std::cmp::Reverse(live.number));
    lives.iter().find_map(|live| {
        live.look(|machine| {
            let (of_stable, of_candidate) = machine.processes();
            let plan = machine.plan();
            if plan.stable.as_ref() == Some(revision) {
                return Some(of_stable);
            }
            // A candidate on its way back gets no process again: the next stage ends them.
            let goes = matches!(machine.mode(), Mode::Back(_));
            (plan.candidate == *revision).then(|| if goes { ProcessCounts::new() } else { of_candidate })
        })
    })
}

fn all(release: &Release) -> ProcessCounts {
    release.file.processes.iter().map(|(name, process)| (name.clone(), process.replicas)).collect()
}

async fn keep(shared: &Shared, service: &Arc<Service>, revision: &RevisionId) -> Result<(), String> {
    let Some(_hold) = service.hold(Resource::Revision(revision.clone())) else {
        return Err(format!("{revision} is being acted on"));
    };
    // Asked under the hold: what a driver ends in the same moment must not come back after it, and who was stable a
    // moment ago may be so no more.
    let Some(wish) = wish(shared, service).await? else { return Ok(()) };
    let of_stable = (wish.stable == *revision).then(|| all(&wish.release));
    let run = wanted(service, revision).or(of_stable).unwrap_or_default();
    if run.is_empty() {
        return Ok(());
    }
    let platform = &shared.edges.platform;
    let call = fenced(service, |fence| platform.ensure_processes(fence, &service.name, revision, &run));
    match timeout(shared.options.timeouts.provision, call).await {
        Ok(answer) => answer.map_err(|fault| fault.what),
        Err(_) => Err(format!("start the processes of {revision}: the platform did not answer")),
    }
}
