//! What one thread thinks of a target by what it sees of it: how fast it answers, whether it fails, how new it is.

use std::cell::Cell;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long a failing target gets nothing at first; doubled each time that it fails again.
const EJECTED_FOR: Duration = Duration::from_secs(1);
/// No target is ejected for longer than this times [`EJECTED_FOR`].
const MOST_TIMES: u32 = 16;
/// Answers older than this hardly count for the estimate of a target's latency.
const FORGET: Duration = Duration::from_secs(5);
/// No answer stands for more time than this, however quiet the service is.
const MOST_WEIGHT: Duration = Duration::from_millis(500);
/// An estimate that nothing refreshes is half of it after this: who was slow once gets another try.
const FADE: Duration = Duration::from_secs(1);
/// Differences below this are the machine's, not the target's.
const NOISE_US: f64 = 1_000.0;
/// A target that begins slowly begins with this share of an equal one.
const FIRST_SHARE: f64 = 0.1;

/// How requests are spread over the targets of a track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Failures in a row, as one thread sees them, until a target is left out for a while; 0: never.
    #[serde(default = "eject_after")]
    pub eject_after: u32,
    /// How long a target that is new in its track, or back, gets a growing share; 0: it gets a whole one at once.
    #[serde(default)]
    pub slow_start_ms: u64,
}

impl Default for Balance {
    fn default() -> Self {
        Self { eject_after: eject_after(), slow_start_ms: 0 }
    }
}

fn eject_after() -> u32 {
    3
}

/// What is known of one target. Single-threaded.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    /// Failed: asked only when the others failed too.
    ejected_until: Cell<Option<Instant>>,
    /// Failures in a row.
    failures: Cell<u32>,
    /// How often it was ejected without an answer in between.
    ejections: Cell<u32>,
    /// It has answered once. The first answer bears the connection and cold caches: it says nothing of the next.
    warm: Cell<bool>,
    /// Estimate of the time until its response heads, in microseconds, and when it last changed.
    latency: Cell<Option<(f64, Instant)>>,
    /// It joined targets that were there already, or came back.
    joined: Cell<Option<Instant>>,
}

impl Trust {
    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| now < until)
    }

    /// Notes an answer that was passed on whole.
    pub(crate) fn answered(&self) {
        self.failures.set(0);
        if self.ejections.replace(0) > 0 {
            self.ejected_until.set(None);
            self.join(Instant::now());
        }
    }

    /// Notes that a request came to nothing by the target's fault.
    pub(crate) fn failed(&self, now: Instant, after: u32) {
        let failures = self.failures.get() + 1;
        self.failures.set(failures);
        // One that was ejected has not answered since: it is on probation.
        if after > 0 && (failures >= after || self.ejections.get() > 0) && !self.is_ejected(now) {
            self.eject(now);
        }
    }

    /// Leaves the target out for a while.
    pub(crate) fn eject(&self, now: Instant) {
        let times = self.ejections.get();
        self.ejections.set(times.saturating_add(1));
        let times = 1_u32.checked_shl(times).map_or(MOST_TIMES, |times| times.min(MOST_TIMES));
        self.ejected_until.set(Some(now + EJECTED_FOR * times));
    }

    /// Trusts the target again, and lets it begin slowly: somebody has seen it well.
    pub(crate) fn join(&self, now: Instant) {
        self.failures.set(0);
        self.ejections.set(0);
        self.ejected_until.set(None);
        self.joined.set(Some(now));
    }

    /// Notes the time until a response head.
    pub(crate) fn took(&self, latency_us: u64, failed: bool, now: Instant) {
        if !self.warm.replace(true) {
            return;
        }
        let sample = latency_us as f64;
        // Begun with nothing: the weight of an answer is the time that it stands for, so that a single slow one is no
        // reason to leave a target alone.
        let (known, since) = match self.latency.get() {
            None if failed => return,
            known => known.unwrap_or((0.0, now)),
        };
        let passed = now.saturating_duration_since(since).min(MOST_WEIGHT).as_secs_f64();
        let next = known + (sample - known) * passed / (passed + FORGET.as_secs_f64());
        // Failing is quick: it must not draw more requests, and the estimate must not fade meanwhile.
        let next = if failed { next.max(known) } else { next };
        self.latency.set(Some((next, now)));
    }

    /// Returns the estimate of the latency, which fades.
    fn latency(&self, now: Instant) -> Option<f64> {
        let (known, since) = self.latency.get()?;
        let passed = now.saturating_duration_since(since).as_secs_f64();
        Some(known * FADE.as_secs_f64() / (passed + FADE.as_secs_f64()))
    }

    /// Returns the share of an equal target that this one shall get, up to 1.
    fn share(&self, now: Instant, slow_start: Duration) -> f64 {
        let Some(joined) = self.joined.get().filter(|_| !slow_start.is_zero()) else { return 1.0 };
        let passed = now.saturating_duration_since(joined).as_secs_f64();
        (passed / slow_start.as_secs_f64()).clamp(FIRST_SHARE, 1.0)
    }
}

