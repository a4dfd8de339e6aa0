//! The check effect: every instance passes its checks, is its own listener, and did not fall over meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutover_core::file::{Route, TargetProtocol};
use cutover_core::{After, CheckResult, Evidence, Fault, InstanceId, Outcome, Release, RevisionId};
use cutover_ports::{CheckRequest, CheckedInstance, CheckedRoute, InstanceState, ObservedInstance};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};

use super::{Act, pinned};
use crate::store::{StoreError, opened};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Instances that only start are looked for more often: a quick service is ready before the first slow look.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const VOUCH_EVERY: Duration = Duration::from_millis(500);
/// A candidate that is seen at the wrong place for so long is not merely starting.
const WRONG_PLACE: Duration = Duration::from_secs(2);
const RESTARTS: u32 = 2;
const LOG_LINES: usize = 20;
const ALL: u32 = 100_000;

pub(super) async fn check(act: &Act, revision: &RevisionId, count: u32) -> Outcome {
    let release = &*checks_of(act, revision).await?;
    let instances = appeared(act, release, revision, count as usize).await?;
    let restarts: BTreeMap<InstanceId, u32> = instances.iter().map(|i| (i.id.clone(), i.restarts)).collect();
    let route = &pinned::route(act, release, revision, &instances).await?;
    let mut asked: FuturesUnordered<_> = instances
        .iter()
        .map(|instance| async move { (instance, pass(act, release, revision, instance, route).await) })
        .collect();
    let fallen = fallen(act, revision, &restarts);
    tokio::pin!(fallen);
    let mut said: BTreeMap<InstanceId, Vec<CheckResult>> = BTreeMap::new();
    let mut failed: Option<Fault> = None;
    loop {
        let fault = tokio::select! {
            fault = &mut fallen => fault,
            answer = asked.next() => match answer {
                Some((instance, Ok(results))) => {
                    said.insert(instance.id.clone(), results);
                    continue;
                }
                Some((instance, Err(mut fault))) => {
                    let results = std::mem::take(&mut fault.results);
                    // Where the checks said no the others are heard to their end: the report has all of them.
                    let wait = !results.is_empty();
                    said.insert(instance.id.clone(), results);
                    let fault = with_log(act, revision, &instance.id, fault).await;
                    let first = failed.take().unwrap_or(fault);
                    if wait {
                        failed = Some(first);
                        continue;
                    }
                    first
                }
                None => match failed.take() {
                    Some(fault) => fault,
                    None => return Ok(Evidence::Checked { results: in_order(&instances, said) }),
                },
            },
        };
        // An instance that fell over is the better reason than a check that heard nothing.
        return Err(fault.results(in_order(&instances, said)));
    }
}

fn in_order(
    instances: &[ObservedInstance],
    mut said: BTreeMap<InstanceId, Vec<CheckResult>>,
) -> Vec<CheckResult> {
    instances.iter().flat_map(|instance| said.remove(&instance.id).unwrap_or_default()).collect()
}

/// Returns the release whose checks a revision must pass: the predecessor that comes back never promised what today's
/// release file asks.
async fn checks_of(act: &Act, revision: &RevisionId) -> Result<Arc<Release>, Fault> {
    if *revision == act.release.candidate {
        return Ok(act.release.clone());
    }
    let unread = |error: StoreError| Fault::cutover(format!("read the checks of {revision}: {error}"));
    let rows = act.shared.store.releases(Some(&act.service.name), ALL).await.map_err(unread)?;
    let releaser =
        rows.iter().find(|row| row.decided_ms.is_some() && !row.gone && row.candidate == *revision);
    let Some(releaser) = releaser else { return Ok(act.release.clone()) };
    let records = act.shared.store.records(&releaser.id, 0, 1).await.map_err(unread)?;
    Ok(opened(&records).map_or_else(|| act.release.clone(), |(release, _)| Arc::new(release.clone())))
}

