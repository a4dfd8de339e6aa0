//! What a canary will take, said before it starts.

use std::fmt;

use crate::baseline::{Baseline, History, P50, P99, PPB, fraction};
use crate::math::{bisect, ln};
use crate::promotion::Factors;
use crate::table::{LATENCY_MARGINS, share};
use crate::verdict::{points, time};

/// Margins by how many steps with both arms come after: half a point before everything, more while fewer users are at risk.
const LADDER: [u64; 3] = [PPB / 200, PPB / 50, PPB / 20];
/// What all experts together need beyond the one that is right: measured, see the crate's documentation.
const OVERHEAD: f64 = 1.35;

/// What one weight is expected to take if the candidate is as good as stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// The weight in basis points.
    pub share_bp: u16,
    /// What has to be proven before the next one, in parts per billion.
    pub margin_ppb: u64,
    /// Whether latency has to be proven, too.
    pub latency: bool,
    /// Requests to the candidate at this weight.
    pub candidate_requests: u64,
    /// Seconds that they take; none without traffic.
    pub seconds: Option<u64>,
    /// The increase of the error rate that is found by then in half of the cases, in parts per billion. What is smaller
    /// may be missed.
    pub finds_ppb: u64,
}

/// The margin to prove before each next weight: 5 percentage points, 2 before the last but one, and half a point at the
/// last that still has both revisions; nowhere less than stable's own error rate.
pub fn ladder(weights_bp: &[u16], history: &History) -> Vec<u64> {
    let errors = Baseline::new(history.clone()).estimates().errors_ppb;
    let compared = weights_bp.iter().filter(|weight| compares(**weight)).count();
    (0..compared).map(|at| LADDER[(compared - 1 - at).min(2)].max(errors)).collect()
}

/// What each weight with both revisions takes, at so many requests per hour to the service.
pub fn plan(weights_bp: &[u16], latency: bool, history: &History, per_hour: u64) -> Vec<StepPlan> {
    let theta = fraction(Baseline::new(history.clone()).estimates().errors_ppb);
    let margins = ladder(weights_bp, history);
    let weights: Vec<u16> = weights_bp.iter().copied().filter(|weight| compares(*weight)).collect();
    let mut steps: Vec<StepPlan> = Vec::new();
    for (at, (share_bp, margin_ppb)) in weights.iter().copied().zip(margins).enumerate() {
        let latency = latency && at + 1 == weights.len();
        let mut asked = vec![(theta, fraction(margin_ppb))];
        if latency {
            asked.extend(LATENCY_MARGINS.iter().map(|(edge, margin)| (theta + usual_beyond(*edge), *margin)));
        }
        let candidate_requests =
            asked.iter().map(|(theta, margin)| missing(*theta, *margin, &steps, share_bp)).max().unwrap_or(0);
        let per_hour = (u128::from(per_hour) * u128::from(share_bp) / 10_000) as u64;
        let seconds = (per_hour > 0).then(|| candidate_requests.saturating_mul(3600).div_ceil(per_hour));
        steps.push(StepPlan { share_bp, margin_ppb, latency, candidate_requests, seconds, finds_ppb: 0 });
        let finds_ppb = finds(theta, &steps);
        steps[at].finds_ppb = finds_ppb;
    }
    steps
}

fn compares(weight_bp: u16) -> bool {
    weight_bp > 0 && weight_bp < 10_000
}

fn usual_beyond(edge: usize) -> f64 {
    match edge {
        P50 => 0.5,
        P99 => 0.01,
        _ => 0.1,
    }
}

/// Requests to the candidate until a margin is proven at a share, with what earlier steps won for it.
fn missing(theta: f64, margin: f64, earlier: &[StepPlan], share_bp: u16) -> u64 {
    let growth = |share_bp: u16| {
        let share = share(share_bp);
        Factors::new(theta, margin, share).map_or(0.0, |factors| factors.growth(theta, share))
    };
    let won: f64 = earlier.iter().map(|step| step.candidate_requests as f64 * growth(step.share_bp)).sum();
    let missing = (-ln(0.01) - won).max(0.0) / growth(share_bp);
    if missing.is_finite() { missing.ceil() as u64 } else { u64::MAX }
}

/// The increase whose two-sample SPRT limit, with the overhead of the experts, these steps reach.
fn finds(theta: f64, steps: &[StepPlan]) -> u64 {
    let most = 0.97 - theta.min(0.96);
    let increase = bisect(0.0, most, 40, |increase| {
        let won: f64 = steps
            .iter()
            .map(|step| {
                step.candidate_requests as f64 * information(theta, theta + increase, share(step.share_bp))
            })
            .sum();
        won < -ln(0.01) * OVERHEAD
    });
    (increase * PPB as f64) as u64
}

/// Nats per request of the candidate that tell two error rates apart when the common one is unknown.
pub(crate) fn information(stable: f64, candidate: f64, share: f64) -> f64 {
    let pooled = share * candidate + (1.0 - share) * stable;
    divergence(candidate, pooled) + (1.0 - share) / share * divergence(stable, pooled)
}

fn divergence(p: f64, q: f64) -> f64 {
    let term = |p: f64, q: f64| if p > 0.0 && q > 0.0 { p * ln(p / q) } else { 0.0 };
    term(p, q) + term(1.0 - p, 1.0 - q)
}

impl fmt::Display for StepPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} %: about {} requests to the candidate, ",
            f64::from(self.share_bp) / 100.0,
            self.candidate_requests
        )?;
        match self.seconds {
            Some(seconds) => write!(f, "{} at this rate", time(seconds))?,
            None => write!(f, "and without traffic none come")?,
        }
        let also = if self.latency { ", and that it is not slower" } else { "" };
        write!(f, ", to prove that it does not fail {} more often{also}; ", points(self.margin_ppb))?;
        write!(f, "a regression below {} may be missed", points(self.finds_ppb))
    }
}
