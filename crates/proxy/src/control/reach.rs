//! Who of the targets accepts connections now.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Control;
use crate::store::boot_ms;
use crate::table::{ServiceTable, Track};

const REACH: Duration = Duration::from_millis(300);
const VERIFY_AGAIN_MS: u64 = 500;

impl Control {
    /// Trusts the targets of the last worker's table again as soon as they answer.
    pub(super) async fn verify(&self) {
        let now = boot_ms();
        let waiting = {
            let mut state = self.state.borrow_mut();
            if state.unverified.is_empty() || state.verify_again_ms > now {
                return;
            }
            state.verify_again_ms = now + VERIFY_AGAIN_MS;
            state.unverified.clone()
        };
        let still = silent(waiting.clone()).await;
        if still != waiting {
            // Not beside a change: a thread must never get an older table after a newer one was acknowledged.
            let _changing = self.changing.lock().await;
            self.state.borrow_mut().unverified.retain(|address| still.contains(address));
            if let Err(error) = self.swap().await {
                tracing::error!(%error, "targets that answer again are not trusted yet");
            }
        }
    }
}

/// Returns the revisions that a fallback can count on: a ready target accepts connections now.
pub(super) async fn reachable(service: &ServiceTable) -> BTreeSet<String> {
    // Nobody need wait for a candidate that keeps nothing.
    let out = service.candidate.as_ref().filter(|candidate| candidate.retained() == 0);
    let candidate = out.map(|candidate| candidate.revision.as_str());
    let others: Vec<&Track> =
        service.tracks.iter().filter(|track| Some(track.revision.as_str()) != candidate).collect();
    let silent = silent(others.iter().flat_map(|track| ready(track)).collect()).await;
    let answers = |track: &&&Track| ready(track).any(|address| !silent.contains(&address));
    others.iter().filter(answers).map(|track| track.revision.clone()).collect()
}

pub(super) fn ready(track: &Track) -> impl Iterator<Item = SocketAddr> + '_ {
    track.targets.iter().filter(|target| target.ready).map(|target| target.address)
}

pub(super) fn ready_addresses(service: &ServiceTable) -> BTreeSet<SocketAddr> {
    service.tracks.iter().flat_map(ready).collect()
}

/// Returns those addresses that do not accept a connection.
pub(super) async fn silent(addresses: BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
    let looks: Vec<_> = addresses
        .into_iter()
        .map(|address| {
            let look = async move { matches!(timeout(REACH, TcpStream::connect(address)).await, Ok(Ok(_))) };
            (address, tokio::task::spawn_local(look))
        })
        .collect();
    let mut silent = BTreeSet::new();
    for (address, look) in looks {
        if !look.await.unwrap_or(false) {
            silent.insert(address);
        }
    }
    silent
}
