//! Requests that hang while a release is under way: nothing comes of them that could be counted, so their age is.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cells::ArmCell;
use crate::gate::Gate;

/// A first attempt without an answer yet.
#[derive(Debug)]
pub(crate) struct Open {
    arm: Rc<ArmCell>,
    gate: Arc<Gate>,
    /// It was given to the candidate by weight.
    judged: bool,
    since: Instant,
    hung: Cell<bool>,
    scored: Cell<bool>,
}

impl Open {
    /// Tells whether the guard has scored its age.
    pub(crate) fn is_scored(&self) -> bool {
        self.scored.get()
    }

    /// Returns whether it is to be looked at again.
    fn look(&self, age: Duration) -> bool {
        if age <= self.gate.slowest() {
            return true;
        }
        if !self.hung.replace(true) {
            self.arm.counts.borrow_mut().hung += 1;
        }
        let Some(limit) = self.gate.slow_after().filter(|_| self.judged) else { return false };
        if age > limit {
            self.scored.set(true);
            self.gate.score(false, u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        }
        age <= limit
    }
}

/// The open requests of one thread; who is answered leaves by itself.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests(RefCell<Vec<Weak<Open>>>);

impl OpenRequests {
    pub(crate) fn add(&self, arm: Rc<ArmCell>, gate: Arc<Gate>, judged: bool, since: Instant) -> Rc<Open> {
        let (hung, scored) = (Cell::new(false), Cell::new(false));
        let open = Rc::new(Open { arm, gate, judged, since, hung, scored });
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
