//! Drains over all threads, and over the workers that were replaced.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Worker;
use crate::compiled::effective;
use crate::control::{fence_epoch, unknown};
use crate::drain::What;
use crate::error::{ErrorKind, ProxyError};
use crate::protocol::DrainReply;
use crate::supervise::is_alive;
use crate::thread::Command;

/// Drains a revision that has no weight.
pub(super) async fn revision(
    worker: &Worker,
    service: String,
    revision: String,
    window: Duration,
) -> Result<DrainReply, ProxyError> {
    {
        let state = worker.control.state.borrow();
        let table = state.stored.table.services.get(&service).ok_or_else(|| unknown(&service))?;
        let suspended = state.live.get(&service).is_some_and(|live| live.suspended);
        let weights = effective(table, suspended);
        let at = table.tracks.iter().position(|track| track.revision == revision);
        // A revision that was removed from the table may still hold requests: it can be drained too.
        if let Some(at) = at.filter(|at| weights[*at] > 0 || table.tracks[*at].weight_bp > 0) {
            let text = format!(
                "revision \"{revision}\" of service \"{service}\" has weight {}; set it to 0 before draining",
                weights[at]
            );
            return Err(ProxyError::new(ErrorKind::StillWeighted, text));
        }
    }
    drain(worker, service, What::Revision(revision), window).await
}

/// Drains targets that are in the table no more.
pub(super) async fn targets(
    worker: &Worker,
    service: String,
    addresses: Vec<SocketAddr>,
    epoch: u64,
    window: Duration,
) -> Result<DrainReply, ProxyError> {
    {
        let state = worker.control.state.borrow();
        fence_epoch(&state.stored, &service, epoch)?;
        // With weight or without: whoever is in the table may be given requests any moment, and would be cut.
        let tracks = state.stored.table.services.get(&service).map(|table| table.tracks.as_slice());
        for track in tracks.unwrap_or_default() {
            if let Some(target) = track.targets.iter().find(|target| addresses.contains(&target.address)) {
                let text = format!(
                    "target {} is still in the table of service \"{service}\" with revision \"{}\"; set the \
                     table without it before draining",
                    target.address, track.revision
                );
                return Err(ProxyError::new(ErrorKind::StillRouted, text));
            }
        }
    }
    drain(worker, service, What::Targets(addresses), window).await
}

async fn drain(
    worker: &Worker,
    service: String,
    what: What,
    window: Duration,
) -> Result<DrainReply, ProxyError> {
    let started = Instant::now();
    let limit = window + Duration::from_secs(5);
    let answers = worker
        .control
        .ask_within(limit, |done| Command::Drain {
            service: service.clone(),
            what: what.clone(),
            window,
            done,
        })
        .await;
    let mut reply = DrainReply { clean: true, cut: 0, websockets_closed: 0, left: 0, took_ms: 0 };
    for answer in answers {
        let Some(share) = answer else {
            let text = format!("a thread did not report the drain of {what} of \"{service}\"; observe");
            return Err(ProxyError::new(ErrorKind::Unacknowledged, text));
        };
        if share.cancelled {
            let text = format!("the drain of {what} of \"{service}\" ended: it takes requests again");
            return Err(ProxyError::new(ErrorKind::Cancelled, text));
        }
        reply.cut += share.cut;
        reply.websockets_closed += share.websockets_closed;
        reply.left += share.left;
    }
    // A worker that was replaced may still hold such requests; it ends when it has none at all.
    let end = started + limit;
    while worker.leaving.iter().any(|pid| is_alive(*pid)) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    reply.left += worker.leaving.iter().filter(|pid| is_alive(**pid)).count() as u64;
    reply.clean = reply.cut == 0 && reply.left == 0;
    reply.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(reply)
}
