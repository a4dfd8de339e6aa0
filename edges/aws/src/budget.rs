//! How often one account and region is asked at most, by all releases of this process together.
//!
//! CloudWatch counts its requests per account and region, so what this process leaves over is what everything else in the
//! account has: dashboards, autoscaling, other drivers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A quarter of the 50 `GetMetricData` requests a second that an account has in a region.
pub(crate) const DATA: Rate = Rate { each: Duration::from_millis(80), burst: 10 };
/// A quarter of the 9 `DescribeAlarms` requests a second that an account has in a region.
pub(crate) const ALARMS: Rate = Rate { each: Duration::from_millis(450), burst: 2 };

/// The first pause after a request that is to be repeated, and the longest. Which part of it passes is chance.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(8);

/// One request in each `each`, and so many more at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    each: Duration,
    burst: u32,
}

/// What is left of a rate.
pub(crate) struct Budget {
    rate: Rate,
    /// When the next request may go at the latest, were there no burst.
    next: Mutex<Instant>,
}

impl Budget {
    pub(crate) fn new(rate: Rate) -> Budget {
        Budget { rate, next: Mutex::new(Instant::now()) }
    }

    /// Waits until one more request may go.
    ///
    /// # Cancel safety
    /// A request that is given up was paid for: the next one waits for it too.
    pub(crate) async fn take(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let saved = self.rate.each * self.rate.burst;
            *next = (*next).max(now.checked_sub(saved).unwrap_or(now)) + self.rate.each;
            *next
        };
        sleep_until(at).await;
    }
}

/// Returns the pause before the next try after `failed` ones, of which `chance` (0 to 1) passes: full jitter, so that those
/// who were refused together do not come back together.
pub(crate) fn pause(failed: u32, chance: f64) -> Duration {
    let most = FIRST.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1))).min(LONGEST);
    most.mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_then_the_rate_holds_for_everybody() {
        let budget = Budget::new(Rate { each: Duration::from_secs(1), burst: 3 });
        tokio::time::advance(Duration::from_secs(60)).await;
        let begin = Instant::now();
        for _ in 0..3 {
            budget.take().await;
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
        let (_, _) = tokio::join!(budget.take(), budget.take());
        assert_eq!(begin.elapsed().as_secs(), 2);
        // What was not used for a while is not saved for ever.
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let begin = Instant::now();
        for _ in 0..5 {
            budget.take().await;
        }
        assert_eq!(begin.elapsed().as_secs(), 2);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_chance_takes_any_part_of_them() {
        let longest = |failed| pause(failed, 1.0).as_millis();
        assert_eq!([1, 2, 3, 5, 6, 60].map(longest), [500, 1_000, 2_000, 8_000, 8_000, 8_000]);
        assert_eq!((pause(3, 0.0).as_millis(), pause(3, 0.5).as_millis()), (0, 1_000));
    }
}
