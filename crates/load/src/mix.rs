//! Which scenario comes next: by weights, evenly spread, the same in each run.

/// Deals scenarios out so that at any moment each has had its share, within one request per scenario.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    weights: Vec<i64>,
    /// What each has earned and not had, in parts of `total`.
    credit: Vec<i64>,
    total: i64,
}

impl Mix {
    /// Deals by `weights`, of which there is at least one, none of them 0.
    pub(crate) fn new(weights: impl IntoIterator<Item = u32>) -> Mix {
        let weights: Vec<i64> = weights.into_iter().map(i64::from).collect();
        Mix { credit: vec![0; weights.len()], total: weights.iter().sum(), weights }
    }

    /// Returns the index of the next scenario.
    pub(crate) fn deal(&mut self) -> usize {
        if self.weights.len() == 1 {
            return 0;
        }
        let mut richest = 0;
        for at in 0..self.weights.len() {
            self.credit[at] += self.weights[at];
            if self.credit[at] > self.credit[richest] {
                richest = at;
            }
        }
        self.credit[richest] -= self.total;
        richest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_and_spread() {
        let mut mix = Mix::new([5, 1, 1]);
        let round: Vec<usize> = (0..7).map(|_| mix.deal()).collect();
        assert_eq!(round, [0, 0, 1, 0, 2, 0, 0]);
        let mut mix = Mix::new([1000, 1, 499]);
        let mut dealt = [0; 3];
        (0..15_000).for_each(|_| dealt[mix.deal()] += 1);
        assert_eq!(dealt, [10_000, 10, 4_990]);
    }

    #[test]
    fn nobody_is_ever_a_request_ahead_or_behind() {
        let weights = [7_u32, 3, 2];
        let mut mix = Mix::new(weights);
        let mut dealt = [0.0_f64; 3];
        for n in 1..=1000 {
            dealt[mix.deal()] += 1.0;
            for (dealt, weight) in dealt.iter().zip(weights) {
                assert!((dealt - f64::from(n) * f64::from(weight) / 12.0).abs() < 1.5, "after {n}");
            }
        }
    }
}
