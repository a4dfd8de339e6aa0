//! A worker that leaves does as its successor does: what it still serves goes by the table that is, not by its own.
//!
//! It reads what the successor has written, and says in a file which table its threads have taken. The successor acknowledges
//! a change only when all that leave have said so. A worker without such a file is of an older version and does not
//! follow; nobody waits for it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::Control;
use crate::error::{ErrorKind, ProxyError};
use crate::store::Stored;
use crate::supervise::is_alive;

/// How often the successor's word is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// A worker that leaves and does not follow for this long is reported.
const PATIENCE: Duration = Duration::from_secs(2);

impl Control {
    /// Notes the workers before this one that finish their last requests.
    pub(crate) fn succeed(&self, pids: &[u32]) {
        self.predecessors.borrow_mut().extend(pids);
    }

    /// Forgets those of them that have ended: another process may have their number some day.
    pub(super) fn forget_predecessors(&self) {
        self.predecessors.borrow_mut().retain(|pid| {
            let lives = is_alive(*pid);
            if !lives {
                // There is none of one that left in order.
                let _ = std::fs::remove_file(self.word_of(*pid));
            }
            lives
        });
    }

    /// Waits until those that leave route by the table that was written; nothing is claimed by the one before after that.
    pub(super) async fn followed(&self) -> Result<(), ProxyError> {
        self.forget_predecessors();
        let pids = self.predecessors.borrow().clone();
        let wanted = self.state.borrow().stored.stamp().to_string();
        let end = Instant::now() + PATIENCE;
        for pid in pids {
            // Without a file: of an older version, or gone in order.
            while std::fs::read_to_string(self.word_of(pid)).is_ok_and(|taken| taken != wanted)
                && is_alive(pid)
            {
                if Instant::now() >= end {
                    let text = format!(
                        "worker {pid}, which finishes its last requests, has not taken the table; observe, or end it"
                    );
                    return Err(ProxyError::new(ErrorKind::Unacknowledged, text));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Says which table this worker routes by, from now on whenever it takes another one.
    pub(crate) fn promise_to_follow(&self) -> std::io::Result<()> {
        let own = self.word_of(std::process::id());
        let aside = own.with_extension("new");
        std::fs::write(&aside, self.state.borrow().stored.stamp().to_string())?;
        std::fs::rename(aside, own)
    }

    /// Takes it back: this worker goes on serving, or has ended.
    pub(crate) fn stop_following(&self) {
        // There is none where it could not be written.
        let _ = std::fs::remove_file(self.word_of(std::process::id()));
    }

    /// Does as the successor does, until the worker ends; returns never.
    pub(crate) async fn follow_successor(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(stored) = self.store.peek() else { continue };
            self.rooms.follow(&stored.traffic);
            if stored.table == self.state.borrow().stored.table {
                continue;
            }
            self.take(stored);
            // A thread that does not answer keeps the word from being given, and the successor reports it.
            if self.swap().await.is_ok()
                && let Err(error) = self.promise_to_follow()
            {
                tracing::error!(%error, "a worker that leaves cannot say that it follows");
            }
        }
    }

    fn take(&self, stored: Stored) {
        let mut state = self.state.borrow_mut();
        for (name, service) in &stored.table.services {
            let same =
                state.stored.table.services.get(name).is_some_and(|own| own.generation == service.generation);
            if let Some(live) = state.live.get_mut(name).filter(|_| !same) {
                // The successor judges now.
                (live.gate, live.suspended) = (None, false);
            }
        }
        state.stored.table = stored.table;
        state.stored.trips = stored.trips;
    }

    fn word_of(&self, pid: u32) -> PathBuf {
        self.store.leaving(pid)
    }
}
