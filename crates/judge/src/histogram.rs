//! How long stable's requests take: what bucket edges are drawn from.

use serde::{Deserialize, Serialize};

/// Parts into which each power of two is divided: an edge is wrong by 3 % at most.
const PARTS: u64 = 32;
/// Powers of two that are told apart above the first `PARTS` microseconds; about 19 hours are the most.
const POWERS: u64 = 31;
const SIZE: usize = (PARTS * (POWERS + 1)) as usize;

/// Latencies in microseconds, in buckets of 3 % width; its size is fixed (8 KiB).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; SIZE], total: 0 }
    }
}

impl Histogram {
    /// Counts one request.
    #[inline]
    pub fn add(&mut self, latency_us: u64) {
        self.counts[place(latency_us)] += 1;
        self.total += 1;
    }

    /// Counts as many requests of one latency.
    pub fn add_many(&mut self, latency_us: u64, requests: u64) {
        let counted = &mut self.counts[place(latency_us)];
        *counted = counted.saturating_add(requests);
        self.total = self.total.saturating_add(requests);
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: &Histogram) {
        if other.total == 0 {
            return;
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
        self.total = self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n));
    }

    /// Requests counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Scales the counts down to about `most` requests.
    pub(crate) fn capped(mut self, most: u64) -> Histogram {
        if self.total > most {
            for n in &mut self.counts {
                *n = (u128::from(*n) * u128::from(most) / u128::from(self.total)) as u64;
            }
            self.total = self.counts.iter().sum();
        }
        self
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// For each of the ascending shares (per thousand): the latency in µs that it does not exceed, and how many do not.
    pub(crate) fn quantiles<const N: usize>(&self, per_thousand: [u64; N]) -> [(u64, u64); N] {
        let (mut at, mut below) = (0, self.counts[0]);
        per_thousand.map(|share| {
            while u128::from(below) * 1000 < u128::from(self.total) * u128::from(share) && at + 1 < SIZE {
                at += 1;
                below += self.counts[at];
            }
            (upper(at), below)
        })
    }
}

impl TryFrom<Vec<u64>> for Histogram {
    type Error = String;

    /// Takes pairs of place and count, which most of a histogram is too empty for anything else.
    fn try_from(pairs: Vec<u64>) -> Result<Self, String> {
        let mut histogram = Histogram::default();
        for pair in pairs.chunks(2) {
            let [place, count] = *pair else { return Err("a latency bucket without a count".into()) };
            let here = usize::try_from(place).ok().and_then(|place| histogram.counts.get_mut(place));
            *here.ok_or_else(|| format!("there is no latency bucket {place}; the last is {}", SIZE - 1))? =
                count;
        }
        histogram.total = histogram.counts.iter().fold(0, |sum, n| sum.saturating_add(*n));
        Ok(histogram)
    }
}

impl From<Histogram> for Vec<u64> {
    fn from(histogram: Histogram) -> Self {
        let filled = histogram.counts.iter().enumerate().filter(|(_, n)| **n > 0);
        filled.flat_map(|(place, n)| [place as u64, *n]).collect()
    }
}

/// The bucket of a latency.
fn place(latency_us: u64) -> usize {
    if latency_us < PARTS {
        return latency_us as usize;
    }
    let power = u64::from(latency_us.ilog2() - PARTS.ilog2());
    let part = (latency_us >> power) - PARTS;
    (((power + 1) * PARTS + part) as usize).min(SIZE - 1)
}

/// The largest latency of a bucket.
fn upper(place: usize) -> u64 {
    let (power, part) = (place as u64 / PARTS, place as u64 % PARTS);
    if power == 0 { part } else { ((PARTS + part + 1) << (power - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_lies_in_its_bucket_and_buckets_are_narrow() {
        for i in 0..100_000u64 {
            let latency = i * i / 7 + i;
            let place = place(latency);
            assert!(latency <= upper(place), "{latency}");
            assert!(place == 0 || latency > upper(place - 1), "{latency}");
            assert!(upper(place) as f64 <= latency as f64 * 1.032 + 1.0, "{latency}: {}", upper(place));
        }
        assert_eq!(place(u64::MAX), SIZE - 1);
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|latency| histogram.add(latency));
        let [(half, below), (last, all)] = histogram.quantiles([500, 1000]);
        assert!((500..=515).contains(&half) && below == half, "{half} {below}");
        assert!((1000..=1031).contains(&last) && all == 1000);
    }

    #[test]
    fn it_survives_being_written_down() {
        let mut histogram = Histogram::default();
        for latency in [3, 3, 700, 90_000] {
            histogram.add(latency);
        }
        let written = serde_json::to_string(&histogram).unwrap();
        assert!(written.len() < 40, "{written}");
        assert_eq!(serde_json::from_str::<Histogram>(&written).unwrap(), histogram);
        let wrong = serde_json::from_str::<Histogram>("[99999,1]").unwrap_err().to_string();
        assert!(wrong.contains("no latency bucket 99999"), "{wrong}");
    }
}
