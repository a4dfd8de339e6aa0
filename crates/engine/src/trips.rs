//! Hears what the router did by itself, and tells the driver of the release.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cutover_core::ReleaseId;
use cutover_ports::Trip;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::engine::Shared;
use crate::service::Message;

const WAIT: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);
/// How long a driver may take to journal a trip; it is told again after that.
const JOURNALED: Duration = Duration::from_secs(10);

/// Follows trips until the engine stops.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut stop = shared.stopping();
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = listen(&shared) => {}
    }
}

async fn listen(shared: &Shared) {
    let router = &shared.edges.router;
    // All up to `after` are acknowledged; `handled` lie above a trip that waits for its driver.
    let (mut after, mut handled) = (0, BTreeSet::new());
    let mut silent = false;
    loop {
        let trips = match timeout(WAIT * 2, router.trips(after, WAIT)).await {
            Ok(Ok(trips)) => trips,
            answer => {
                if !silent {
                    let why = answer
                        .map_or("no answer".to_string(), |a| a.err().map(|f| f.what).unwrap_or_default());
                    warn!(why, "the router cannot be asked for trips, asking again");
                    silent = true;
                }
                sleep(AGAIN).await;
                continue;
            }
        };
        silent = false;
        let mut open = false;
        for trip in trips {
            let number = trip.number;
            let done = handled.contains(&number) || tell(shared, trip).await;
            open |= !done;
            if done {
                handled.insert(number);
            }
            if !open && acknowledge(shared, number).await {
                after = number;
                handled = handled.split_off(&(number + 1));
            }
        }
        if open {
            sleep(AGAIN).await;
        }
    }
}

async fn acknowledge(shared: &Shared, number: u64) -> bool {
    let call = shared.edges.router.acknowledge(number);
    matches!(timeout(shared.options.timeouts.look, call).await, Ok(Ok(())))
}

/// Tells whoever it concerns; true once the trip needs no more telling.
async fn tell(shared: &Shared, trip: Trip) -> bool {
    let Trip { number, service, release, why, shared: blameless } = trip;
    let Some(release) = release else {
        warn!(%service, number, why, "the router alerts");
        return true;
    };
    let Some(live) = shared.live(&release) else {
        return !driven(shared, &release, number, &why).await;
    };
    warn!(%release, number, why, "the router took the candidate's traffic away");
    let (journaled, heard) = oneshot::channel();
    let message = Message::Trip { number, why, shared: blameless, journaled };
    let told = async { live.inbox.send(message).await.is_ok() && heard.await.is_ok() };
    timeout(JOURNALED, told).await.unwrap_or(false)
}

/// Tells whether a release that is not driven here may be driven elsewhere, or here soon.
async fn driven(shared: &Shared, release: &ReleaseId, number: u64, why: &str) -> bool {
    match shared.store.release(release).await {
        Ok(Some(row)) if row.ended_ms.is_none() => {
            debug!(%release, number, "trip of a release that is not driven here");
            true
        }
        Ok(Some(_)) => {
            info!(%release, number, why, "trip of a release that has ended");
            false
        }
        Ok(None) => {
            warn!(%release, number, why, "trip of a release that the journal does not know");
            false
        }
        Err(_) => true,
    }
}
