//! Whose turn it is to serve: of all workers of a folder the one that has the turn, and no other.
//!
//! It is a locked file. The worker before hands it to the next one by way of the holder; whoever dies with it in hand, or
//! on its way, lets the kernel free it. So two workers never serve different tables side by side, and one that is told
//! to go leaves nobody behind who could not take its place.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{ErrorKind, ProxyError};
use crate::lock;

const TURN: &str = "worker.lock";
/// A worker that died, or a holder that died with the turn on its way, takes the kernel a moment to clean up after.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells whether nobody serves.
pub(crate) fn is_free(dir: &Path) -> bool {
    lock::take(&dir.join(TURN)).is_ok_and(|turn| turn.is_some())
}

/// Takes the turn, if nobody has it.
pub(crate) async fn take(dir: &Path) -> Result<OwnedFd, ProxyError> {
    let path = dir.join(TURN);
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(turn) = lock::take(&path)? {
            lock::sign(&turn, dir);
            return Ok(turn.into());
        }
        if Instant::now() >= end {
            let text = format!("another worker serves already: {}", lock::holder_of(&path));
            return Err(ProxyError::new(ErrorKind::Locked, text));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
