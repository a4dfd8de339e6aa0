//! How far a number of few replications may be from the truth: intervals that hold it with a chance of 95 %.

use cutover_judge::sim::{Random, quantile};

const Z: f64 = 1.959_964;
/// Samples drawn again from what was seen.
const DRAWN: u64 = 200;

/// The interval of a share (Wilson 1927), in percent.
pub(crate) fn share(part: usize, of: usize) -> [f64; 2] {
    let (n, p) = (of.max(1) as f64, part as f64 / of.max(1) as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [100.0 * (middle - half).max(0.0), 100.0 * (middle + half).min(1.0)]
}

/// The interval of a number that is computed from many lists, by drawing each of them again from itself.
pub(crate) fn redrawn(lists: &[Vec<f64>], of: impl Fn(&[Vec<f64>]) -> f64) -> [f64; 2] {
    let found: Vec<f64> = (0..DRAWN)
        .map(|seed| {
            let mut random = Random::new(seed);
            let mut again = |list: &Vec<f64>| -> Vec<f64> {
                list.iter().map(|_| list[(random.unit() * list.len() as f64) as usize]).collect()
            };
            of(&lists.iter().map(&mut again).collect::<Vec<_>>())
        })
        .collect();
    [0.025, 0.975].map(|p| quantile(found.iter().copied().map(Some), p))
}

/// The interval of a median.
pub(crate) fn median(list: &[f64]) -> [f64; 2] {
    redrawn(&[list.to_vec()], |lists| quantile(lists[0].iter().copied().map(Some), 0.5))
}
