//! When to ask. Pure: the time is an argument, and chance is given.

use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(12 * 3_600);

/// Nobody has a certificate renewed more often than this because an authority says so.
const HINTED_AT_MOST_EVERY: i64 = 86_400;

/// Returns the second, since 1970, from which a certificate is to be renewed, given its first and last second: when a third
/// of its life is left, or up to a thirtieth of its life earlier. `chance` is between 0 and 1; it spreads those that were
/// issued together. A window that the authority suggests (RFC 9773) makes it earlier, never later: whatever says so may be
/// broken for as long as the certificate lives.
pub fn renew_at((from, to): (i64, i64), suggested: Option<(i64, i64)>, chance: f64) -> i64 {
    let chance = chance.clamp(0.0, 1.0);
    let life = to.saturating_sub(from).max(0);
    let planned = to - life / 3 - (life as f64 / 30.0 * chance) as i64;
    let Some((first, last)) = suggested else { return planned };
    let hinted = first.saturating_add((last.saturating_sub(first).max(0) as f64 * chance) as i64);
    planned.min(hinted.max(from.saturating_add(HINTED_AT_MOST_EVERY.min(life / 10))))
}

/// Returns how long to wait after the given number of failures in a row: a minute, and three times as long after each
/// further one, up to 12 hours. So no more than five orders fail within an hour, which is what Let's Encrypt allows.
pub fn pause(failures: u32) -> Duration {
    let factor = 3_u32.saturating_pow(failures.saturating_sub(1));
    first_pause().saturating_mul(factor).min(LONGEST_PAUSE)
}

/// Tests shorten it: what they wait for is that something happens, not when.
fn first_pause() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(ms) = std::env::var_os("CUTOVER_TEST_ACME_PAUSE_MS")
        && let Some(ms) = ms.to_str().and_then(|ms| ms.parse().ok())
    {
        return Duration::from_millis(ms);
    }
    FIRST_PAUSE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_the_life_is_left_and_chance_only_makes_it_earlier() {
        let day = 86_400;
        assert_eq!(renew_at((0, 90 * day), None, 0.0), 60 * day);
        assert_eq!(renew_at((0, 90 * day), None, 1.0), 57 * day);
        assert_eq!(renew_at((0, 6 * day), None, 0.0), 4 * day);
        assert_eq!(renew_at((day, day), None, 1.0), day, "one that never was valid");
    }

    #[test]
    fn a_suggestion_makes_it_earlier_but_not_a_loop() {
        let day = 86_400;
        let suggested =
            |first, last, chance| renew_at((0, 90 * day), Some((first * day, last * day)), chance);
        assert_eq!(suggested(10, 20, 0.0), 10 * day);
        assert_eq!(suggested(10, 20, 0.5), 15 * day);
        assert_eq!(suggested(80, 85, 0.0), 60 * day, "no later than planned");
        assert_eq!(suggested(-5, -4, 0.0), day, "it is about to be revoked, or the authority is broken");
        assert_eq!(renew_at((0, 3_600), Some((-9, -9)), 0.0), 360);
        assert_eq!(suggested(i64::MIN / day, i64::MAX / day, 1.0), day, "nonsense does not overflow");
    }

    #[test]
    fn five_orders_fail_within_an_hour_at_most() {
        let (mut at, mut begun) = (Duration::ZERO, 0);
        while at < Duration::from_secs(3_600) {
            begun += 1;
            at += pause(begun);
        }
        assert_eq!(begun, 5);
        assert_eq!((pause(1), pause(2)), (FIRST_PAUSE, FIRST_PAUSE * 3));
        assert_eq!((pause(30), pause(u32::MAX)), (LONGEST_PAUSE, LONGEST_PAUSE));
    }
}
