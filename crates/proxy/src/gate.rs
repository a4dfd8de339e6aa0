//! The candidate's gate, shared by all threads: closing it takes the traffic off at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::judging::Desk;
use crate::protocol::GuardNumbers;
use crate::store::boot_ms;
use crate::table::{Guard, WHOLE};

/// One candidate between two `set`s.
#[derive(Debug)]
pub(crate) struct Gate {
    closed: AtomicBool,
    /// Requests are split evenly, to tell the candidate's faults from those of both.
    probing: AtomicBool,
    can_probe: AtomicBool,
    woken: AtomicBool,
    /// Until then it is not shut: nobody else answers.
    open_until_ms: AtomicU64,
    pub(crate) release: String,
    guard: Option<Guard>,
    /// Exact over all threads; only first attempts at the candidate take this lock, and only under a guard.
    numbers: Mutex<GuardNumbers>,
    /// Where its requests, and those of stable at the same time, are compared.
    pub(crate) desk: Option<Arc<Desk>>,
    wake: mpsc::Sender<()>,
    /// What the slowest in a thousand of stable's requests take, in microseconds.
    slowest_us: AtomicU64,
}

/// Until stable's slowest requests are known nobody hangs before this.
const UNTIL_KNOWN: Duration = Duration::from_secs(30);

impl Gate {
    pub(crate) fn new(
        release: &str,
        guard: Option<Guard>,
        desk: Option<Arc<Desk>>,
        wake: mpsc::Sender<()>,
    ) -> Self {
        Self {
            closed: AtomicBool::new(false),
            probing: AtomicBool::new(false),
            can_probe: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            open_until_ms: AtomicU64::new(0),
            release: release.to_owned(),
            guard,
            numbers: Mutex::new(GuardNumbers::default()),
            desk,
            wake,
            slowest_us: AtomicU64::new(UNTIL_KNOWN.as_micros() as u64),
        }
    }

    /// Returns the age from which on a request without an answer hangs.
    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_us.load(Ordering::Relaxed))
    }

    /// Learns what the slowest in a thousand of stable's requests take.
    pub(crate) fn learn_slowest(&self, us: u64) {
        self.slowest_us.store(us, Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Tells whether the control thread has something to decide: it is shut, or there is a cause for which it is not shut yet,
    /// because both arms fail, or because nobody else answered a moment ago.
    pub(crate) fn is_due(&self) -> bool {
        let judged = || self.desk.as_ref().is_some_and(|desk| desk.judging.because().is_some());
        self.is_closed() || self.numbers().why.is_some() || judged()
    }

    pub(crate) fn is_probing(&self) -> bool {
        self.probing.load(Ordering::Acquire)
    }

    pub(crate) fn probe(&self, probing: bool) {
        self.probing.store(probing, Ordering::Release);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Lets the control thread look, once: it looks often enough by itself, and what it looks at may be the cause for long.
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::Relaxed) {
            let _ = self.wake.try_send(());
        }
    }

    /// Closes it, and lets the control thread see why. For a moment after it was opened in spite of a verdict it stays open.
    pub(crate) fn shut(&self) {
        if boot_ms() < self.open_until_ms.load(Ordering::Relaxed) {
            return;
        }
        // Closing comes before telling anybody: from here on no thread claims the candidate.
        if !self.closed.swap(true, Ordering::AcqRel) {
            // A full channel already holds a wake-up, and the control thread looks at every gate.
            let _ = self.wake.try_send(());
        }
    }

    /// Lets the candidate have traffic again, because nobody else could take it; the guard begins to count anew.
    pub(crate) fn reopen(&self, for_ms: u64) {
        *self.numbers.lock().unwrap_or_else(PoisonError::into_inner) = GuardNumbers::default();
        self.open_until_ms.store(boot_ms() + for_ms, Ordering::Relaxed);
        match &self.desk {
            Some(desk) => desk.judging.begin_again(self),
            None => self.open(),
        }
    }

    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::Release);
    }

    /// Whether half of the requests can go back to stable for a while.
    pub(crate) fn can_probe(&self) -> bool {
        self.can_probe.load(Ordering::Relaxed)
    }

    pub(crate) fn let_probe(&self, can: bool) {
        self.can_probe.store(can, Ordering::Relaxed);
    }

    /// Goes on from what the worker before has counted.
    pub(crate) fn adopt(&self, before: GuardNumbers) {
        self.judge(|numbers, _| {
            numbers.requests += before.requests;
            numbers.errors += before.errors;
            numbers.latency_sum_us += before.latency_sum_us;
            numbers.over_p95_limit += before.over_p95_limit;
        });
    }

    pub(crate) fn numbers(&self) -> GuardNumbers {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns from which age on a request without an answer is too slow for the guard; none: it does not judge by time.
    pub(crate) fn slow_after(&self) -> Option<Duration> {
        let guard = self.guard.as_ref()?;
        guard.max_p95_ms.or(guard.max_mean_ms).map(Duration::from_millis)
    }

    /// Tells whether the guard judges by success: then one that has had no answer for too long has failed.
    pub(crate) fn wants_success(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.max_error_bp.is_some())
    }

    /// Adds to the time of a request that was scored while it was open.
    pub(crate) fn prolong(&self, us: u64) {
        self.judge(|numbers, _| numbers.latency_sum_us += us);
    }

    /// Scores a first attempt: its response head arrived, or it failed before that.
    pub(crate) fn score(&self, error: bool, latency_us: u64) {
        self.judge(|numbers, guard| {
            numbers.requests += 1;
            numbers.errors += u64::from(error);
            numbers.latency_sum_us += latency_us;
            let over = guard.max_p95_ms.is_some_and(|limit| latency_us > limit * 1_000);
            numbers.over_p95_limit += u64::from(over);
        });
    }

    /// Tells whether so many errors are more than the guard allows.
    pub(crate) fn breaks(&self, requests: u64, errors: u64) -> bool {
        let limit = self.guard.as_ref().and_then(|guard| guard.max_error_bp);
        limit.is_some_and(|limit| errors * 10_000 > u64::from(limit) * requests)
    }

    /// Turns a first attempt scored as good into an error: its body broke off.
    pub(crate) fn spoil(&self) {
        self.judge(|numbers, _| numbers.errors += 1);
    }

    fn judge(&self, count: impl FnOnce(&mut GuardNumbers, &Guard)) {
        let Some(guard) = &self.guard else { return };
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.why.is_some() {
            return;
        }
        count(&mut numbers, guard);
        if let Some(why) = violation(guard, &numbers) {
            numbers.why = Some(why);
            self.shut();
        }
    }
}

