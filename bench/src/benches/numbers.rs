//! Samples and their quantiles.

use std::time::Duration;

use serde::Serialize;

/// Spans of time, in microseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<f64>);

/// What a table shows of samples.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
}

impl Samples {
    pub(super) fn add(&mut self, span: Duration) {
        self.add_us(span.as_secs_f64() * 1e6);
    }

    pub(super) fn add_us(&mut self, us: f64) {
        self.0.push(us);
    }

    pub(super) fn extend(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    /// Returns the smallest sample that at least the share `quantile` of all does not exceed; 0 without any.
    pub(super) fn quantile(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (quantile * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied().unwrap_or(0.0)
    }

    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(super) fn spread(&self) -> Spread {
        let tenth = |us: f64| (us * 10.0).round() / 10.0;
        Spread {
            count: self.0.len(),
            p50_us: tenth(self.median()),
            p90_us: tenth(self.quantile(0.9)),
            p99_us: tenth(self.quantile(0.99)),
            max_us: tenth(self.quantile(1.0)),
        }
    }
}

impl Spread {
    /// Returns one row of a table: p50, p90, p99, max in milliseconds.
    pub(super) fn row(&self, label: &str) -> String {
        let ms = |us: f64| us / 1_000.0;
        format!(
            "  {label:<44} {:>9.3} {:>9.3} {:>9.3} {:>9.3}",
            ms(self.p50_us),
            ms(self.p90_us),
            ms(self.p99_us),
            ms(self.max_us)
        )
    }

    /// Returns the head of such a table.
    pub(super) fn head(title: &str) -> String {
        format!("  {title:<44} {:>9} {:>9} {:>9} {:>9}", "p50 ms", "p90 ms", "p99 ms", "max ms")
    }
}

/// Returns the places, counted from 1 in ascending order, of the two among `count` values between which the median of all
/// that could have been measured lies with a chance of 95 %; none where so few values cannot say it.
pub(super) fn median_between(count: usize) -> Option<(usize, usize)> {
    // How many of them lie below it is how many of so many coins show heads.
    let (mut chance, mut below, mut place) = (0.5f64.powi(i32::try_from(count).ok()?), 0.0, 0);
    while below + chance <= 0.025 {
        below += chance;
        chance *= (count - place) as f64 / (place + 1) as f64;
        place += 1;
    }
    (place > 0).then_some((place, count + 1 - place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let mut samples = Samples::default();
        assert_eq!(samples.median(), 0.0);
        (1..=200).rev().for_each(|ms| samples.add(Duration::from_millis(ms)));
        assert_eq!((samples.median(), samples.quantile(0.99), samples.quantile(1.0)), (100e3, 198e3, 200e3));
    }

    #[test]
    fn the_median_lies_between_two_of_the_values() {
        let between = [5, 6, 10, 50, 100].map(median_between);
        assert_eq!(between, [None, Some((1, 6)), Some((2, 9)), Some((18, 33)), Some((40, 61))]);
    }
}