/// Tells whether the second of two targets shall take the request; each with its requests in flight.
pub(crate) fn second_is_better(
    one: (&Trust, u64),
    other: (&Trust, u64),
    now: Instant,
    balance: Balance,
) -> bool {
    let second = quicker((one.0.latency(now), one.1), (other.0.latency(now), other.1));
    let slow_start = Duration::from_millis(balance.slow_start_ms);
    if slow_start.is_zero() {
        return second;
    }
    let (one, other) = (one.0.share(now, slow_start), other.0.share(now, slow_start));
    let (chosen, left) = if second { (other, one) } else { (one, other) };
    // Two that are equally new share as two that are not: a whole new track is not held back by itself.
    let kept = chosen >= left || fastrand::f64() < chosen / left;
    second == kept
}

/// Compares requests in flight × latency. Latencies within half of each other, or within a millisecond, are the same:
/// noise must not give all requests of a quiet service to one target.
fn quicker(one: (Option<f64>, u64), other: (Option<f64>, u64)) -> bool {
    let known = (one.0.map(|us| us + NOISE_US), other.0.map(|us| us + NOISE_US));
    match known {
        (Some(first), Some(second)) if first.max(second) > 1.5 * first.min(second) => {
            second * (other.1 + 1) as f64 <= first * (one.1 + 1) as f64
        }
        _ => other.1 < one.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_target_is_ejected_after_its_failures_in_a_row_and_longer_each_time() {
        let (trust, now) = (Trust::default(), Instant::now());
        trust.failed(now, 3);
        trust.failed(now, 3);
        trust.answered();
        trust.failed(now, 3);
        trust.failed(now, 3);
        assert!(!trust.is_ejected(now));
        trust.failed(now, 3);
        assert!(trust.is_ejected(now) && !trust.is_ejected(now + SECOND));
        // On probation one failure is enough.
        trust.failed(now + SECOND, 3);
        assert!(trust.is_ejected(now + 2 * SECOND) && !trust.is_ejected(now + 3 * SECOND));
        for _ in 0..40 {
            trust.eject(now);
        }
        assert!(!trust.is_ejected(now + 16 * SECOND), "never for longer");
        trust.answered();
        assert!(!trust.is_ejected(now));
        trust.failed(now, 3);
        assert!(!trust.is_ejected(now), "trusted like any other again");
    }

    #[test]
    fn nobody_is_ejected_where_that_is_switched_off() {
        let (trust, now) = (Trust::default(), Instant::now());
        (0..10).for_each(|_| trust.failed(now, 0));
        assert!(!trust.is_ejected(now));
    }

    #[test]
    fn latency_times_flight_decides_where_it_differs() {
        assert!(!quicker((Some(10e3), 0), (Some(12e3), 0)), "noise");
        assert!(!quicker((Some(100.0), 0), (Some(400.0), 0)), "noise");
        assert!(quicker((Some(10e3), 1), (Some(12e3), 0)));
        assert!(!quicker((Some(10e3), 2), (Some(40e3), 0)), "33 against 41");
        assert!(quicker((Some(10e3), 4), (Some(40e3), 0)), "55 against 41");
        assert!(!quicker((None, 0), (Some(1.0), 0)), "unknown is no slower than known");
    }

    #[test]
    fn the_estimate_follows_and_fades_and_failures_do_not_lower_it() {
        let (trust, now) = (Trust::default(), Instant::now());
        trust.took(1_000_000, false, now);
        trust.took(1, true, now);
        assert_eq!(trust.latency(now), None, "the first answer is a cold one, and failing is no measure");
        let half = SECOND / 2;
        let estimate = |n: u32| trust.latency(now + half * n).map(f64::round);
        trust.took(1_100, false, now);
        assert_eq!(estimate(0), Some(0.0), "one answer of no time says nothing");
        for n in 1..100 {
            trust.took(1_100, false, now + half * n);
        }
        assert_eq!(estimate(99), Some(1_100.0));
        trust.took(1, true, now + half * 100);
        assert_eq!(estimate(100), Some(1_100.0), "a failure neither lowers it nor lets it fade");
        trust.took(12_100, false, now + half * 101);
        assert_eq!(estimate(101), Some(2_100.0), "a single slow one weighs little");
        assert_eq!(estimate(103), Some(1_050.0), "and fades");
    }

    #[test]
    fn a_share_grows_from_a_tenth_to_a_whole() {
        let (trust, now, window) = (Trust::default(), Instant::now(), 10 * SECOND);
        assert_eq!(trust.share(now, window), 1.0, "it was always there");
        trust.join(now);
        let shares = [0, 5, 10].map(|s| trust.share(now + s * SECOND, window));
        assert_eq!(shares, [0.1, 0.5, 1.0]);
        assert_eq!(trust.share(now, Duration::ZERO), 1.0);
    }
}
