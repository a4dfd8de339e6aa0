//! Keeps the router's targets at what runs, and brings a service back after a reboot.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutover_core::effect::Resource;
use cutover_core::{Fault, Machine, Mode, Release, RevisionId, Shift, Weight};
use cutover_ports::Target;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::effects::{fenced, running_targets, shift_now};
use crate::engine::Shared;
use crate::error::EngineError;
use crate::pointers::Pointers;
use crate::service::Service;
use crate::store::opened;
use crate::util::lock;

const EVERY: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(500);

/// Compares every second what runs with what the router knows, until the engine stops.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let said = Mutex::new(BTreeSet::new());
    let mut stop = shared.stopping();
    let look = async {
        loop {
            sleep(EVERY).await;
            for service in shared.services() {
                match targets(&shared, &service).await {
                    Ok(()) => lock(&said).retain(|(name, _)| name != &service.name),
                    // Once per kind: a platform that is away for an hour fills no log.
                    Err(fault) => {
                        if lock(&said).insert((service.name.clone(), fault.after as u8)) {
                            warn!(service = %service.name, %fault, "the router's targets could not be compared");
                        }
                    }
                }
            }
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = look => {}
    }
}

async fn targets(shared: &Shared, service: &Arc<Service>) -> Result<(), Fault> {
    if service.lost() {
        return Ok(());
    }
    let within = shared.options.timeouts.look;
    let late = |what: &str| Fault::unknown(format!("{what}: no answer"));
    let (name, edges) = (&service.name, &shared.edges);
    let view =
        timeout(within, edges.router.observe(name)).await.map_err(|_| late("look at the router"))??;
    if view.tracks.is_empty() {
        return Ok(());
    }
    let seen =
        timeout(within, edges.platform.observe(name)).await.map_err(|_| late("look at the instances"))??;
    let mut targets: Vec<Target> = Vec::new();
    let mut differs = false;
    for track in &view.tracks {
        let running: Vec<Target> = seen
            .iter()
            .filter(|seen| seen.revision == track.revision)
            .flat_map(running_targets)
            .filter(|target| !service.departs(&target.instance))
            .collect();
        let mut wanted = Vec::new();
        for target in running {
            // A new address is a target once the instance itself listens there.
            let known = track.targets.contains(&target);
            if known
                || matches!(timeout(within, edges.platform.vouch(name, &target.instance)).await, Ok(Ok(())))
            {
                wanted.push(target);
            }
        }
        // Without any that answers, the last known are no worse than none.
        if wanted.is_empty() {
            wanted.clone_from(&track.targets);
        }
        let same =
            wanted.len() == track.targets.len() && wanted.iter().all(|target| track.targets.contains(target));
        differs |= !same;
        targets.extend(wanted);
    }
    if !differs {
        return Ok(());
    }
    // Held from the last look to the change: nothing moves traffic in between. What moved it before comes first.
    let Some(_hold) = service.hold(Resource::Router) else { return Ok(()) };
    let now = timeout(within, edges.router.observe(name)).await.map_err(|_| late("look at the router"))??;
    if now.generation != view.generation {
        return Ok(());
    }
    let call = fenced(service, |fence| edges.router.set_targets(fence, name, &targets));
    timeout(within, call).await.map_err(|_| late("set the targets"))??;
    info!(service = %service.name, targets = targets.len(), "targets follow the instances");
    Ok(())
}

