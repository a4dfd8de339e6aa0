//! What is to be proven of a candidate before it gets more traffic, and what that is expected to take.

use cutover_judge::StepPlan;
use serde::{Deserialize, Serialize};

use crate::file::{CanaryBake, Route, Strategy};
use crate::release::{Observed, Release, ReleaseKind};
use crate::units::{Span, Weight};

/// The shortest time at one weight, however quick the proof.
pub const FLOOR: Span = Span::from_secs(2);

/// How the router compares the candidate with stable while both have traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The margins that may be asked for, in parts per billion of requests.
    pub margins_ppb: Vec<u64>,
    /// How long latency is left out after new instances took their first requests.
    pub warm_up: Span,
    /// How long the candidate is watched once it has all requests.
    #[serde(default)]
    pub watch: Span,
}

/// What is to be proven at one weight before the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prove {
    /// That the candidate does not fail so many more of its requests than stable, in parts per billion.
    pub margin_ppb: u64,
    /// That it is not slower either.
    pub latency: bool,
    /// What that is expected to take, if the candidate is as good as stable.
    pub expects: Expects,
}

/// What a proof is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expects {
    /// Requests to the candidate.
    pub candidate_requests: u64,
    /// Seconds at the service's recent rate; none where that is not known, or nothing.
    pub seconds: Option<u64>,
    /// An increase of the error rate that is found by then in half of the cases, in parts per billion.
    pub finds_ppb: u64,
}

/// Returns how the candidate is compared, if it is: a first release has nothing to be compared with, and a person who
/// rolls back does not ask whether the predecessor is better.
pub(super) fn compare(release: &Release, observed: &Observed) -> Option<Compare> {
    let guard = &release.file.guard;
    let compares = guard.compare && observed.stable.is_some() && release.kind == ReleaseKind::Deploy;
    let mut margins_ppb: Vec<u64> =
        steps(release, observed).into_iter().map(|step| step.margin_ppb).collect();
    margins_ppb.sort_unstable();
    margins_ppb.dedup();
    compares.then_some(Compare { margins_ppb, warm_up: guard.warm_up, watch: release.file.bake })
}

/// Returns what is to be proven at a weight; none where the bake has a fixed time.
pub(super) fn prove(release: &Release, observed: &Observed, weight: Weight) -> Option<Prove> {
    match &release.file.strategy {
        Strategy::Canary(canary) if canary.bake == CanaryBake::Auto => {}
        _ => return None,
    }
    compare(release, observed)?;
    let step = steps(release, observed).into_iter().find(|step| step.share_bp == weight.bp())?;
    let expects = Expects {
        candidate_requests: step.candidate_requests,
        seconds: step.seconds,
        finds_ppb: step.finds_ppb,
    };
    Some(Prove { margin_ppb: step.margin_ppb, latency: step.latency, expects })
}

fn steps(release: &Release, observed: &Observed) -> Vec<StepPlan> {
    let Strategy::Canary(canary) = &release.file.strategy else { return Vec::new() };
    let weights: Vec<u16> = canary.weights.iter().map(|weight| weight.bp()).collect();
    let traffic = observed.traffic.clone().unwrap_or_default();
    // What clients with seats do is counted in windows, which know no latency.
    let seats = release.file.route.iter().any(|Route::Proxy(route)| route.sticky.is_some());
    cutover_judge::plan(&weights, !seats, &traffic.history, traffic.per_hour.unwrap_or(0))
}