/// Returns why an instance is not what it was when it was last looked at; none where it still runs.
pub(super) async fn fell(act: &Act, revision: &RevisionId, before: &ObservedInstance) -> Option<Fault> {
    let instances = look(act, revision).await.ok()?;
    let now = instances.iter().find(|instance| instance.id == before.id)?;
    fall(now, before.restarts)
}

/// Waits until as many instances as the plan wants are there.
async fn appeared(
    act: &Act,
    release: &Release,
    revision: &RevisionId,
    count: usize,
) -> Result<Vec<ObservedInstance>, Fault> {
    let within = release.file.checks.within.duration();
    let end = Instant::now() + within;
    let mut pause = LOOK_FIRST;
    loop {
        let seen = look(act, revision).await;
        let missing = match seen {
            Ok(instances) => {
                if let Some(fault) = instances.iter().find_map(|instance| fall(instance, 0)) {
                    return Err(fault);
                }
                let running = instances.iter().filter(|i| i.state == InstanceState::Running).count();
                if running >= count {
                    let running = instances.into_iter().filter(|i| i.state == InstanceState::Running);
                    return Ok(running.collect());
                }
                Fault::platform(format!(
                    "{running} of {count} instances of {revision} run after {} s",
                    within.as_secs()
                ))
            }
            Err(fault) => fault,
        };
        if Instant::now() >= end {
            return Err(missing);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_EVERY);
    }
}

pub(super) async fn look(act: &Act, revision: &RevisionId) -> Result<Vec<ObservedInstance>, Fault> {
    let observe = act.edges().platform.observe(&act.service.name);
    let seen = timeout(act.timeouts().look, observe).await;
    let seen =
        seen.unwrap_or_else(|_| Err(Fault::unknown("look at the instances: the platform did not answer")))?;
    let mine = seen.into_iter().find(|seen| &seen.revision == revision);
    Ok(mine.map(|seen| seen.instances).unwrap_or_default())
}

/// Returns the instances of the revision that run; at least one.
pub(super) async fn running(act: &Act, revision: &RevisionId) -> Result<Vec<ObservedInstance>, Fault> {
    let mut instances = look(act, revision).await?;
    instances.retain(|instance| instance.state == InstanceState::Running);
    if instances.is_empty() {
        return Err(Fault::platform(format!("try {revision}: none of its instances runs")));
    }
    Ok(instances)
}

/// Returns what instances of the revision ended of by themselves; empty where none did.
pub(super) async fn ended(act: &Act, revision: &RevisionId) -> String {
    // It only explains: nothing waits for it that could not do without.
    let instances = look(act, revision).await.unwrap_or_default();
    let ended = instances.iter().filter(|instance| !instance.ended.is_empty());
    let lines: Vec<String> = ended
        .map(|instance| {
            let times =
                if instance.restarts > 1 { format!(" {} times", instance.restarts) } else { String::new() };
            format!("instance {} fell over{times}: {}", instance.id, instance.ended)
        })
        .collect();
    lines.join("; ")
}

/// Returns once one of these instances fell over.
pub(super) async fn fallen_since(act: &Act, revision: &RevisionId, instances: &[ObservedInstance]) -> Fault {
    let restarts = instances.iter().map(|instance| (instance.id.clone(), instance.restarts)).collect();
    fallen(act, revision, &restarts).await
}

/// Returns once an instance fell over: an instance that exits needs no check to be found bad.
async fn fallen(act: &Act, revision: &RevisionId, restarts: &BTreeMap<InstanceId, u32>) -> Fault {
    loop {
        sleep(LOOK_EVERY).await;
        let Ok(instances) = look(act, revision).await else { continue };
        let fell = instances.iter().find_map(|instance| {
            let before = restarts.get(&instance.id).copied().unwrap_or(0);
            fall(instance, before)
        });
        if let Some(fault) = fell {
            return fault;
        }
    }
}

