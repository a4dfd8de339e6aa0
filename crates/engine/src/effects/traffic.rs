//! Effects on traffic: shift, lease, watch, judge.

use std::sync::Arc;
use std::time::Duration;

use cutover_core::file::{Guard, Route};
use cutover_core::{Evidence, Fault, Judgement, Outcome, ReleaseId, RevisionId, Shift, Weight, guard};
use cutover_ports::{Edges, InstanceState, ObservedRevision, Target};
use tokio::time::{Instant, sleep, timeout};

use super::unwell::Unwell;
use super::{Act, fenced};
use crate::service::Service;

const WATCH_EVERY: Duration = Duration::from_millis(100);
const RENEW_AGAIN: Duration = Duration::from_millis(500);
/// A lease that could not be renewed, counts that could not be read for so long, are a fault worth a record.
const PERSISTENT: Duration = Duration::from_secs(10);

pub(super) async fn shift(act: &Act, shift: &Shift) -> Outcome {
    shift_now(&act.service, act.edges(), &act.release.file.routes(), shift).await
}

/// The way back: where the candidate has less weight than that already, it does not get more.
pub(super) async fn lower(act: &Act, shift: &Shift) -> Outcome {
    let candidate = &act.release.candidate;
    let view = act.edges().router.observe(&act.service.name).await?;
    let has = view.tracks.iter().find(|track| &track.revision == candidate);
    let has = has.map_or(Weight::ZERO, |track| track.weight);
    // A trip in between makes the router refuse a raise; the effect is then tried again.
    shift_now(&act.service, act.edges(), &act.release.file.routes(), &shift.capped(candidate, has)).await
}

/// Lets the router split traffic so, over the instances that run. Revisions that run beside them, a warm predecessor
/// say, stay targets without weight.
pub(crate) async fn shift_now(
    service: &Arc<Service>,
    edges: &Edges,
    routes: &[Route],
    shift: &Shift,
) -> Outcome {
    let seen = edges.platform.observe(&service.name).await?;
    let leaving = service.leaving();
    let weighted = |revision: &RevisionId| shift.weights.iter().any(|(r, _)| r == revision);
    let stays = |revision: &RevisionId| weighted(revision) || !leaving.contains(revision);
    let targets: Vec<Target> = seen
        .iter()
        .filter(|seen| stays(&seen.revision))
        .flat_map(running_targets)
        .filter(|target| !service.departs(&target.instance))
        .collect();
    for (revision, weight) in &shift.weights {
        if *weight > Weight::ZERO && !targets.iter().any(|target| &target.revision == revision) {
            return Err(Fault::platform(format!(
                "give {revision} {weight} of traffic: none of its instances runs"
            )));
        }
    }
    let mut shift = shift.clone();
    for target in &targets {
        if !shift.weights.iter().any(|(revision, _)| revision == &target.revision) {
            shift.weights.push((target.revision.clone(), Weight::ZERO));
        }
    }
    fenced(service, |fence| edges.router.set(fence, &service.name, routes, &shift, &targets)).await
}

/// Returns where a revision's running instances are reached.
pub(crate) fn running_targets(seen: &ObservedRevision) -> Vec<Target> {
    let running = seen.instances.iter().filter(|instance| instance.state == InstanceState::Running);
    running
        .map(|instance| Target {
            revision: seen.revision.clone(),
            instance: instance.id.clone(),
            address: instance.address,
        })
        .collect()
}

/// Renews the candidate's lease until cancelled; ends only when that fails for long.
pub(super) async fn keep_lease(act: &Act, release: &ReleaseId) -> Outcome {
    let mut since = Instant::now();
    loop {
        let (router, name) = (&act.edges().router, &act.service.name);
        let call = fenced(&act.service, |fence| router.renew(fence, name, release));
        let answer = timeout(act.timeouts().look, call).await;
        match answer.unwrap_or_else(|_| Err(Fault::unknown("renew the lease: the router did not answer"))) {
            Ok(holds) => {
                sleep(holds / 3).await;
                since = Instant::now();
            }
            // The service is lost, or the lease not yet there: before the first shift there is none.
            Err(fault) if since.elapsed() >= PERSISTENT || act.service.lost() => return Err(fault),
            Err(_) => sleep(RENEW_AGAIN).await,
        }
    }
}

/// Looks at the candidate's traffic until cancelled; ends with a failed verdict.
pub(super) async fn watch(act: &Act, revision: &RevisionId, guard: &Guard) -> Outcome {
    let mut since = Instant::now();
    let mut unwell = Unwell::new();
    loop {
        if let Some(verdict) = unwell.verdict(act, revision).await {
            return Ok(Evidence::Verdict(verdict));
        }
        match timeout(act.timeouts().look, judge(act, revision, guard)).await {
            Ok(Ok(Evidence::Verdict(verdict))) if verdict.judgement == Judgement::Fail => {
                return Ok(Evidence::Verdict(verdict));
            }
            Ok(Ok(_)) => since = Instant::now(),
            Ok(Err(fault)) if since.elapsed() >= PERSISTENT => return Err(fault),
            Err(_) if since.elapsed() >= PERSISTENT => {
                return Err(Fault::unknown("watch the candidate: the router did not answer"));
            }
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(WATCH_EVERY).await;
    }
}

pub(super) async fn judge(act: &Act, revision: &RevisionId, guard: &Guard) -> Outcome {
    let counts = act.edges().router.counts(&act.service.name, &act.release.id, revision).await?;
    Ok(Evidence::Verdict(guard::judge(guard, counts)))
}
