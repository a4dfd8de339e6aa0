//! Which periods are final: pure arithmetic on milliseconds since 1970.
//!
//! CloudWatch shows a period before all of its data came, and lets it grow. A period counts as final when it ended `settle`
//! ago, and only what is final is read.

/// Periods of one length, with the time after their end at which they are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Periods {
    /// Their length.
    pub(crate) length_ms: u64,
    /// From the end of one to its being final.
    pub(crate) settle_ms: u64,
}

impl Periods {
    /// Returns where the newest final period ends.
    pub(crate) fn last_final(self, now_ms: u64) -> u64 {
        let settled = now_ms.saturating_sub(self.settle_ms);
        settled - settled % self.length_ms
    }

    /// Returns where the first period begins that lies wholly after a moment.
    pub(crate) fn first_after(self, moment_ms: u64) -> u64 {
        moment_ms.div_ceil(self.length_ms).saturating_mul(self.length_ms)
    }

    /// Returns where the period begins that is `count` before the one that begins at `start_ms`.
    pub(crate) fn back(self, start_ms: u64, count: u64) -> u64 {
        start_ms.saturating_sub(self.length_ms.saturating_mul(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_final_when_it_has_settled_and_not_a_moment_before() {
        let periods = Periods { length_ms: 60_000, settle_ms: 120_000 };
        assert_eq!(periods.last_final(600_000), 480_000);
        assert_eq!(periods.last_final(659_999), 480_000);
        assert_eq!(periods.last_final(660_000), 540_000);
        assert_eq!(periods.last_final(0), 0);
    }

    #[test]
    fn only_a_period_that_began_after_the_bake_is_of_the_bake() {
        let periods = Periods { length_ms: 60_000, settle_ms: 0 };
        assert_eq!(periods.first_after(120_000), 120_000);
        assert_eq!(periods.first_after(120_001), 180_000);
        assert_eq!((periods.back(180_000, 2), periods.back(60_000, 5)), (60_000, 0));
    }
}
