//! Throws away revisions that nothing needs any more: disk is bounded by what a person may want back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cutover_core::effect::Resource;
use cutover_core::{After, Fault, RevisionId, ServiceName};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::effects::fenced;
use crate::engine::Shared;
use crate::pointers::Pointers;
use crate::service::Service;
use crate::store::ReleaseRow;

/// So many of a service's newest revisions stay, beside those that are needed.
const KEPT: usize = 5;
const EVERY: Duration = Duration::from_secs(1);
/// Removing a large artifact takes a while.
const DISCARD: Duration = Duration::from_secs(300);
const ALL: u32 = 100_000;

/// Looks whenever something changed at a service, until the engine stops.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut stop = shared.stopping();
    let look = async {
        let mut seen: BTreeMap<ServiceName, (u64, u64)> = BTreeMap::new();
        loop {
            sleep(EVERY).await;
            for service in shared.services() {
                // A new epoch starts its count anew.
                let now = (service.epoch(), *service.changes().borrow());
                if seen.get(&service.name) == Some(&now) || service.lost() {
                    continue;
                }
                match sweep(&shared, &service).await {
                    Ok(()) => drop(seen.insert(service.name.clone(), now)),
                    // What cannot be thrown away now is looked at again with the next change.
                    Err(fault) => {
                        seen.insert(service.name.clone(), now);
                        if fault.after != After::Fenced {
                            warn!(service = %service.name, %fault, "old revisions stay");
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

async fn sweep(shared: &Shared, service: &Arc<Service>) -> Result<(), Fault> {
    let (name, platform, within) = (&service.name, &shared.edges.platform, shared.options.timeouts.look);
    let late = |what: &str| Fault::unknown(format!("{what}: the platform did not answer"));
    let stored = timeout(within, platform.stored(name)).await.map_err(|_| late("list the revisions"))??;
    if stored.is_empty() {
        return Ok(());
    }
    let seen = timeout(within, platform.observe(name)).await.map_err(|_| late("look at the instances"))??;
    let runs: BTreeSet<RevisionId> = seen.into_iter().map(|seen| seen.revision).collect();
    let spare = |needed: &BTreeSet<RevisionId>, revision: &RevisionId| {
        !needed.contains(revision) && !runs.contains(revision)
    };
    let needed_now = needed(&rows(shared, name).await?);
    for revision in stored.iter().filter(|revision| spare(&needed_now, revision)) {
        // Held first, asked again then: a release that was opened meanwhile waits with its build until this is over.
        let Some(_hold) = service.hold(Resource::Revision(revision.clone())) else { continue };
        if !spare(&needed(&rows(shared, name).await?), revision) {
            continue;
        }
        let discard = fenced(service, |fence| platform.discard(fence, name, revision));
        timeout(DISCARD, discard).await.map_err(|_| late("throw a revision away"))??;
        info!(service = %name, %revision, "old revision thrown away");
    }
    Ok(())
}

async fn rows(shared: &Shared, name: &ServiceName) -> Result<Vec<ReleaseRow>, Fault> {
    let rows = shared.store.releases(Some(name), ALL).await;
    rows.map_err(|error| Fault::cutover(format!("read the releases of {name}: {error}")))
}

/// Returns the revisions that must stay: stable, the one to return to, all that a release under way is about, and the
/// newest few of the others.
fn needed(newest_first: &[ReleaseRow]) -> BTreeSet<RevisionId> {
    let pointers = Pointers::of(newest_first);
    let mut needed: BTreeSet<RevisionId> =
        pointers.stable.into_iter().chain(pointers.previous).map(|(revision, _)| revision).collect();
    for row in newest_first.iter().filter(|row| row.ended_ms.is_none()) {
        needed.insert(row.candidate.clone());
        needed.extend(row.replaced.clone());
    }
    let mut newest: Vec<&RevisionId> = Vec::new();
    for row in newest_first.iter().filter(|row| !row.gone) {
        if newest.len() < KEPT && !newest.contains(&&row.candidate) {
            newest.push(&row.candidate);
        }
    }
    needed.extend(newest.into_iter().cloned());
    needed
}

#[cfg(test)]
mod tests {
    use cutover_core::machine::BackReason;
    use cutover_core::{Ending, ReleaseId, ReleaseKind};

    use super::*;

    fn row(number: u64, from: Option<&str>, to: &str, released: bool) -> ReleaseRow {
        let service = ServiceName::new("shop");
        let back = Ending::RolledBack { why: BackReason::Fault { fault: Fault::candidate("it broke") } };
        ReleaseRow {
            id: ReleaseId::numbered(&service, number),
            service,
            number,
            kind: ReleaseKind::Deploy,
            candidate: to.into(),
            replaced: from.map(RevisionId::from),
            by: "ann".into(),
            opened_ms: number,
            decided_ms: released.then_some(number),
            ended_ms: Some(number),
            ending: Some(if released { Ending::Released } else { back }),
            ready_ms: None,
            gone: false,
        }
    }

    fn kept(rows: &[ReleaseRow]) -> Vec<String> {
        let newest_first: Vec<ReleaseRow> = rows.iter().rev().cloned().collect();
        needed(&newest_first).iter().map(RevisionId::to_string).collect()
    }

    #[test]
    fn stable_and_its_predecessor_stay_however_many_candidates_failed_since() {
        let mut rows =
            vec![row(1, None, "a", true), row(2, Some("a"), "b", true), row(3, Some("b"), "c", true)];
        rows.extend((4..30).map(|number| row(number, Some("c"), &format!("x{number}"), false)));
        assert_eq!(kept(&rows), ["b", "c", "x25", "x26", "x27", "x28", "x29"]);
    }

    #[test]
    fn what_is_under_way_stays_with_what_it_replaces() {
        let mut rows: Vec<ReleaseRow> = (1..20)
            .map(|number| row(number, (number > 1).then_some("r10"), &format!("r{number}"), true))
            .collect();
        rows[4].ended_ms = None;
        assert_eq!(kept(&rows), ["r10", "r15", "r16", "r17", "r18", "r19", "r5"]);
        rows.iter_mut().for_each(|row| (row.gone, row.ended_ms) = (true, Some(1)));
        assert_eq!(kept(&rows), [""; 0], "of a destroyed service nothing is needed");
    }
}
