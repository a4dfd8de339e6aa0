//! The shrink effect: instances of a revision leave, and none of their requests fails.

use cutover_core::effect::Resource;
use cutover_core::{EffectKey, Evidence, Fault, Outcome, RevisionId, Shift, Span};
use cutover_ports::{InstanceState, ObservedInstance, Target};
use tokio::time::{Duration, sleep};

use super::{Act, fenced, traffic};
use crate::service::{Hold, Service};

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is to be.
pub(super) struct Wish<'a> {
    pub(super) revision: &'a RevisionId,
    pub(super) count: u32,
    pub(super) shift: &'a Shift,
    pub(super) within: Span,
}

/// First the router forgets those that leave, then they finish what they have, then they stop.
pub(super) async fn shrink(act: &Act, key: &EffectKey, wish: &Wish<'_>) -> Outcome {
    let leaving = leaving(act, wish).await?;
    let ids = leaving.iter().map(|target| target.instance.clone());
    // Until they are stopped nothing takes them for targets again.
    let _departing = act.service.depart(ids.collect());
    {
        let _router = router(&act.service).await;
        // Asked under the hold: a way back that began meanwhile shifts after this, or this not at all.
        let wanted =
            act.service.live(&act.release.id).is_some_and(|live| live.look(|machine| machine.wants(key)));
        if !wanted {
            return Err(Fault::unknown("shrink: the release turned back before anything left"));
        }
        match wish.shift.lease {
            Some(_) => traffic::shift(act, wish.shift).await?,
            None => traffic::lower(act, wish.shift).await?,
        };
    }
    let (router, name, within) = (&act.edges().router, &act.service.name, wish.within.duration());
    let drained = if leaving.is_empty() {
        Evidence::Drained { cut: 0, closed: 0 }
    } else {
        fenced(&act.service, |fence| router.drain_targets(fence, name, &leaving, within)).await?
    };
    let platform = &act.edges().platform;
    fenced(&act.service, |fence| platform.ensure(fence, name, wish.revision, wish.count)).await?;
    // Their room is needed for the next batch: only what is gone has left.
    while instances(act, wish.revision).await?.len() > wish.count as usize {
        sleep(LOOK_EVERY).await;
    }
    Ok(drained)
}

/// Those that `ensure` will stop: the last ones, by the platform's contract.
async fn leaving(act: &Act, wish: &Wish<'_>) -> Result<Vec<Target>, Fault> {
    let instances = instances(act, wish.revision).await?;
    let stays = instances.into_iter().filter(|instance| instance.state != InstanceState::Stopping);
    Ok(stays
        .skip(wish.count as usize)
        .map(|instance| Target {
            revision: wish.revision.clone(),
            instance: instance.id,
            address: instance.address,
        })
        .collect())
}

async fn instances(act: &Act, revision: &RevisionId) -> Result<Vec<ObservedInstance>, Fault> {
    let seen = act.edges().platform.observe(&act.service.name).await?;
    let mine = seen.into_iter().find(|seen| &seen.revision == revision);
    Ok(mine.map(|seen| seen.instances).unwrap_or_default())
}

/// Waits for the router: a change of targets by somebody else of this engine takes a moment at most.
async fn router(service: &std::sync::Arc<Service>) -> Hold {
    let mut changes = service.changes();
    loop {
        changes.mark_unchanged();
        if let Some(hold) = service.hold(Resource::Router) {
            return hold;
        }
        // The service lives as long as its effects: the sender is there.
        let _ = changes.changed().await;
    }
}
