//! Requests that hang while a release is under way: nothing comes of them that could be counted, so their age is.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cells::ArmCell;
use crate::gate::Gate;

/// Whoever has had no answer for this long, and for longer than stable's slowest take, has none.
const NOBODY_WAITS: Duration = Duration::from_secs(10);

/// A first attempt without an answer yet.
#[derive(Debug)]
pub(crate) struct Open {
    arm: Rc<ArmCell>,
    gate: Arc<Gate>,
    /// It was given to the candidate by weight.
    judged: bool,
    since: Instant,
    hung: Cell<bool>,
    /// The age that the guard has scored.
    scored_us: Cell<Option<u64>>,
    failed: Cell<bool>,
}

impl Open {
    /// Tells whether the guard has scored its age, and adds what it has grown since.
    pub(crate) fn settle(&self, latency_us: u64) -> bool {
        let scored = self.scored_us.get();
        if let Some(scored) = scored {
            self.gate.prolong(latency_us.saturating_sub(scored));
        }
        scored.is_some()
    }

    /// Tells whether its failure was scored, too.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed.get()
    }

    /// Returns whether it is to be looked at again.
    fn look(&self, age: Duration) -> bool {
        if age <= self.gate.slowest() {
            return true;
        }
        if !self.hung.replace(true) {
            self.arm.counts.borrow_mut().hung += 1;
        }
        if !self.judged {
            return false;
        }
        let us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        match self.scored_us.get() {
            Some(before) => self.gate.prolong(us.saturating_sub(before)),
            None if self.gate.slow_after().is_some_and(|limit| age > limit) || age > NOBODY_WAITS => {
                self.gate.score(false, us);
            }
            None => return true,
        }
        self.scored_us.set(Some(us));
        if age > NOBODY_WAITS && self.gate.wants_success() && !self.failed.replace(true) {
            self.gate.spoil();
        }
        true
    }

    /// Its client went away; if it had waited for longer than stable's slowest take, that is no accident.
    pub(crate) fn abandoned(&self, age: Duration) {
        if self.judged && self.scored_us.get().is_none() && age > self.gate.slowest() {
            self.gate.score(self.gate.wants_success(), u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// The open requests of one thread; who is answered leaves by itself.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests(RefCell<Vec<Weak<Open>>>);

impl OpenRequests {
    pub(crate) fn add(&self, arm: Rc<ArmCell>, gate: Arc<Gate>, judged: bool, since: Instant) -> Rc<Open> {
        let (hung, scored_us, failed) = (Cell::new(false), Cell::new(None), Cell::new(false));
        let open = Rc::new(Open { arm, gate, judged, since, hung, scored_us, failed });
        self.0.borrow_mut().push(Rc::downgrade(&open));
        open
    }

    /// Counts those that are older than the slowest in a thousand of their service's stable revision, and has the guard
    /// score those that are older than it allows.
    pub(crate) fn look(&self, now: Instant) {
        let looked = |open: &Weak<Open>| {
            open.upgrade().is_some_and(|open| open.look(now.saturating_duration_since(open.since)))
        };
        self.0.borrow_mut().retain(looked);
    }
}
