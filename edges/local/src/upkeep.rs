//! Looks at all instances in one go: whose log is full, and whose processes the kernel killed for memory.
//!
//! A timer and a task of the thread pool per instance were most of what a server with hundreds of them did. Here one look
//! finds the few that need something; their supervisors, which alone act on an instance, are told.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::cgroup::Kills;
use crate::supervise::Shared;

/// Kills are read with every so many looks: they cost more than the size of a log, and nothing waits for them.
const KILLS_EVERY: u64 = 4;

/// The instances that are looked at.
#[derive(Default)]
pub(crate) struct Upkeep(Mutex<Vec<Weak<Watched>>>);

/// What is looked at of one instance, for as long as its supervisor has it.
pub(crate) struct Watched {
    log: PathBuf,
    /// Beyond it the log is cut; 0: not known yet.
    full: AtomicU64,
    kills: Mutex<(Kills, u64)>,
    due: Notify,
}

impl Upkeep {
    /// Adds an instance's log.
    pub(crate) fn watch(&self, log: PathBuf) -> Arc<Watched> {
        let watched = Watched { log, full: AtomicU64::new(0), kills: Mutex::default(), due: Notify::new() };
        let watched = Arc::new(watched);
        lock(&self.0).push(Arc::downgrade(&watched));
        watched
    }

    /// Returns those that are still there. The lock is not held while files are looked at: a disk may hang.
    fn all(&self) -> Vec<Arc<Watched>> {
        let mut all = lock(&self.0);
        all.retain(|one| one.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Watched {
    /// Says how large the log may be until it is cut.
    pub(crate) fn full_at(&self, bytes: u64) {
        self.full.store(bytes, Ordering::Relaxed);
    }

    /// Says where the kernel counts what it kills of the instance.
    pub(crate) fn count_kills(&self, kills: Kills) {
        *lock(&self.kills) = (kills, 0);
    }

    /// Returns once the instance needs its supervisor.
    ///
    /// # Cancel safety
    /// What was not heard is heard by the next call.
    pub(crate) async fn due(&self) {
        self.due.notified().await;
    }

    fn look(&self, kills: bool) {
        let full = fs::metadata(&self.log).is_ok_and(|found| found.len() > self.full.load(Ordering::Relaxed));
        if full || (kills && self.more_kills()) {
            self.due.notify_one();
        }
    }

    fn more_kills(&self) -> bool {
        let mut kills = lock(&self.kills);
        let now = kills.0.count();
        now > std::mem::replace(&mut kills.1, now)
    }
}

/// Looks until the platform closes.
pub(crate) async fn follow(shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
    let look = async {
        let mut number = 0_u64;
        loop {
            sleep(shared.options.log_every).await;
            number += 1;
            let (all, kills) = (shared.upkeep.all(), number.is_multiple_of(KILLS_EVERY));
            let _ = spawn_blocking(move || all.iter().for_each(|one| one.look(kills))).await;
        }
    };
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        () = look => {}
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
