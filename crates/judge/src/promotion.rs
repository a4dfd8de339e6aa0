//! Bets against "the candidate is worse by a margin or more": what they win is leave to advance.

use crate::math::{bisect, ln};

/// The logarithms of what each outcome multiplies the stake by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Factors {
    /// For a bad outcome and a good one at stable.
    pub(crate) stable: [f64; 2],
    /// The same at the candidate.
    pub(crate) candidate: [f64; 2],
}

impl Factors {
    /// The factors for H₀: p_candidate ≥ p_stable + margin, where `theta` is what both are believed to be and `share` is
    /// the candidate's. None where there is nothing to compare or the margin leaves no room.
    pub(crate) fn new(theta: f64, margin: f64, share: f64) -> Option<Factors> {
        let (low, high) = ((theta - margin).max(0.0), theta.min(1.0 - margin));
        if !(share > 0.0 && share < 1.0 && margin > 0.0 && low < high) {
            return None;
        }
        // Where the slopes of the expected factor in p_stable and p_candidate are opposite, it depends on their
        // difference alone.
        let a = bisect(low, high, 60, |a| {
            let b = a + margin;
            (1.0 - share) * (theta - a) / (a * (1.0 - a)) + share * (theta - b) / (b * (1.0 - b)) > 0.0
        });
        let b = a + margin;
        // So no factor is above e²¹, and the sums of an epoch stay within 63 bits.
        let usable = |p: f64| p > 1e-9 && p < 1.0 - 1e-9;
        (usable(a) && usable(b)).then(|| Factors {
            stable: [ln(theta / a), ln((1.0 - theta) / (1.0 - a))],
            candidate: [ln(theta / b), ln((1.0 - theta) / (1.0 - b))],
        })
    }

    /// Nats won per request of the candidate, with stable's that come along, where both fail at `theta`.
    pub(crate) fn growth(&self, theta: f64, share: f64) -> f64 {
        let mean = |[bad, good]: [f64; 2]| theta * bad + (1.0 - theta) * good;
        mean(self.candidate) + (1.0 - share) / share * mean(self.stable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::exp;

    /// The expected factor of one request.
    fn expected(factors: Factors, share: f64, stable: f64, candidate: f64) -> f64 {
        let mean = |[bad, good]: [f64; 2], p: f64| p * exp(bad) + (1.0 - p) * exp(good);
        (1.0 - share) * mean(factors.stable, stable) + share * mean(factors.candidate, candidate)
    }

    #[test]
    fn who_is_worse_by_the_margin_or_more_never_wins_on_average() {
        for share in [0.01, 0.05, 0.25, 0.5, 0.9] {
            for theta in [0.00005, 0.001, 0.01, 0.2] {
                for margin in [0.005, 0.02, 0.05] {
                    let factors = Factors::new(theta, margin, share).unwrap();
                    for stable in [0.0, 0.0003, 0.01, 0.3, 0.7] {
                        let at = expected(factors, share, stable, stable + margin);
                        assert!((at - 1.0).abs() < 1e-9, "{share} {theta} {margin} {stable}: {at}");
                        assert!(expected(factors, share, stable, stable + 2.0 * margin) <= 1.0 + 1e-9);
                    }
                    assert!(factors.growth(theta, share) > 0.0);
                }
            }
        }
    }

    #[test]
    fn without_both_arms_there_is_nothing_to_compare() {
        assert_eq!(Factors::new(0.01, 0.01, 0.0), None);
        assert_eq!(Factors::new(0.01, 0.01, 1.0), None);
        assert_eq!(Factors::new(0.01, 0.0, 0.5), None);
    }
}
