//! The retry budget of a service on one thread: what may be sent twice must not double the load of who is failing.

use std::cell::Cell;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Seconds over which requests and retries are counted.
const WINDOW: usize = 10;

/// How much of its requests a service may have sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// Share of the requests of the last 10 s, as one thread sees them, in basis points.
    #[serde(default = "budget_bp")]
    pub budget_bp: u16,
    /// That many within 10 s are retried in any case: a share of very few is none.
    #[serde(default = "floor")]
    pub floor: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { budget_bp: budget_bp(), floor: floor() }
    }
}

fn budget_bp() -> u16 {
    2_000
}

fn floor() -> u32 {
    10
}

/// Requests and retries of the last seconds.
#[derive(Debug)]
pub(crate) struct RetryWindow {
    begun: Instant,
    /// The second, and what was counted in it.
    slots: [Cell<(u64, u32, u32)>; WINDOW],
}

impl RetryWindow {
    pub(crate) fn new(now: Instant) -> Self {
        Self { begun: now, slots: Default::default() }
    }

    fn count(&self, now: Instant, requests: u32, retries: u32) {
        let second = now.saturating_duration_since(self.begun).as_secs();
        let slot = &self.slots[second as usize % WINDOW];
        let (counted, before, again) = slot.get();
        let (before, again) = if counted == second { (before, again) } else { (0, 0) };
        slot.set((second, before.saturating_add(requests), again.saturating_add(retries)));
    }

    /// Counts a request.
    pub(crate) fn request(&self, now: Instant) {
        self.count(now, 1, 0);
    }

    /// Takes one retry from the budget; false: it is used up.
    pub(crate) fn take(&self, now: Instant, budget: Retries) -> bool {
        let second = now.saturating_duration_since(self.begun).as_secs();
        let (mut requests, mut retries) = (0_u64, 0_u64);
        for (counted, before, again) in self.slots.iter().map(Cell::get) {
            if counted + WINDOW as u64 > second {
                requests += u64::from(before);
                retries += u64::from(again);
            }
        }
        let allowed = requests * u64::from(budget.budget_bp) / 10_000 + u64::from(budget.floor);
        let free = retries < allowed;
        if free {
            self.count(now, 0, 1);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn taken(window: &RetryWindow, now: Instant, budget: Retries) -> usize {
        (0..1_000).take_while(|_| window.take(now, budget)).count()
    }

    #[test]
    fn a_share_of_the_requests_and_a_floor_may_be_sent_again() {
        let begun = Instant::now();
        let window = RetryWindow::new(begun);
        assert_eq!(taken(&window, begun, Retries::default()), 10, "the floor");
        (0..100).for_each(|_| window.request(begun));
        assert_eq!(taken(&window, begun, Retries::default()), 20);
        let later = begun + Duration::from_secs(9);
        assert_eq!(taken(&window, later, Retries::default()), 0, "still counted");
        let gone = begun + Duration::from_secs(10);
        assert_eq!(taken(&window, gone, Retries::default()), 10, "a new window");
        assert_eq!(taken(&window, gone, Retries { budget_bp: 0, floor: 0 }), 0);
    }

    #[test]
    fn a_slot_is_used_again_after_the_window() {
        let begun = Instant::now();
        let window = RetryWindow::new(begun);
        for second in 0..35 {
            let now = begun + Duration::from_secs(second);
            (0..50).for_each(|_| window.request(now));
        }
        // Ten slots of 50 requests each.
        assert_eq!(
            taken(&window, begun + Duration::from_secs(34), Retries { budget_bp: 2_000, floor: 0 }),
            100
        );
    }
}