/// Brings a service back that this engine just took: stable runs, and the router knows it.
pub(crate) async fn revive(shared: Arc<Shared>, service: Arc<Service>) {
    let mut stop = shared.stopping();
    let revived = async {
        let mut said = false;
        while !service.lost() {
            match ensure(&shared, &service).await {
                Ok(()) => return,
                Err(why) if said => tracing::debug!(service = %service.name, why, "still not back"),
                Err(why) => {
                    error!(service = %service.name, why, "the service could not be brought back yet, trying on");
                    said = true;
                }
            }
            sleep(AGAIN).await;
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = revived => {}
    }
}

async fn ensure(shared: &Shared, service: &Arc<Service>) -> Result<(), String> {
    let words = |error: EngineError| error.to_string();
    let rows = shared.store.releases(Some(&service.name), 1_000).await.map_err(|error| error.to_string())?;
    let pointers = Pointers::of(&rows);
    let Some((stable, releaser)) = pointers.stable else { return Ok(()) };
    let records = shared.store.records(&releaser, 0, 1).await.map_err(|error| words(error.into()))?;
    let Some((release, _)) = opened(&records) else { return Err(format!("{releaser} has no beginning")) };
    // What is under way says how many of each there are; without it stable has all.
    let live = service.lives().into_iter().find(|live| live.look(Machine::holds_service));
    let wanted = live.as_ref().map(|live| live.look(Machine::instances));
    let whole = release.file.platform.replicas();
    keep(shared, service, &stable, wanted.and_then(|(stable, _)| stable).unwrap_or(whole)).await?;
    // A candidate that had instances before this engine came has them after.
    if let (Some(live), Some((_, Some(count)))) = (live, wanted) {
        let candidate = live.look(|machine| {
            let plan = machine.plan();
            let starts = matches!(machine.step(), cutover_core::Step::Provision { .. });
            let needed = match machine.mode() {
                // Its own step starts them, where it is at that.
                Mode::Forward | Mode::Held(_) => !starts,
                // A candidate that goes is not started again, unless stable cannot do without it yet.
                _ => plan.stable_at(machine.at()) < plan.replicas,
            };
            needed.then(|| plan.candidate.clone())
        });
        if let Some(candidate) = candidate.filter(|candidate| !service.leaving().contains(candidate)) {
            keep(shared, service, &candidate, count).await?;
        }
    }
    crate::staff::revive(shared, service, &stable, release).await?;
    restore(shared, service, &stable, release).await
}

async fn keep(
    shared: &Shared,
    service: &Arc<Service>,
    revision: &RevisionId,
    count: u32,
) -> Result<(), String> {
    let Some(_hold) = service.hold(Resource::Revision(revision.clone())) else {
        return Err(format!("{revision} is being acted on"));
    };
    let platform = &shared.edges.platform;
    let call = fenced(service, |fence| platform.ensure(fence, &service.name, revision, count));
    match timeout(shared.options.timeouts.provision, call).await {
        Ok(answer) => answer.map_err(|fault| fault.what),
        Err(_) => Err(format!("start {revision}: the platform did not answer")),
    }
}

/// Gives stable all traffic where the router lost the service, or came back with an older table in which another
/// revision has it. While a release is under way its machine decides about weights, but not about having none.
async fn restore(
    shared: &Shared,
    service: &Arc<Service>,
    stable: &RevisionId,
    release: &Release,
) -> Result<(), String> {
    let within = shared.options.timeouts.look;
    let Some(_hold) = service.hold(Resource::Router) else {
        return Err("the router is being acted on".into());
    };
    let view = timeout(within, shared.edges.router.observe(&service.name)).await;
    let view = view.map_err(|_| "the router did not answer".to_string())?.map_err(|fault| fault.what)?;
    let held = service.lives().iter().any(|live| live.look(cutover_core::Machine::holds_service));
    let serves = view.tracks.iter().any(|track| &track.revision == stable && track.weight == Weight::FULL);
    if serves || (held && !view.tracks.is_empty()) {
        return Ok(());
    }
    if !shared.warm(&service.name, stable, release.file.platform.replicas()).await {
        return Err(format!("the router does not give {stable} its traffic, and it does not run yet"));
    }
    error!(service = %service.name, %stable, "the router did not give stable its traffic: stable gets all traffic again");
    let shift = Shift { weights: vec![(stable.clone(), Weight::FULL)], lease: None };
    let call = shift_now(service, &shared.edges, &release.file.route, &shift);
    match timeout(shared.options.timeouts.shift, call).await {
        Ok(answer) => answer.map(|_| ()).map_err(|fault| fault.what),
        Err(_) => Err("the router did not answer".into()),
    }
}
