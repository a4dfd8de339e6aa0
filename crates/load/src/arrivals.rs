//! When requests are due at a constant rate. Pure: the time since the beginning is an argument.

use std::time::Duration;

/// How late a request may be sent. Later it is not sent at all: caught up in one burst, requests would come faster than the
/// rate, and the target would be blamed for what was sent to it.
pub(crate) const LATEST: Duration = Duration::from_millis(20);

/// The times at which requests are due: the `n`-th at `n / rate`.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    per_1000_s: u64,
    total: u64,
    next: u64,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send a request that was due then.
    Send(Duration),
    /// This request was due then, and it is too late to send it.
    Missed(Duration),
    /// Nothing until then.
    Wait(Duration),
    /// All requests had their time.
    Over,
}

impl Arrivals {
    /// Plans the requests of `span` at `per_1000_s` requests in a thousand seconds.
    pub(crate) fn new(per_1000_s: u64, span: Duration) -> Arrivals {
        // The first is due at once, and none at the very end.
        let total = (span.as_nanos() * u128::from(per_1000_s)).div_ceil(1_000_000_000_000);
        Arrivals { per_1000_s, total: u64::try_from(total).unwrap_or(u64::MAX), next: 0 }
    }

    /// Takes the next request if it is due `now`. Called again and again it says each request once, in order.
    pub(crate) fn take(&mut self, now: Duration) -> Due {
        if self.next >= self.total {
            return Due::Over;
        }
        let due = self.at(self.next);
        if now < due {
            return Due::Wait(due);
        }
        self.next += 1;
        if now - due > LATEST { Due::Missed(due) } else { Due::Send(due) }
    }

    fn at(&self, number: u64) -> Duration {
        // Rounded up: rounded down it would be a little faster than the rate.
        let ns = (u128::from(number) * 1_000_000_000_000).div_ceil(u128::from(self.per_1000_s.max(1)));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn requests_are_due_at_even_times() {
        let mut arrivals = Arrivals::new(200_000, MS * 25);
        assert_eq!(arrivals.total, 5);
        for n in 0..5 {
            assert_eq!(arrivals.take(MS * (5 * n)), Due::Send(MS * (5 * n)));
            let next = if n < 4 { Due::Wait(MS * (5 * n + 5)) } else { Due::Over };
            assert_eq!(arrivals.take(MS * (5 * n)), next);
        }
    }

    #[test]
    fn a_slow_rate_has_its_first_request_at_once() {
        let mut arrivals = Arrivals::new(500, MS * 3000);
        assert_eq!(arrivals.total, 2);
        assert_eq!(arrivals.take(Duration::ZERO), Due::Send(Duration::ZERO));
        assert_eq!(arrivals.take(MS), Due::Wait(MS * 2000));
    }

    #[test]
    fn what_is_too_late_is_not_sent() {
        let mut arrivals = Arrivals::new(1_000_000, MS * 100);
        let said: Vec<Due> = (0..61).map(|_| arrivals.take(MS * 60)).collect();
        assert_eq!(said.iter().filter(|due| matches!(due, Due::Missed(_))).count(), 40);
        assert_eq!(said[39..41], [Due::Missed(MS * 39), Due::Send(MS * 40)]);
        assert_eq!(arrivals.take(MS * 60), Due::Wait(MS * 61));
    }

    /// Whoever asks, and however late: no window has more requests than the rate allows in it and in the `LATEST` before.
    #[test]
    fn no_window_ever_has_more_than_the_rate() {
        for seed in 1..=50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let per_1000_s = random.u64(500..5_000_000);
            let span = MS * random.u32(50..2000);
            let mut arrivals = Arrivals::new(per_1000_s, span);
            let (mut now, mut sent) = (Duration::ZERO, Vec::new());
            loop {
                match arrivals.take(now) {
                    Due::Send(_) => sent.push(now),
                    Due::Missed(_) => {}
                    Due::Wait(until) => now = until,
                    Due::Over => break,
                }
                if random.u8(0..20) == 0 {
                    now += Duration::from_micros(random.u64(0..200_000));
                }
            }
            for (first, from) in sent.iter().enumerate() {
                for (last, to) in sent.iter().enumerate().skip(first) {
                    let window = (*to - *from + LATEST).as_secs_f64();
                    let most = window * per_1000_s as f64 / 1000.0 + 1.0;
                    assert!((last - first + 1) as f64 <= most + 1e-6, "seed {seed}: {from:?} to {to:?}");
                }
            }
        }
    }
}
