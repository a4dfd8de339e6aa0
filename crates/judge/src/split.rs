//! Whether the requests were really split as they were meant to be.
//!
//! All bets on outcomes hold the probability of the lottery for known. If something else decides who gets the candidate, a
//! circuit breaker say, they prove nothing, and the verdict is void.
//!
//! Two bets are made on the assigned arms alone: H₀ q ≥ 0.92·s against 0.6·s, and H₀ q ≤ 1.08·s against 1.5·s. The
//! likelihood ratio of two Bernoulli rates is monotone, so each is a fair bet at the edge of its H₀ and a losing one
//! within. Splits that are wrong by less do no harm (they were simulated), and an operator's rounding is no alarm.

use crate::math::{Nats, ln, nats};
use crate::table::share;

/// 1/1000 for each side.
const ALPHA: f64 = 0.001;
const SIDES: [(f64, f64); 2] = [(0.92, 0.6), (1.08, 1.5)];

/// What the assigned requests, by arm, add to the wealth of each side.
pub(crate) fn logs(share_bp: u16, assigned: [u64; 2]) -> [Nats; 2] {
    let share = share(share_bp);
    if share <= 0.0 || share >= 1.0 {
        return [0, 0];
    }
    SIDES.map(|(edge, suspected)| {
        // Odds, for 1.5 times a share of 90 % is no probability.
        let [edge, suspected] = [edge, suspected].map(|times| times * share / (times * share + 1.0 - share));
        let steps = [nats(ln((1.0 - suspected) / (1.0 - edge))), nats(ln(suspected / edge))];
        let sum: i128 = assigned.iter().zip(steps).map(|(n, step)| i128::from(*n) * i128::from(step)).sum();
        sum.clamp(i128::from(Nats::MIN / 2), i128::from(Nats::MAX / 2)) as Nats
    })
}

/// Whether one of the sides is proven.
pub(crate) fn mismatch(split: [Nats; 2]) -> bool {
    split.iter().any(|side| *side >= nats(-ln(ALPHA)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_or_twice_the_share_is_noticed_and_a_twentieth_less_is_not() {
        for share_bp in [100u64, 1_000, 5_000] {
            let of = |promille: u64| {
                let n = 10_000_000 / share_bp;
                let candidate = n * share_bp * promille / 10_000_000;
                mismatch(logs(share_bp as u16, [n - candidate, candidate]))
            };
            assert!(of(500) && of(1_900), "{share_bp}");
            assert!(!of(1_000) && !of(960) && !of(1_040), "{share_bp}");
        }
    }

    #[test]
    fn one_arm_alone_has_no_split() {
        assert_eq!(logs(0, [1_000_000, 5]), [0, 0]);
        assert_eq!(logs(10_000, [0, 1_000_000]), [0, 0]);
    }
}
