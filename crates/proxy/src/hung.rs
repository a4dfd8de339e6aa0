//! Requests that hang while a release is under way: nothing comes of them that could be counted, so their age is.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cutover_judge::Outcome;

use crate::cells::ArmCell;
use crate::gate::Gate;
use crate::judging::Bet;

/// Whoever has had no answer for this long, and for longer than stable's slowest take, has none.
const NOBODY_WAITS: Duration = Duration::from_secs(10);

/// A first attempt without an answer yet.
#[derive(Debug)]
pub(crate) struct Open {
    arm: Rc<ArmCell>,
    gate: Arc<Gate>,
    /// The gate of the table that it was drawn by: the judge scores it there.
    drawn_by: Arc<Gate>,
    /// It was given to the candidate by weight.
    judged: bool,
    since: Instant,
    hung: Cell<bool>,
    /// The age that the guard has scored.
    scored_us: Cell<Option<u64>>,
    failed: Cell<bool>,
    /// What the judge waits for; taken when it is scored.
    bet: Cell<Option<Bet>>,
    /// What it was scored as.
    told: Cell<Option<(Bet, Outcome)>>,
    answered: Cell<bool>,
}

impl Open {
    /// Tells the judge what came of it: once, whatever comes later.
    pub(crate) fn tell(&self, outcome: Outcome) {
        if let (Some(bet), Some(desk)) = (self.bet.take(), &self.drawn_by.desk) {
            self.told.set(Some((bet, outcome)));
            desk.score(bet, outcome);
        }
    }

    /// Tells the judge that it failed, also where it has scored it as something else: by its age, or by its head.
    fn tell_failed(&self) {
        match (self.told.take(), &self.drawn_by.desk) {
            (Some((_, Outcome::Error)), _) => {}
            (Some((bet, scored)), Some(desk)) => desk.spoil(bet, scored),
            _ => self.tell(Outcome::Error),
        }
    }

    /// Its head is there.
    pub(crate) fn answer(&self, status: u16, latency_us: u64) {
        self.answered.set(true);
        match status {
            500.. => self.tell_failed(),
            400.. => self.tell(Outcome::ClientError),
            _ => self.tell(Outcome::Ok { latency_us }),
        }
        if !self.judged {
            return;
        }
        match self.settle(latency_us) {
            // Scored by its age already; only that it failed is new.
            true if status >= 500 && !self.failed.get() => self.gate.spoil(),
            true => {}
            false => self.gate.score(status >= 500, latency_us),
        }
    }

    /// It failed: without a head if it was not answered, else its body broke off.
    pub(crate) fn fail(&self, status: Option<u16>, latency_us: u64) {
        self.tell_failed();
        if !self.judged {
            return;
        }
        match status {
            None if self.failed.get() => {}
            None if self.settle(latency_us) => self.gate.spoil(),
            None => self.gate.score(true, latency_us),
            Some(status) if status < 500 => self.gate.spoil(),
            Some(_) => {}
        }
    }

    /// Tells whether the guard has scored its age, and adds what it has grown since.
    fn settle(&self, latency_us: u64) -> bool {
        let scored = self.scored_us.get();
        if let Some(scored) = scored {
            self.gate.prolong(latency_us.saturating_sub(scored));
        }
        scored.is_some()
    }

    /// Tells whether the judge scores it by its age. A client with a seat is counted by failures alone: its request is waited
    /// for.
    fn hangs(&self, age: Duration) -> bool {
        let seated = matches!(self.bet.get(), Some(Bet::Seat(..)));
        let limit = self.drawn_by.desk.as_ref().and_then(|desk| desk.hung_after_us()).filter(|_| !seated);
        limit.is_some_and(|limit| age > Duration::from_micros(limit))
    }

    /// Returns whether it is to be looked at again.
    fn look(&self, age: Duration) -> bool {
        if self.answered.get() {
            return false;
        }
        if self.hangs(age) {
            self.tell(Outcome::Hung);
        } else if age > NOBODY_WAITS {
            self.tell(Outcome::Error);
        }
        if age <= self.gate.slowest() {
            return true;
        }
        if !self.hung.replace(true) {
            self.arm.counts.borrow_mut().hung += 1;
        }
        if !self.judged {
            return true;
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
        if self.answered.get() {
            return;
        }
        if self.hangs(age) {
            self.tell(Outcome::Hung);
        }
        if self.judged && self.scored_us.get().is_none() && age > self.gate.slowest() {
            self.gate.score(self.gate.wants_success(), u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// The open requests of one thread; who is answered leaves by itself.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests(RefCell<Vec<Weak<Open>>>);

impl OpenRequests {
    pub(crate) fn add(
        &self,
        arm: Rc<ArmCell>,
        gate: Arc<Gate>,
        judged: bool,
        drawn_by: Arc<Gate>,
        bet: Option<Bet>,
        since: Instant,
    ) -> Rc<Open> {
        let open = Rc::new(Open {
            arm,
            gate,
            drawn_by,
            judged,
            since,
            hung: Cell::new(false),
            scored_us: Cell::new(None),
            failed: Cell::new(false),
            bet: Cell::new(bet),
            told: Cell::new(None),
            answered: Cell::new(false),
        });
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
