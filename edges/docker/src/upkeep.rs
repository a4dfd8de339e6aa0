//! Looks after the containers while the server lives: what is wanted runs, and what is not is stopped.
//!
//! The engine starts again what fell over. What it does not do is left for here: containers that somebody stopped or
//! removed by hand, those that could not start because their port was taken, and what a dead server left half done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cutover_core::{Fault, ServiceName};
use cutover_keep::Wish;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::container::Container;
use crate::names::Place;
use crate::platform::Shared;
use crate::seen::wanted;

/// Events come in bursts: one look is for all of them.
const BURST: Duration = Duration::from_millis(20);

/// Without a service there is nothing to look at until one is asked for.
const IDLE: Duration = Duration::from_secs(86_400);

/// When a container may be started again, and how long the pause after that is.
#[derive(Default)]
struct Pace(BTreeMap<(ServiceName, Place), (Instant, Duration)>);

/// Looks after all services until the platform closes.
pub(crate) async fn follow(shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
    let (mut pace, mut stops) = (Pace::default(), JoinSet::new());
    let mut said: BTreeMap<ServiceName, String> = BTreeMap::new();
    loop {
        for service in shared.wishes.names() {
            let what = match look(&shared, &service, &mut pace, &mut stops).await {
                Ok(()) => String::new(),
                Err(fault) => fault.what,
            };
            // Said once, not at every look.
            if !what.is_empty() && said.get(&service) != Some(&what) {
                tracing::warn!(%service, why = what, "containers not as wanted");
            }
            said.insert(service, what);
        }
        for id in shared.memory.take_restarts() {
            let shared = shared.clone();
            stops.spawn(async move { restart(&shared, &id).await });
        }
        while stops.try_join_next().is_some() {}
        let next = match said.is_empty() {
            true => IDLE,
            false => pace.next(shared.options.upkeep_every),
        };
        let woken = tokio::select! {
            _ = closing.wait_for(|closes| *closes) => break,
            () = shared.memory.woken.notified() => true,
            () = sleep(next) => false,
        };
        if woken {
            sleep(BURST).await;
        }
    }
    // The engine finishes what it was asked for; the next server removes what that leaves.
    stops.shutdown().await;
}

async fn look(
    shared: &Arc<Shared>,
    name: &ServiceName,
    pace: &mut Pace,
    stops: &mut JoinSet<()>,
) -> Result<(), Fault> {
    let Some(service) = shared.wishes.find(name) else { return Ok(()) };
    let _acting = service.acting.lock().await;
    let (wish, found) = (service.wish(), shared.containers.of(name).await?);
    for one in found.iter().filter(|one| !wanted(&wish, &one.labels.place)) {
        if !shared.memory.is_stopping(&one.id) {
            let (shared, one) = (shared.clone(), one.clone());
            stops.spawn(async move {
                if let Err(fault) = shared.end_one(&one).await {
                    tracing::warn!(instance = %one.labels.instance, why = %fault, "container not stopped");
                }
            });
        }
    }
    let mut first = Ok(());
    for place in missing(&wish, &found) {
        if pace.may(name, &place, shared) {
            let there = found.iter().find(|one| one.labels.place == place).cloned();
            // What is wrong with one revision keeps no other from being looked after.
            let started = match shared.revisions.stored(&place.revision) {
                Ok(manifest) => {
                    tracing::info!(service = %name, container = place.container(name), "starts again");
                    shared.run_one(wish.fence, &manifest, &place, there).await
                }
                Err(fault) => Err(fault),
            };
            first = first.and(started);
        }
    }
    pace.keep(name, &wish, &found);
    first
}

/// Returns where a container is wanted and none runs, nor will by itself.
fn missing(wish: &Wish, found: &[Container]) -> Vec<Place> {
    let up: BTreeSet<&Place> =
        found.iter().filter(|one| !one.is_down() && !one.is_going()).map(|one| &one.labels.place).collect();
    let all = wish.wishes().into_iter().flat_map(|(revision, beside, count)| {
        (1..=count).map(move |number| Place { revision: revision.clone(), beside: beside.clone(), number })
    });
    all.filter(|place| !up.contains(place)).collect()
}

async fn restart(shared: &Shared, id: &str) {
    let Ok(Some(one)) = shared.containers.look(id).await else { return };
    let grace = shared.grace_s(&one).unwrap_or(30);
    if let Err(fault) = shared.containers.restart(id, grace).await {
        tracing::warn!(instance = %one.labels.instance, why = %fault, "container not started again");
    }
    shared.memory.changed();
}

impl Pace {
    fn may(&mut self, service: &ServiceName, place: &Place, shared: &Shared) -> bool {
        let options = &shared.options;
        let now = Instant::now();
        let entry = self.0.entry((service.clone(), place.clone())).or_insert((now, options.start_first));
        if now < entry.0 {
            return false;
        }
        *entry = (now + entry.1, (entry.1 * 2).min(options.start_longest));
        true
    }

    /// Forgets the pauses of what is no longer wanted, and of what runs for longer than its pause was.
    fn keep(&mut self, service: &ServiceName, wish: &Wish, found: &[Container]) {
        let now = Instant::now();
        self.0.retain(|(of, place), (until, _)| {
            let runs = found.iter().any(|one| one.runs() && one.labels.place == *place);
            of != service || wanted(wish, place) && !(runs && now >= *until)
        });
    }

    /// Returns when to look next.
    fn next(&self, longest: Duration) -> Duration {
        let now = Instant::now();
        let waits = self.0.values().map(|(until, _)| until.saturating_duration_since(now));
        waits.filter(|wait| !wait.is_zero()).min().map_or(longest, |wait| wait.min(longest))
    }
}
