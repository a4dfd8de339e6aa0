//! A claim: one request is counted as in flight at one target until its outcome is known.

use std::rc::Rc;
use std::time::Instant;

use crate::access::Entry;
use crate::cells::{ArmCell, RevisionCell, TargetCell};
use crate::clients::Guest;
use crate::hung::Open;
use crate::room::Slot;

/// False only in the build that counting is measured against.
const COUNTING: bool = cfg!(not(feature = "uncounted"));

/// One attempt in flight. Dropping it undecided means that the client went away.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) target: Rc<TargetCell>,
    pub(crate) arm: Rc<ArmCell>,
    /// Track the attempt was given to, preferred by a retry.
    pub(crate) revision: Rc<RevisionCell>,
    first: bool,
    /// Noted among those that are judged: first attempts during a release, given to the arm that was drawn.
    pub(crate) open: Option<Rc<Open>>,
    pub(crate) started: Instant,
    status: Option<u16>,
    /// Its answer says by gRPC that it failed, whatever its HTTP status.
    refuted: bool,
    settled: bool,
    /// The proxy itself could not make the attempt.
    excused: bool,
    /// Its place among what its client may have at once, for as long as the response is passed on.
    pub(crate) guest: Option<Guest>,
    /// Its line in the access log, written when the claim ends.
    pub(crate) log: Option<Box<Entry>>,
    /// Its place at the target, given back with it.
    _slot: Option<Slot>,
}

impl Claim {
    /// Claims synchronously: between the look into the table and this there is no await, so that a thread that has
    /// acknowledged a table claims nothing by the one before.
    pub(crate) fn new((target, slot): (Rc<TargetCell>, Option<Slot>), arm: Rc<ArmCell>, first: bool) -> Self {
        let revision = target.revision.clone();
        revision.in_flight.set(revision.in_flight.get() + 1);
        target.in_flight.set(target.in_flight.get() + 1);
        if COUNTING {
            let mut counts = arm.counts.borrow_mut();
            if first {
                counts.claimed += 1;
            } else {
                counts.adopted += 1;
            }
        }
        Self {
            target,
            arm,
            revision,
            first,
            open: None,
            started: Instant::now(),
            status: None,
            refuted: false,
            settled: false,
            excused: false,
            guest: None,
            log: None,
            _slot: slot,
        }
    }

    fn latency_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Records that the response head arrived; once.
    pub(crate) fn head(&mut self, status: u16) {
        self.head_with(status, false);
    }

    /// Records that a head arrived which is a whole answer of gRPC and says that it failed.
    pub(crate) fn head_refuted(&mut self, status: u16) {
        self.head_with(status, true);
    }

    fn head_with(&mut self, status: u16, refuted: bool) {
        if self.status.is_some() {
            return;
        }
        let latency_us = self.latency_us();
        (self.status, self.refuted) = (Some(status), refuted);
        if let Some(log) = &mut self.log {
            log.status = Some(status);
            log.head_us = Some(latency_us);
            log.revision = Some(self.revision.revision.clone());
            log.arm = Some(self.arm.arm.name());
            log.target = Some(self.target.address);
        }
        // What it is judged by.
        let status = if refuted { 500 } else { status };
        self.target.trust.took(latency_us, status >= 500, Instant::now());
        if !COUNTING {
            return;
        }
        self.arm.counts.borrow_mut().latency.record(latency_us);
        if let Some(open) = &self.open {
            open.answer(status, latency_us);
        }
    }

    /// Records that an answer whose head looked good says at its end, by gRPC, that it failed; once.
    pub(crate) fn refute(&mut self) {
        if std::mem::replace(&mut self.refuted, true) || !COUNTING {
            return;
        }
        if let Some(open) = &self.open {
            open.fail(self.status, self.latency_us());
        }
    }

    /// Records a request that was sent again because its kept connection had died.
    pub(crate) fn reconnected(&self) {
        self.arm.counts.borrow_mut().reconnected += 1;
    }

    /// Records that the request is not sent again for want of a budget.
    pub(crate) fn not_retried(&self) {
        self.arm.counts.borrow_mut().not_retried += 1;
    }

    /// Ends the claim: the response was passed on whole.
    pub(crate) fn finish(mut self) {
        self.settled = true;
        if let Some(log) = &mut self.log {
            log.whole = true;
        }
        self.target.trust.answered();
        if !COUNTING {
            return;
        }
        let status = if self.refuted { 500 } else { self.status.unwrap_or(200) };
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        let mut counts = self.arm.counts.borrow_mut();
        counts.finished += 1;
        counts.status[class] += 1;
    }

    /// Ends the claim of a WebSocket that the proxy closed with a close frame, or of an event stream that it ended.
    pub(crate) fn finish_closed(self) {
        self.arm.counts.borrow_mut().websockets_closed += 1;
        let target = self.target.clone();
        target.closed_tunnels.set(target.closed_tunnels.get() + 1);
        self.finish();
    }

    /// Ends the claim: the client sees a failure. Returns the reason that counts.
    pub(crate) fn fail(mut self, reason: &'static str) -> &'static str {
        if self.target.cutting.get() {
            self.cut();
            return "drain-deadline";
        }
        self.charge();
        self.settled = true;
        if let Some(log) = &mut self.log {
            log.reason = Some(reason);
        }
        *self.arm.counts.borrow_mut().failed.entry(reason.to_owned()).or_default() += 1;
        reason
    }

    /// Ends the claim: the deadline of a drain cut it.
    pub(crate) fn cut(mut self) {
        self.settled = true;
        self.arm.counts.borrow_mut().cut += 1;
        self.target.cut.set(self.target.cut.get() + 1);
    }

    /// What comes of this attempt is not the arm's fault: the proxy itself could not make it.
    pub(crate) fn excuse(&mut self) {
        self.first = false;
        self.open = None;
        self.excused = true;
    }

    /// Ends this attempt: another one takes the request over.
    pub(crate) fn hand_on(mut self) {
        self.charge();
        self.settled = true;
        self.arm.counts.borrow_mut().retried += 1;
    }

    /// Ends this attempt: it was answered, and the client gets the answer of another revision.
    pub(crate) fn pass_over(mut self) {
        self.settled = true;
        self.arm.counts.borrow_mut().retried += 1;
    }

    /// Charges the arm that was drawn with the failure of the first attempt, whoever serves the request in the end.
    fn charge(&self) {
        if !self.excused {
            self.target.trust.failed(Instant::now(), self.revision.balance.get().eject_after);
        }
        if !self.first {
            return;
        }
        self.arm.counts.borrow_mut().first_attempt_failed += 1;
        if let Some(open) = &self.open {
            open.fail(self.status, self.latency_us());
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled {
            if let Some(open) = &self.open {
                open.abandoned(self.started.elapsed());
            }
            self.arm.counts.borrow_mut().aborted_by_client += 1;
        }
        self.target.in_flight.set(self.target.in_flight.get().saturating_sub(1));
        self.revision.in_flight.set(self.revision.in_flight.get().saturating_sub(1));
        self.target.wake_drain();
    }
}
