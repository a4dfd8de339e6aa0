//! One thread's part of a drain: wait, close what is kept, ask WebSockets to leave, cut at the deadline.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::cells::{RevisionCell, TargetCell};
use crate::route::Router;

/// How long closing and cutting may take after the deadline.
const AFTERMATH: Duration = Duration::from_millis(2_500);

/// What shall be drained.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A revision without weight, whether its targets are in the table or not.
    Revision(String),
    /// Targets that left the table; their revision may keep its weight.
    Targets(Vec<SocketAddr>),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Revision(revision) => write!(f, "revision \"{revision}\""),
            What::Targets(addresses) => {
                let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                write!(f, "targets {}", all.join(", "))
            }
        }
    }
}

/// What one thread's part came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Drained {
    pub(crate) cut: u64,
    pub(crate) websockets_closed: u64,
    pub(crate) left: u64,
    /// What was drained takes requests again.
    pub(crate) cancelled: bool,
}

/// A drain on one thread. It keeps its targets: one that is forgotten by the thread still has something to report.
#[derive(Debug)]
pub(crate) struct Drain {
    targets: Vec<Rc<TargetCell>>,
    /// Set when the whole revision is drained.
    revision: Option<Rc<RevisionCell>>,
    /// The least time between two that this thread closes.
    apart: Duration,
    changed: Rc<Notify>,
}

impl Drain {
    /// Begins a drain: kept connections are closed now, those in use when they come back.
    pub(crate) fn begin(router: &Router, service: &str, what: &What) -> Self {
        match what {
            What::Revision(revision) => {
                let revisions = router.revisions.borrow();
                let cell = revisions
                    .values()
                    .find(|cell| *cell.service == *service && *cell.revision == **revision)
                    .cloned();
                drop(revisions);
                match cell {
                    Some(cell) => Self::of_revision(router, cell),
                    None => Self::of(router, None, |_| false),
                }
            }
            What::Targets(addresses) => Self::of(router, None, |target| {
                *target.revision.service == *service && addresses.contains(&target.address)
            }),
        }
    }

    /// Begins to drain a revision.
    pub(crate) fn of_revision(router: &Router, cell: Rc<RevisionCell>) -> Self {
        cell.draining.set(true);
        Self::of(router, Some(cell.clone()), |target| Rc::ptr_eq(&target.revision, &cell))
    }

    fn of(
        router: &Router,
        revision: Option<Rc<RevisionCell>>,
        drained: impl Fn(&TargetCell) -> bool,
    ) -> Self {
        let targets = router.targets.borrow();
        let targets: Vec<_> = targets.values().filter(|target| drained(target)).cloned().collect();
        targets.iter().for_each(|target| target.purge());
        let service = revision.as_ref().map(|cell| &cell.service);
        let service = service.or_else(|| targets.first().map(|target| &target.revision.service));
        let apart = service.map_or(Duration::ZERO, |service| router.apart(service));
        Self { targets, revision, apart, changed: router.changed.clone() }
    }

    /// Waits until nothing is left, at the latest shortly after the deadline.
    pub(crate) async fn run(self, window: Duration) -> Drained {
        let (cut, closed) = self.counted();
        self.wait(window).await;
        if !self.is_cancelled() && !self.is_done() {
            self.cut_rest().await;
        }
        let cancelled = self.is_cancelled();
        let (cut_since, closed_since) = self.counted();
        let in_flight = self.targets.iter().map(|target| target.in_flight.get()).sum();
        Drained {
            cut: cut_since - cut,
            websockets_closed: closed_since - closed,
            left: if cancelled { 0 } else { in_flight },
            cancelled,
        }
    }

    async fn wait(&self, window: Duration) {
        let deadline = Instant::now() + window;
        // What is endless leaves one by one over the last half of the window: its clients all come back somewhere. More than
        // may leave in that time begins earlier.
        let mut next_leaves = deadline - leaving(self.endless().len(), self.apart, window);
        let mut asked = Vec::new();
        while !self.is_done() && !self.is_cancelled() {
            let now = Instant::now();
            if now >= deadline {
                return;
            }
            if now >= next_leaves {
                let mut waiting = self.endless();
                waiting.retain(|(id, _)| !asked.contains(id));
                next_leaves = deadline;
                if let Some((id, close)) = waiting.first() {
                    close.notify_one();
                    asked.push(*id);
                    next_leaves = now + pause(waiting.len(), self.apart, deadline - now);
                }
            }
            // Nothing else runs on this thread between the looks above and the first poll of this: no wake-up is lost.
            let _ = timeout(next_leaves.min(deadline) - now, self.changed.notified()).await;
        }
    }