fn violation(guard: &Guard, numbers: &GuardNumbers) -> Option<String> {
    let requests = numbers.requests;
    if requests == 0 || requests < guard.min_requests {
        return None;
    }
    if let Some(limit) = guard.max_error_bp
        && numbers.errors * 10_000 > u64::from(limit) * requests
    {
        return Some(format!(
            "{} of {requests} requests failed, the guard wants {} to succeed",
            numbers.errors,
            percent(limit)
        ));
    }
    if let Some(limit) = guard.max_mean_ms
        && numbers.latency_sum_us > limit * 1_000 * requests
    {
        let mean_ms = numbers.latency_sum_us / requests / 1_000;
        return Some(format!("mean of {requests} requests is {mean_ms} ms, limit {limit} ms"));
    }
    if let Some(limit) = guard.max_p95_ms
        && numbers.over_p95_limit * 20 > requests
    {
        let over = numbers.over_p95_limit;
        return Some(format!("{over} of {requests} requests took longer than {limit} ms, limit 1 in 20"));
    }
    None
}

/// Returns what is left of everything after `limit` basis points, in percent: `99%`, `99.5%`.
fn percent(limit: u16) -> String {
    let least = WHOLE.saturating_sub(limit);
    match (least / 100, least % 100) {
        (whole, 0) => format!("{whole}%"),
        (whole, rest) => format!("{whole}.{rest:02}%").replace("0%", "%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(guard: Guard) -> Gate {
        Gate::new("r", Some(guard), None, mpsc::channel(1).0)
    }

    fn guard() -> Guard {
        Guard { min_requests: 4, max_error_bp: None, max_mean_ms: None, max_p95_ms: None }
    }

    #[test]
    fn errors_trip_at_the_deciding_request() {
        let gate = gate(Guard { max_error_bp: Some(2_500), ..guard() });
        for error in [true, false, false, false] {
            gate.score(error, 1);
        }
        assert!(!gate.is_closed(), "1 of 4 is the limit");
        gate.spoil();
        assert!(gate.is_closed());
        assert_eq!(gate.numbers().requests, 4);
    }

    #[test]
    fn mean_and_tail_trip_too() {
        let mean = gate(Guard { max_mean_ms: Some(10), ..guard() });
        (0..4).for_each(|_| mean.score(false, 10_001));
        assert!(mean.is_closed());
        let tail = gate(Guard { max_p95_ms: Some(10), ..guard() });
        (0..19).for_each(|_| tail.score(false, 10));
        tail.score(false, 20_000);
        assert!(!tail.is_closed(), "1 in 20 is the limit");
        tail.score(false, 20_000);
        assert!(tail.is_closed());
    }
}
