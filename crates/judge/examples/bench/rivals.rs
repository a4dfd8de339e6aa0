//! What others decide by, re-implemented from their sources and documentation; not the products themselves. All are favoured:
//! they see their metrics without delay.

use cutover_judge::Arm;
use cutover_judge::sim::Detector;

use crate::kayenta::Kayenta;

/// The candidate's success in windows of a fixed length.
pub(crate) struct Windows {
    length: u32,
    least: f64,
    /// Failed windows that are tolerated.
    tolerated: u32,
    /// Flagger: a window without traffic fails, and what failed is acted upon at the next window.
    flagger: bool,
    requests: u64,
    errors: u64,
    failed: u32,
}

/// Names and rules, in the order of the tables.
pub(crate) const NAMES: [&str; 6] =
    ["argo_60s", "argo_10s", "flagger_1", "flagger_5", "kayenta", "article_300s"];

/// Argo Rollouts: success ≥ 95 % per minute or ten seconds, no failure tolerated. Flagger: ≥ 99 % per minute, threshold 1
/// or 5. Kayenta: each five minutes, over minutes. The article: ≥ 95 % after 300 s.
pub(crate) fn all() -> [Box<dyn Detector>; NAMES.len()] {
    let window = |length, least, tolerated, flagger| Windows {
        length,
        least,
        tolerated,
        flagger,
        requests: 0,
        errors: 0,
        failed: 0,
    };
    [
        Box::new(window(60, 0.95, 0, false)),
        Box::new(window(10, 0.95, 0, false)),
        Box::new(window(60, 0.99, 1, true)),
        Box::new(window(60, 0.99, 5, true)),
        Box::<Kayenta>::default(),
        Box::new(window(300, 0.95, 0, false)),
    ]
}

/// The rules as what a stream is shown to.
pub(crate) fn each(rules: &mut [Box<dyn Detector>]) -> impl Iterator<Item = &mut dyn Detector> {
    rules.iter_mut().map(|rule| &mut **rule as &mut dyn Detector)
}

impl Detector for Windows {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        self.requests += ok[1];
        if arm == Arm::Candidate {
            self.requests += 1;
            self.errors += 1;
        }
        false
    }

    fn second(&mut self, ok: [u64; 2], second: u32) -> bool {
        self.requests += ok[1];
        if !(second + 1).is_multiple_of(self.length) {
            return false;
        }
        if self.flagger && self.failed >= self.tolerated {
            return true;
        }
        let low = if self.requests == 0 {
            self.flagger
        } else {
            ((self.requests - self.errors) as f64) < self.least * self.requests as f64
        };
        self.failed += u32::from(low);
        (self.requests, self.errors) = (0, 0);
        !self.flagger && self.failed > self.tolerated
    }
}

/// The sequential probability ratio test that takes stable's rate for known and fixed: quick, and wrong when it moves.
pub(crate) struct Known {
    steps: [f64; 2],
    sum: f64,
}

impl Known {
    pub(crate) fn new(stable: f64, candidate: f64) -> Known {
        Known { steps: [(candidate / stable).ln(), ((1.0 - candidate) / (1.0 - stable)).ln()], sum: 0.0 }
    }
}

impl Detector for Known {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        self.sum += ok[1] as f64 * self.steps[1] + if arm == Arm::Candidate { self.steps[0] } else { 0.0 };
        self.sum >= 100f64.ln()
    }

    fn second(&mut self, ok: [u64; 2], _: u32) -> bool {
        self.sum += ok[1] as f64 * self.steps[1];
        self.sum >= 100f64.ln()
    }
}

/// Any detector, once it can name two bad requests of the candidate: a rule that nobody should roll back without.
pub(crate) struct Naming<D> {
    pub(crate) inner: D,
    pub(crate) errors: u32,
}

impl<D: Detector> Detector for Naming<D> {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        self.errors += u32::from(arm == Arm::Candidate);
        self.inner.failed(ok, arm) && self.errors >= 2
    }

    fn second(&mut self, ok: [u64; 2], second: u32) -> bool {
        self.inner.second(ok, second) && self.errors >= 2
    }
}