    async fn cut_rest(&self) {
        for target in &self.targets {
            target.cutting.set(true);
        }
        for (_, close) in self.endless() {
            close.notify_one();
        }
        for target in &self.targets {
            target.purge();
            for conn in target.open.borrow().values() {
                conn.kill();
            }
        }
        let end = Instant::now() + AFTERMATH;
        while !self.is_done() && !self.is_cancelled() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let _ = timeout(left, self.changed.notified()).await;
        }
    }

    /// Requests cut and WebSockets closed so far, by any drain.
    fn counted(&self) -> (u64, u64) {
        let cut = self.targets.iter().map(|target| target.cut.get()).sum();
        (cut, self.targets.iter().map(|target| target.closed_tunnels.get()).sum())
    }

    /// WebSockets and event streams, which go on for ever unless they are asked to end.
    fn endless(&self) -> Vec<(u64, Rc<Notify>)> {
        let all = |target: &Rc<TargetCell>| {
            let (tunnels, streams) = (target.tunnels.borrow(), target.event_streams.borrow());
            let both = tunnels.iter().chain(streams.iter());
            both.map(|(id, close)| (*id, close.clone())).collect::<Vec<_>>()
        };
        self.targets.iter().flat_map(all).collect()
    }

    fn is_done(&self) -> bool {
        self.targets.iter().all(|target| target.is_drained())
    }

    /// Tells whether what is drained takes requests again.
    fn is_cancelled(&self) -> bool {
        match &self.revision {
            Some(revision) => revision.weighted.get(),
            None => self.targets.iter().any(|target| !target.gone.get()),
        }
    }
}

/// Returns how long before its deadline a drain begins to close what is endless.
fn leaving(endless: usize, apart: Duration, window: Duration) -> Duration {
    let all = apart.saturating_mul(u32::try_from(endless).unwrap_or(u32::MAX));
    all.max(window / 2).min(window)
}

/// Returns how long after one of `waiting` the next is asked to leave, with so much of the window left.
fn pause(waiting: usize, apart: Duration, left: Duration) -> Duration {
    let even = left / u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(1);
    even.max(apart)
}

/// Returns the least time between two that one of so many threads closes, where all together close `closes` a second.
pub(crate) fn apart(closes: Option<u32>, threads: usize) -> Duration {
    let threads = u32::try_from(threads.max(1)).unwrap_or(u32::MAX);
    let closes = closes.filter(|closes| *closes > 0);
    closes.map_or(Duration::ZERO, |closes| Duration::from_secs(1) * threads / closes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_may_leave_in_half_the_window_begins_earlier() {
        let (window, ms) = (Duration::from_secs(10), Duration::from_millis);
        assert_eq!(leaving(100, Duration::ZERO, window), ms(5_000), "no limit");
        assert_eq!(leaving(100, ms(20), window), ms(5_000), "50 a second have time enough");
        assert_eq!(leaving(100, ms(90), window), ms(9_000));
        assert_eq!(leaving(100, ms(1_000), window), window, "the rest is closed at the end");
        assert_eq!(leaving(0, ms(1_000), window), ms(5_000));
    }

    /// Plays a drain's second half by its own pauses, and counts who leaves before the deadline.
    fn leave_in_time(endless: usize, apart: Duration, window: Duration) -> usize {
        let (mut left, mut gone) = (leaving(endless, apart, window), 0);
        while gone < endless && left > Duration::ZERO {
            gone += 1;
            left = left.saturating_sub(pause(endless - gone + 1, apart, left));
        }
        gone
    }

    #[test]
    fn no_more_leave_in_a_second_than_the_service_allows_over_all_threads() {
        let window = Duration::from_secs(10);
        assert_eq!(leave_in_time(1_000, apart(None, 2), window), 1_000, "no limit: all, evenly");
        // 50 a second are 25 on each of two threads: 250 in the whole window, and the rest at its end.
        assert_eq!(apart(Some(50), 2), Duration::from_millis(40));
        assert_eq!(leave_in_time(1_000, apart(Some(50), 2), window), 250);
        assert_eq!(leave_in_time(200, apart(Some(50), 2), window), 200, "these fit");
        assert_eq!(pause(1_000, apart(Some(50), 2), window), Duration::from_millis(40));
        assert_eq!(apart(Some(0), 2), Duration::ZERO, "refused by the table");
    }
}
