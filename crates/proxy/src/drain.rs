//! One thread's part of a drain: wait, close what is kept, ask WebSockets to leave, cut at the deadline.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::cells::{RevisionCell, TargetCell};
use crate::route::Router;

/// How long closing and cutting may take after the deadline.
const AFTERMATH: Duration = Duration::from_millis(2_500);

/// What one thread's part came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Drained {
    pub(crate) cut: u64,
    pub(crate) websockets_closed: u64,
    pub(crate) left: u64,
    /// The revision got weight again.
    pub(crate) cancelled: bool,
}

/// Marks a revision as draining: its kept connections are closed now, those in use when they come back.
pub(crate) fn begin(router: &Router, service: &str, revision: &str) -> Option<Rc<RevisionCell>> {
    let cell = router
        .revisions
        .borrow()
        .values()
        .find(|cell| *cell.service == *service && *cell.revision == *revision)
        .cloned()?;
    cell.draining.set(true);
    targets_of(router, &cell).iter().for_each(|target| target.purge());
    Some(cell)
}

/// Waits until nothing of the revision is left, at the latest shortly after the deadline.
pub(crate) async fn run(router: Rc<Router>, cell: Rc<RevisionCell>, window: Duration) -> Drained {
    let started = Instant::now();
    let (cut, closed) = (cell.cut.get(), cell.closed_tunnels.get());
    // WebSockets leave one by one over the last half of the window: their clients all come back somewhere.
    let spread = window / 2;
    let mut asked = Vec::new();
    let deadline = started + window;
    let mut next_leaves = deadline - spread;
    loop {
        if is_done(&router, &cell) || cell.weighted.get() {
            break;
        }
        let now = Instant::now();
        if now >= deadline {
            break;
        }
        if now >= next_leaves {
            let waiting: Vec<u64> =
                cell.tunnels.borrow().keys().filter(|id| !asked.contains(*id)).copied().collect();
            next_leaves = deadline;
            if let Some(next) = waiting.first() {
                ask_to_leave(&cell, *next);
                asked.push(*next);
                next_leaves = now + (deadline - now) / (waiting.len() as u32 + 1);
            }
        }
        let _ = timeout(next_leaves.min(deadline) - now, cell.changed.notified()).await;
    }
    if !cell.weighted.get() && !is_done(&router, &cell) {
        cut_rest(&router, &cell).await;
    }
    let cancelled = cell.weighted.get();
    Drained {
        cut: cell.cut.get() - cut,
        websockets_closed: cell.closed_tunnels.get() - closed,
        left: if cancelled { 0 } else { cell.in_flight.get() },
        cancelled,
    }
}

async fn cut_rest(router: &Router, cell: &RevisionCell) {
    cell.cutting.set(true);
    let tunnels: Vec<u64> = cell.tunnels.borrow().keys().copied().collect();
    for id in tunnels {
        ask_to_leave(cell, id);
    }
    for target in targets_of(router, cell) {
        target.purge();
        for conn in target.open.borrow().values() {
            conn.kill();
        }
    }
    let end = Instant::now() + AFTERMATH;
    while !is_done(router, cell) && !cell.weighted.get() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let _ = timeout(left, cell.changed.notified()).await;
    }
}

fn ask_to_leave(cell: &RevisionCell, id: u64) {
    if let Some(close) = cell.tunnels.borrow().get(&id) {
        close.notify_one();
    }
}

fn targets_of(router: &Router, cell: &RevisionCell) -> Vec<Rc<TargetCell>> {
    let targets = router.targets.borrow();
    targets.values().filter(|target| std::ptr::eq(&*target.revision, cell)).cloned().collect()
}

fn is_done(router: &Router, cell: &RevisionCell) -> bool {
    cell.in_flight.get() == 0
        && cell.tunnels.borrow().is_empty()
        && targets_of(router, cell).iter().all(|target| target.open.borrow().is_empty())
}
