//! Keeps the router's targets at what runs, and brings a service back after a reboot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutover_core::effect::Resource;
use cutover_core::{Fault, Machine, Mode, Release, RevisionId, ServiceName, Shift, Weight};
use cutover_ports::Target;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::effects::{fenced, running_targets, shift_now};
use crate::engine::Shared;
use crate::error::EngineError;
use crate::pointers::Pointers;
use crate::service::Service;
use crate::store::opened;
use crate::util::lock;

const EVERY: Duration = Duration::from_secs(1);
/// A service is looked at even if nothing is said to have changed.
const AT_LEAST_EVERY: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(500);

/// What a service looked like when its targets were found to be right: nothing differs until one of these does.
type Stamps = (u64, u64, u64, u64);

/// Compares what runs with what the router knows, every second where either changed, until the engine stops.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let said = Mutex::new(BTreeSet::new());
    let mut stop = shared.stopping();
    let look = async {
        let mut settled: BTreeMap<ServiceName, (Stamps, Instant)> = BTreeMap::new();
        loop {
            sleep(EVERY).await;
            let services = shared.services();
            settled.retain(|name, _| services.iter().any(|service| &service.name == name));
            // One question for all of them: with a hundred services at rest, looking at each was the server's day.
            let router = match services.is_empty() {
                true => None,
                false => {
                    timeout(shared.options.timeouts.look, shared.edges.router.stamp()).await.ok().flatten()
                }
            };
            for service in services {
                // Before the look: what changes during it is looked at again.
                let now = stamps(&shared, &service, router).await;
                let known = settled.get(&service.name).filter(|(_, when)| when.elapsed() < AT_LEAST_EVERY);
                if now.is_some() && known.map(|(stamps, _)| *stamps) == now {
                    continue;
                }
                let right = targets(&shared, &service).await;
                settled.remove(&service.name);
                if let (Ok(true), Some(now)) = (&right, now) {
                    settled.insert(service.name.clone(), (now, Instant::now()));
                }
                match right {
                    Ok(_) => lock(&said).retain(|(name, _)| name != &service.name),
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

/// Returns what tells that nothing changed; none where an edge cannot say so.
async fn stamps(shared: &Shared, service: &Service, router: Option<u64>) -> Option<Stamps> {
    let platform = shared.edges.platform.stamp(&service.name);
    let platform = timeout(shared.options.timeouts.look, platform).await.ok().flatten()?;
    Some((router?, platform, service.epoch(), *service.changes().borrow()))
}

/// Gives the router the targets that run; true where it had them and nobody is still to be asked.
async fn targets(shared: &Shared, service: &Arc<Service>) -> Result<bool, Fault> {
    if service.lost() {
        return Ok(false);
    }
    let within = shared.options.timeouts.look;
    let late = |what: &str| Fault::unknown(format!("{what}: no answer"));
    let (name, edges) = (&service.name, &shared.edges);
    let view =
        timeout(within, edges.router.observe(name)).await.map_err(|_| late("look at the router"))??;
    if view.tracks.is_empty() {
        return Ok(true);
    }
    let seen =
        timeout(within, edges.platform.observe(name)).await.map_err(|_| late("look at the instances"))??;
    let mut targets: Vec<Target> = Vec::new();
    let (mut differs, mut open) = (false, false);
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
            } else {
                open = true;
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
        return Ok(!open);
    }
    // Held from the last look to the change: nothing moves traffic in between. What moved it before comes first.
    let Some(_hold) = service.hold(Resource::Router) else { return Ok(false) };
    let now = timeout(within, edges.router.observe(name)).await.map_err(|_| late("look at the router"))??;
    if now.generation != view.generation {
        return Ok(false);
    }
    let call = fenced(service, |fence| edges.router.set_targets(fence, name, &targets));
    timeout(within, call).await.map_err(|_| late("set the targets"))??;
    info!(service = %service.name, targets = targets.len(), "targets follow the instances");
    Ok(false)
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

/// What shall run, and who is stable.
pub(crate) struct Wish {
    pub(crate) stable: RevisionId,
    /// The release that made it stable.
    pub(crate) release: Release,
    /// A release under way decides about weights.
    held: bool,
    counts: Vec<(RevisionId, u32)>,
}

/// Asked anew under each hold: between two looks a release may be decided, and who was stable retired.
pub(crate) async fn wish(shared: &Shared, service: &Service) -> Result<Option<Wish>, String> {
    // First what is under way, then the journal: a decision in between shows as a contradiction.
    let live = service.lives().into_iter().map(|live| live.machine()).find(Machine::holds_service);
    let words = |error: EngineError| error.to_string();
    let rows = shared.store.releases(Some(&service.name), 1_000).await.map_err(|error| error.to_string())?;
    let Some((stable, releaser)) = Pointers::of(&rows).stable else { return Ok(None) };
    let records = shared.store.records(&releaser, 0, 1).await.map_err(|error| words(error.into()))?;
    let Some((release, _)) = opened(&records) else { return Err(format!("{releaser} has no beginning")) };
    let mut counts = vec![(stable.clone(), release.file.platform.replicas())];
    if let Some(machine) = &live {
        if machine.plan().stable.as_ref() != Some(&stable) {
            return Err("the release under way was decided just now".into());
        }
        let (of_stable, of_candidate) = machine.instances();
        counts[0].1 = of_stable.unwrap_or(counts[0].1);
        let candidate = &machine.plan().candidate;
        if let Some(count) = of_candidate.filter(|_| needs_candidate(machine)) {
            counts.push((candidate.clone(), count));
        }
    }
    let leaving = service.leaving();
    counts.retain(|(revision, _)| !leaving.contains(revision));
    Ok(Some(Wish { stable, release: release.clone(), held: live.is_some(), counts }))
}

/// A candidate that had instances before this engine came has them after.
fn needs_candidate(machine: &Machine) -> bool {
    match machine.mode() {
        // Its own step starts them, where it is at that.
        Mode::Forward | Mode::Held(_) => !matches!(machine.step(), cutover_core::Step::Provision { .. }),
        // One that goes is not started again, unless stable cannot do without it yet.
        _ => machine.plan().stable_at(machine.at()) < machine.plan().replicas,
    }
}

async fn ensure(shared: &Shared, service: &Arc<Service>) -> Result<(), String> {
    let Some(wish) = wish(shared, service).await? else { return Ok(()) };
    for (revision, _) in &wish.counts {
        keep(shared, service, revision).await?;
    }
    crate::staff::revive(shared, service, &wish.stable).await?;
    restore(shared, service).await
}

async fn keep(shared: &Shared, service: &Arc<Service>, revision: &RevisionId) -> Result<(), String> {
    let Some(_hold) = service.hold(Resource::Revision(revision.clone())) else {
        return Err(format!("{revision} is being acted on"));
    };
    let wish = wish(shared, service).await?;
    let wanted = wish.and_then(|wish| wish.counts.into_iter().find(|(wanted, _)| wanted == revision));
    let Some((_, count)) = wanted else { return Ok(()) };
    let platform = &shared.edges.platform;
    // Bringing back starts what is missing and stops nothing: who leaves is drained first, by a step of the release.
    let seen = timeout(shared.options.timeouts.look, platform.observe(&service.name)).await;
    let seen = seen.map_err(|_| format!("start {revision}: the platform did not answer"))?;
    let seen = seen.map_err(|fault| fault.what)?;
    let desired = seen.iter().find(|seen| &seen.revision == revision).map_or(0, |seen| seen.desired);
    let count = count.max(desired);
    let call = fenced(service, |fence| platform.ensure(fence, &service.name, revision, count));
    match timeout(shared.options.timeouts.provision, call).await {
        Ok(answer) => answer.map_err(|fault| fault.what),
        Err(_) => Err(format!("start {revision}: the platform did not answer")),
    }
}

/// Gives stable all traffic where the router lost the service, or came back with an older table in which another
/// revision has it. While a release is under way its machine decides about weights, but not about having none.
async fn restore(shared: &Shared, service: &Arc<Service>) -> Result<(), String> {
    let within = shared.options.timeouts.look;
    let Some(_hold) = service.hold(Resource::Router) else {
        return Err("the router is being acted on".into());
    };
    let view = timeout(within, shared.edges.router.observe(&service.name)).await;
    let view = view.map_err(|_| "the router did not answer".to_string())?.map_err(|fault| fault.what)?;
    let Some(Wish { stable, release, held, .. }) = wish(shared, service).await? else { return Ok(()) };
    let serves = view.tracks.iter().any(|track| track.revision == stable && track.weight == Weight::FULL);
    if serves || (held && !view.tracks.is_empty()) {
        return Ok(());
    }
    if !shared.warm(&service.name, &stable, release.file.platform.replicas()).await {
        return Err(format!("the router does not give {stable} its traffic, and it does not run yet"));
    }
    error!(service = %service.name, %stable, "the router did not give stable its traffic: stable gets all traffic again");
    let shift = Shift { weights: vec![(stable.clone(), Weight::FULL)], lease: None };
    let routes = release.file.routes();
    let call = shift_now(service, &shared.edges, &routes, &shift);
    match timeout(shared.options.timeouts.shift, call).await {
        Ok(answer) => answer.map(|_| ()).map_err(|fault| fault.what),
        Err(_) => Err("the router did not answer".into()),
    }
}
