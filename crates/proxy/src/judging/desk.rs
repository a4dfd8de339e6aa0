//! Where the requests of one table are counted, each thread by itself.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cutover_judge::{Arm as Side, Outcome, Sheet, Tally, Tick, Ticket};

use super::Judging;
use crate::store::boot_ms;
use crate::table::WHOLE;

/// A request that was drawn, until it is scored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bet {
    /// By itself.
    Request(Ticket),
    /// By halves, after an alarm.
    Half(Ticket),
    /// With its client, which stays where it was drawn to.
    Seat(u16, Side),
}

impl Bet {
    /// The arm that was drawn.
    pub(crate) fn side(self) -> Side {
        match self {
            Bet::Request(ticket) | Bet::Half(ticket) => ticket.arm(),
            Bet::Seat(_, side) => side,
        }
    }
}

/// Where the requests of one table are counted.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) judging: Arc<Judging>,
    pub(super) share_bp: u16,
    /// One for each thread.
    pub(super) tallies: Box<[Mutex<Counting>]>,
    /// Another table is in force: few requests are left, and each is added up at once.
    pub(super) retired: AtomicBool,
    /// The candidate has instances that have served nobody yet.
    pub(super) cold: AtomicBool,
    /// The age at which an open request hangs; 0: not known.
    pub(super) hung_after_us: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Counting {
    pub(super) sheet: Sheet,
    pub(super) tally: Tally,
}

impl Desk {
    /// Counts a request that was drawn for an arm by these weights; none where it was drawn by others.
    pub(crate) fn assign(&self, side: Side, seat: Option<u16>, share_bp: u16, halves: bool) -> Option<Bet> {
        if halves {
            return self.judging.half(side);
        }
        if share_bp != self.share_bp {
            // The candidate waits for its lease.
            return None;
        }
        if side == Side::Candidate
            && self.cold.load(Ordering::Relaxed)
            && self.cold.swap(false, Ordering::Relaxed)
        {
            self.judging.warms_up();
        }
        if let Some(seat) = seat {
            return Some(Bet::Seat(seat, side));
        }
        let mut counting = self.mine();
        let ticket = counting.sheet.ticket(side);
        counting.tally.assign(ticket);
        Some(Bet::Request(ticket))
    }

    /// Counts what came of it.
    pub(crate) fn score(&self, bet: Bet, outcome: Outcome) {
        match bet {
            Bet::Request(ticket) => {
                let mut counting = self.mine();
                let Counting { sheet, tally } = &mut *counting;
                let decides = tally.score(sheet, ticket, outcome);
                drop(counting);
                if decides || self.retired.load(Ordering::Acquire) {
                    self.judging.decide(|_| {});
                }
            }
            Bet::Half(ticket) => self.judging.halved(ticket, outcome),
            Bet::Seat(seat, side) => self.judging.seated(seat, side, outcome == Outcome::Error),
        }
    }

    /// Counts one that was scored as failed: its body broke off.
    pub(crate) fn spoil(&self, bet: Bet, scored: Outcome) {
        match bet {
            Bet::Request(ticket) => self.judging.decide(|inner| {
                inner.judge.spoil(ticket, scored);
                if let Some(after) = inner.after.as_mut().filter(|_| self.share_bp == WHOLE) {
                    after.add(Tick { requests: 1, errors: 1, ..Tick::default() });
                }
            }),
            Bet::Half(ticket) => self.judging.decide(|inner| {
                if let Some(after) = &mut inner.after {
                    after.spoil(ticket, scored);
                }
            }),
            Bet::Seat(seat, side) => self.judging.seated(seat, side, true),
        }
    }

    /// Returns the age in microseconds at which an open request hangs, once stable's slowest in a thousand are known.
    pub(crate) fn hung_after_us(&self) -> Option<u64> {
        Some(self.hung_after_us.load(Ordering::Relaxed)).filter(|us| *us > 0)
    }

    fn mine(&self) -> MutexGuard<'_, Counting> {
        let at = THREAD.get() % self.tallies.len();
        self.tallies[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Judging {
    fn half(&self, side: Side) -> Option<Bet> {
        self.lock().after.as_mut()?.assign(side).map(Bet::Half)
    }

    fn halved(&self, ticket: Ticket, outcome: Outcome) {
        self.decide(|inner| {
            if let Some(after) = &mut inner.after {
                after.score(ticket, outcome);
            }
        });
    }

    /// The candidate's new instances have their first request.
    fn warms_up(&self) {
        let mut inner = self.lock();
        if inner.warm_until_ms == u64::MAX {
            inner.warm_until_ms = boot_ms() + inner.warm_up_ms;
        }
    }

    fn seated(&self, seat: u16, side: Side, failed: bool) {
        let mut inner = self.lock();
        if let Some(after) = &mut inner.after {
            after.add(Tick { requests: 1, errors: u64::from(failed), ..Tick::default() });
        }
        let block = inner.clusters.score(seat.into(), side, failed, boot_ms());
        inner.take(block);
        drop(inner);
        if block.is_some() {
            self.decide(|_| {});
        }
    }
}

thread_local! {
    /// Which of the tallies is this thread's.
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Gives the thread a tally of its own at every desk.
pub(crate) fn on_thread(index: usize) {
    THREAD.set(index);
}
