//! Good candidates: how long they take to all traffic by `bake: auto`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cutover_judge::Verdict;
use cutover_proxy::WHOLE;

use super::service::{Service, plan};
use crate::benches::numbers::Samples;

/// As in the documentation's release file.
pub(super) const WEIGHTS_BP: [u16; 6] = [500, 1_000, 2_500, 5_000, 7_500, WHOLE];
/// What fails of both revisions, in basis points.
pub(super) const USUAL_BP: u32 = 10;
/// As often as the engine asks.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What the good candidates came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Rises {
    /// To the proof of everything about errors, and with latency, from the first weight on; a release that had not got so
    /// far is there with an infinite time.
    pub(super) errors: Samples,
    pub(super) latency: Samples,
    /// From the shift to one weight until the next, in medians by the weight.
    pub(super) steps: Vec<Samples>,
    pub(super) back: usize,
    pub(super) late: usize,
    /// The last words of those that were not done.
    pub(super) words: Vec<String>,
}

impl Rises {
    pub(super) fn add(&mut self, other: Rises) {
        self.errors.extend(other.errors);
        self.latency.extend(other.latency);
        self.steps.resize(WEIGHTS_BP.len() - 1, Samples::default());
        self.steps.iter_mut().zip(other.steps).for_each(|(all, one)| all.extend(one));
        self.back += other.back;
        self.late += other.late;
        self.words.extend(other.words);
    }
}

/// Raises the candidate of one release step by step, with the engine's questions.
pub(super) async fn make(service: Arc<Service>, limit: Duration) -> Result<Rises> {
    let release = format!("{}-good", service.name);
    one(&service, &release, limit).await.with_context(|| release.clone())
}

async fn one(service: &Service, release: &str, limit: Duration) -> Result<Rises> {
    let mut rises = Rises { steps: vec![Samples::default(); WEIGHTS_BP.len() - 1], ..Rises::default() };
    let (steps, terms) = plan(&WEIGHTS_BP);
    service.stable.fail(USUAL_BP);
    service.candidate.fail(USUAL_BP);
    let begun = Instant::now();
    let mut proven = None;
    for (at, step) in steps.iter().enumerate() {
        service.route(Some((release, step.share_bp, &terms))).await?;
        let since = Instant::now();
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            // At the last weight, the time that errors alone would have taken is measured on the way.
            let latency = step.latency && proven.is_some();
            match service.judge(release, step.margin_ppb, latency).await?.verdict {
                Verdict::Pass(_) if step.latency && !latency => proven = Some(begun.elapsed()),
                Verdict::Pass(_) => break,
                Verdict::Fail(failure) => {
                    rises.back = 1;
                    rises.words.push(failure.to_string());
                    return Ok(rises.unfinished(proven));
                }
                Verdict::Inconclusive(verdict) if begun.elapsed() > limit => {
                    rises.late = 1;
                    rises.words.push(verdict.to_string());
                    return Ok(rises.unfinished(proven));
                }
                Verdict::Inconclusive(_) => {}
            }
        }
        rises.steps[at].add(since.elapsed());
    }
    service.route(Some((release, WHOLE, &terms))).await?;
    rises.latency.add(begun.elapsed());
    rises.errors.add(proven.unwrap_or_else(|| begun.elapsed()));
    Ok(rises)
}

impl Rises {
    fn unfinished(mut self, proven: Option<Duration>) -> Rises {
        self.errors.add_us(proven.map_or(f64::INFINITY, |proven| proven.as_secs_f64() * 1e6));
        self.latency.add_us(f64::INFINITY);
        self
    }
}
