//! Simulated traffic: what the promises of this crate are measured with.
//!
//! All detectors see the same stream. Requests come as a Poisson process, the arm is drawn by an exact lottery, and what
//! succeeds between two failures is drawn at once, so that half an hour of 1,000 requests per second takes milliseconds.
//! Nothing here is used in production; it lives here so that tests and benchmark measure the same thing.

mod random;

pub use random::Random;

use crate::judge::Judge;
use crate::outcome::{Arm, Class};

/// Traffic of one service with two arms.
pub struct Stream<'a> {
    /// Requests per second.
    pub per_s: f64,
    /// The probability that a request is the candidate's.
    pub share: f64,
    /// How long it is watched.
    pub seconds: u32,
    /// The error rates of stable and candidate in each second.
    pub rates: &'a dyn Fn(u32) -> [f64; 2],
}

/// Something that takes a candidate back.
pub trait Detector {
    /// So many requests of each arm succeeded, and then one failed. Returns whether that is enough.
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool;
    /// So many succeeded until the end of a second. Returns whether that is enough.
    fn second(&mut self, ok: [u64; 2], second: u32) -> bool;
}

/// What it took a detector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Seconds since the start.
    pub seconds: f64,
    /// Requests of the candidate, the last one included.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
}

impl Stream<'_> {
    /// Shows one watch to all detectors, and returns what each took.
    pub fn run(&self, random: &mut Random, detectors: &mut [&mut dyn Detector]) -> Vec<Option<Found>> {
        let mut found = vec![None; detectors.len()];
        let (mut requests, mut errors) = (0, 0);
        for second in 0..self.seconds {
            let [stable, candidate] = (self.rates)(second);
            let failing = [self.per_s * (1.0 - self.share) * stable, self.per_s * self.share * candidate];
            let fine = [
                self.per_s * (1.0 - self.share) * (1.0 - stable),
                self.per_s * self.share * (1.0 - candidate),
            ];
            let mut at = 0.0;
            while at < 1.0 {
                let gap = random.exponential(failing[0] + failing[1]).min(1.0 - at);
                at += gap;
                let ok = fine.map(|rate| random.poisson(rate * gap));
                requests += ok[1];
                let failed = (at < 1.0).then(|| random.arm(failing[1] / (failing[0] + failing[1])));
                if failed == Some(Arm::Candidate) {
                    (requests, errors) = (requests + 1, errors + 1);
                }
                let now = Found { seconds: f64::from(second) + at, requests, errors };
                for (detector, found) in
                    detectors.iter_mut().zip(&mut found).filter(|(_, found)| found.is_none())
                {
                    let fired = match failed {
                        Some(arm) => detector.failed(ok, arm),
                        None => detector.second(ok, second),
                    };
                    *found = fired.then_some(now);
                }
            }
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found
    }
}

/// A judge draws new terms once a second, where that is due.
impl Detector for Judge {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        tell(self, ok);
        self.assigned(arm, 1);
        self.score_many(arm, Class::ERROR, 1).is_some()
    }

    fn second(&mut self, ok: [u64; 2], _: u32) -> bool {
        let fired = tell(self, ok);
        if self.due() {
            self.next_epoch();
        }
        fired
    }
}

fn tell(judge: &mut Judge, ok: [u64; 2]) -> bool {
    for (arm, ok) in Arm::BOTH.into_iter().zip(ok) {
        judge.assigned(arm, ok);
        judge.score_many(arm, Class::UNTIMED, ok);
    }
    judge.failure().is_some()
}

/// The limit: the sequential probability ratio test that knows both rates and the share, but not that the rate common to
/// both arms in a good release is stable's. No procedure that is valid under shared trouble can do with less on average.
pub struct Limit {
    steps: [[f64; 2]; 2],
    sum: f64,
}

impl Limit {
    /// The limit for a candidate with this rate, at α = 1 %.
    pub fn new(rates: [f64; 2], share: f64) -> Limit {
        let pooled = share * rates[1] + (1.0 - share) * rates[0];
        let ratio = |p: f64, q: f64| if p > 0.0 { (p / q).ln() } else { 0.0 };
        Limit { steps: rates.map(|rate| [ratio(rate, pooled), ratio(1.0 - rate, 1.0 - pooled)]), sum: 0.0 }
    }
}

impl Detector for Limit {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        self.second(ok, 0);
        self.sum += self.steps[arm.index()][0];
        self.sum >= 100f64.ln()
    }

    fn second(&mut self, ok: [u64; 2], _: u32) -> bool {
        self.sum += ok[0] as f64 * self.steps[0][1] + ok[1] as f64 * self.steps[1][1];
        self.sum >= 100f64.ln()
    }
}

/// The p-th quantile of what was found; those that found nothing come last, as infinity.
pub fn quantile(found: impl Iterator<Item = Option<f64>>, p: f64) -> f64 {
    let mut all: Vec<f64> = found.map(|value| value.unwrap_or(f64::INFINITY)).collect();
    all.sort_by(f64::total_cmp);
    all.get(((all.len() as f64 * p) as usize).min(all.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::INFINITY)
}
