//! Kayenta's rule, re-implemented from its sources: a Mann-Whitney U test over one value per minute and arm.
//!
//! A metric fails where the interval of 98 % for the shift between the arms lies above a quarter of the shift's estimate
//! (Hodges-Lehmann). The interval is that of the normal approximation, by the ordered differences of all pairs. Equal series
//! pass; a minute without requests has no value.

use cutover_judge::Arm;
use cutover_judge::sim::Detector;

/// The 99th percentile of the standard normal distribution: 98 % lie within.
const Z: f64 = 2.326_348;
const FRACTION: f64 = 0.25;

/// Judges the error rates of each minute, all so far, every five minutes.
#[derive(Default)]
pub(crate) struct Kayenta {
    /// Requests and errors of the minute, by arm.
    minute: [[u64; 2]; 2],
    values: [Vec<f64>; 2],
}

impl Detector for Kayenta {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        self.count(ok);
        self.minute[arm as usize][0] += 1;
        self.minute[arm as usize][1] += 1;
        false
    }

    fn second(&mut self, ok: [u64; 2], second: u32) -> bool {
        self.count(ok);
        if !(second + 1).is_multiple_of(60) {
            return false;
        }
        for (values, [requests, errors]) in self.values.iter_mut().zip(std::mem::take(&mut self.minute)) {
            values.extend((requests > 0).then(|| errors as f64 / requests as f64));
        }
        (second + 1).is_multiple_of(300) && high(&self.values)
    }
}

impl Kayenta {
    fn count(&mut self, ok: [u64; 2]) {
        for (minute, ok) in self.minute.iter_mut().zip(ok) {
            minute[0] += ok;
        }
    }
}

/// Whether the candidate's values are classified as too high.
pub(crate) fn high([stable, candidate]: &[Vec<f64>; 2]) -> bool {
    if stable.is_empty() || candidate.is_empty() || stable == candidate {
        return false;
    }
    let mut differences: Vec<f64> =
        candidate.iter().flat_map(|c| stable.iter().map(move |s| c - s)).collect();
    differences.sort_by(f64::total_cmp);
    let (n, m) = (candidate.len() as f64, stable.len() as f64);
    let deviation = (n * m / 12.0 * (n + m + 1.0 - ties(stable, candidate))).max(0.0).sqrt();
    let below = (n * m / 2.0 - Z * deviation).floor().max(0.0) as usize;
    let lower = differences[below.min(differences.len() - 1)];
    let middle = differences.len() / 2;
    let estimate = if differences.len() % 2 == 1 {
        differences[middle]
    } else {
        f64::midpoint(differences[middle - 1], differences[middle])
    };
    lower > FRACTION * estimate.abs()
}

/// What equal values take from the variance: Σ(t³ − t) / ((n + m)(n + m − 1)).
fn ties(stable: &[f64], candidate: &[f64]) -> f64 {
    let mut all: Vec<f64> = stable.iter().chain(candidate).copied().collect();
    all.sort_by(f64::total_cmp);
    let equal = all.chunk_by(|a, b| a == b).map(|same| same.len() as f64).map(|t| t * t * t - t).sum::<f64>();
    let of = all.len() as f64;
    equal / (of * (of - 1.0)).max(1.0)
}