fn fall(instance: &ObservedInstance, before: u32) -> Option<Fault> {
    let id = &instance.id;
    // One that runs again says why it ended before.
    let told = [&instance.why, &instance.ended].into_iter().find(|why| !why.is_empty());
    let why = told.map_or("it ended", String::as_str);
    let what = match instance.state {
        InstanceState::Restarting => format!("instance {id} does not stay up: {why}"),
        InstanceState::CrashLoop => format!("instance {id} falls over again and again: {why}"),
        // A warm predecessor may have been restarted long ago; only what happens now counts.
        _ if instance.restarts >= RESTARTS && instance.restarts > before => {
            format!(
                "instance {id} was started {} times again while it was checked: {why}",
                instance.restarts - before
            )
        }
        _ => return None,
    };
    Some(Fault::candidate(what).lines(tail(&instance.log)))
}

fn tail(log: &[String]) -> Vec<String> {
    log.iter().skip(log.len().saturating_sub(LOG_LINES)).cloned().collect()
}

/// Returns how an instance is asked.
pub(super) fn request(
    act: &Act,
    release: &Release,
    revision: &RevisionId,
    instance: &ObservedInstance,
    route: Option<CheckedRoute>,
) -> CheckRequest {
    CheckRequest {
        service: act.service.name.clone(),
        revision: revision.clone(),
        instance: CheckedInstance { id: instance.id.clone(), address: instance.address },
        checks: release.file.checks.clone(),
        host: release.file.route.iter().find_map(|Route::Proxy(route)| route.host.clone()),
        protocol: TargetProtocol::of(&release.file.route),
        route,
        base: PathBuf::from(&release.base),
    }
}

/// Returns when the instance passed its checks as itself.
async fn pass(
    act: &Act,
    release: &Release,
    revision: &RevisionId,
    instance: &ObservedInstance,
    route: &Option<CheckedRoute>,
) -> Result<Vec<CheckResult>, Fault> {
    let request = request(act, release, revision, instance, route.clone());
    let results = tokio::select! {
        answer = act.edges().checker.check(&request) => answer?,
        fault = misplaced(act, &instance.id) => return Err(fault),
    };
    // Someone else may have answered: the check counts only if the listener is the instance's own.
    let mut tries = 0;
    loop {
        match vouch(act, &instance.id).await {
            Ok(()) => return Ok(results),
            Err(fault) if fault.after == After::Final || tries >= 3 => return Err(fault),
            Err(_) => tries += 1,
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Returns once the instance has been seen at the wrong place for a while: said now rather than when the whole
/// patience is over. A fault that names something to change is of that kind; one without may be a slow start.
async fn misplaced(act: &Act, instance: &InstanceId) -> Fault {
    let mut since: Option<Instant> = None;
    loop {
        sleep(VOUCH_EVERY).await;
        match vouch(act, instance).await {
            Err(fault) if fault.after == After::Final || !fault.hint.is_empty() => {
                let since = *since.get_or_insert_with(Instant::now);
                if since.elapsed() + VOUCH_EVERY >= WRONG_PLACE {
                    return fault.fatal();
                }
            }
            _ => since = None,
        }
    }
}

pub(super) async fn vouch(act: &Act, instance: &InstanceId) -> Result<(), Fault> {
    let vouch = act.edges().platform.vouch(&act.service.name, instance);
    let answer = timeout(act.timeouts().look, vouch).await;
    answer.unwrap_or_else(|_| Err(Fault::unknown("see who listens: the platform did not answer")))
}

async fn with_log(act: &Act, revision: &RevisionId, id: &InstanceId, fault: Fault) -> Fault {
    let Ok(instances) = look(act, revision).await else { return fault };
    let Some(instance) = instances.iter().find(|instance| &instance.id == id) else { return fault };
    // The check failed because the instance is gone: that is the better reason.
    if let Some(fall) = fall(instance, instance.restarts) {
        return fall;
    }
    fault.lines(tail(&instance.log))
}
