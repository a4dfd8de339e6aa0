//! Latencies in an HDR histogram, and the text by which other tools read it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;

/// Three digits: a value is at most a thousandth off.
const DIGITS: u8 = 3;
/// What the encoding of HdrHistogram calls itself: version 2, counts of variable length.
const COOKIE: u32 = 0x1c84_9303 | 0x10;

/// Latencies in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    counts: Histogram<u64>,
    /// Exact, where the histogram's mean is a thousandth off.
    sum_us: u64,
}

impl Latencies {
    pub(crate) fn new(longest: Duration) -> Latencies {
        let longest = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX).max(1_000);
        let counts = Histogram::new_with_bounds(1, longest.saturating_mul(2), DIGITS);
        Latencies { counts: counts.expect("1 to at least 2000 with 3 digits is a histogram"), sum_us: 0 }
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts.saturating_record(us.max(1));
        self.sum_us = self.sum_us.saturating_add(us);
    }

    pub(crate) fn merge(&mut self, other: &Latencies) {
        // Both have the same bounds: they are of one test.
        let _ = self.counts.add(&other.counts);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    pub(crate) fn mean_us(&self) -> u64 {
        self.sum_us.checked_div(self.counts.len()).unwrap_or(0)
    }

    pub(crate) fn quantile_us(&self, quantile: f64) -> u64 {
        if self.counts.is_empty() { 0 } else { self.counts.value_at_quantile(quantile) }
    }

    pub(crate) fn max_us(&self) -> u64 {
        if self.counts.is_empty() { 0 } else { self.counts.max() }
    }

    /// Returns it as the other implementations of HdrHistogram write it (V2, not compressed, in base64): paste it into one
    /// of their tools.
    pub(crate) fn text(&self) -> String {
        let mut counts = Vec::new();
        let mut zeros = 0_i64;
        if !self.counts.is_empty() {
            let last = self.counts.max();
            // One step for each counter, in their order.
            for step in self.counts.iter_all() {
                match step.count_at_value() {
                    0 => zeros += 1,
                    count => {
                        if zeros > 0 {
                            zigzag(&mut counts, -std::mem::take(&mut zeros));
                        }
                        zigzag(&mut counts, i64::try_from(count).unwrap_or(i64::MAX));
                    }
                }
                if step.value_iterated_to() >= last {
                    break;
                }
            }
        }
        let mut bytes = Vec::with_capacity(40 + counts.len());
        bytes.extend(COOKIE.to_be_bytes());
        bytes.extend(u32::try_from(counts.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(0_u32.to_be_bytes());
        bytes.extend(u32::from(DIGITS).to_be_bytes());
        bytes.extend(self.counts.low().to_be_bytes());
        bytes.extend(self.counts.high().to_be_bytes());
        bytes.extend(1.0_f64.to_be_bytes());
        bytes.extend(counts);
        STANDARD.encode(bytes)
    }
}

/// Appends a number as ZigZag LEB128 writes it: small ones, negative too, take one byte; none takes more than nine.
fn zigzag(bytes: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    for _ in 0..8 {
        let low = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
    bytes.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_a_thousandth_off_at_most_and_the_mean_is_exact() {
        let mut latencies = Latencies::new(Duration::from_secs(10));
        assert_eq!((latencies.mean_us(), latencies.quantile_us(0.99), latencies.max_us()), (0, 0, 0));
        (1..=10_000).for_each(|us| latencies.add(Duration::from_micros(us)));
        assert_eq!(latencies.mean_us(), 5000);
        for (quantile, exact) in [(0.5, 5000.0), (0.95, 9500.0), (0.99, 9900.0), (1.0, 10_000.0)] {
            let seen = latencies.quantile_us(quantile) as f64;
            assert!((seen - exact).abs() / exact <= 0.001, "{quantile}: {seen}");
        }
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let mut latencies = Latencies::new(Duration::from_millis(1));
        latencies.add(Duration::from_secs(1000));
        assert!(latencies.max_us() >= 2000 && latencies.max_us() < 5000, "{}", latencies.max_us());
    }

    /// hdrhistogram's own `serialization` feature, which would take five more crates, reads this as 1 at 1 µs and 2 at 5 µs.
    #[test]
    fn other_tools_read_its_text() {
        let mut latencies = Latencies::new(Duration::from_millis(1));
        [1, 5, 5].into_iter().for_each(|us| latencies.add(Duration::from_micros(us)));
        assert_eq!(latencies.text(), "HISTEwAAAAQAAAAAAAAAAwAAAAAAAAABAAAAAAAAB9A/8AAAAAAAAAECBQQ=");
    }
}
