//! May the candidate have more traffic?

use serde::{Deserialize, Serialize};

use crate::judge::Judge;
use crate::math::{from_nats, ln, nats};
use crate::split;
use crate::table::{LATENCY, Logs, MARGIN, share};
use crate::verdict::{Cause, Inconclusive, Needs, Passed, Seen, Verdict};

/// What has to be proven before the next weight, and how things stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// That the candidate does not fail this much more often, in parts per billion; one of the settings' margins.
    pub margin_ppb: u64,
    /// That it is not slower either: no more than 5 percentage points more of its requests are slower than stable's median,
    /// and 1 point more than its 99th percentile. Ask for it before the last weight.
    pub latency: bool,
    /// Milliseconds at this weight so far, and what they must be at least.
    pub step_ms: u64,
    /// The shortest time at one weight; 2000 is usual.
    pub floor_ms: u64,
    /// Requests that the candidate gets per hour at the current weight.
    pub candidate_per_hour: u64,
}

impl Judge {
    /// The verdict on the candidate now.
    ///
    /// A failure comes before everything, and stays. A split that was not as it was meant to be, and failures that both
    /// arms share, come before a pass.
    pub fn verdict(&self, question: &Question) -> Verdict {
        if let Some(failure) = self.failure() {
            return Verdict::Fail(Box::new(failure.clone()));
        }
        let (wealth, seen) = (self.wealth(), self.seen());
        let Some(cause) = self.obstacle(question, &wealth, &seen) else {
            let Question { margin_ppb, latency, .. } = *question;
            return Verdict::Pass(Passed { margin_ppb, latency, seen });
        };
        let (proven_ppb, needs) = (self.proven(&wealth), self.needs(question, &wealth, cause));
        Verdict::Inconclusive(Inconclusive { cause, proven_ppb, needs, seen })
    }

    /// What stands between the candidate and a pass.
    fn obstacle(&self, question: &Question, wealth: &Logs, seen: &Seen) -> Option<Cause> {
        let (split, assigned) = self.split();
        if split::mismatch(split) {
            return Some(Cause::WrongSplit(assigned));
        }
        if let Some(shared) = self.shared() {
            return Some(Cause::Shared(*shared));
        }
        if seen.candidate.requests == 0 {
            return Some(Cause::NoTraffic);
        }
        let beta = nats(-ln(self.state.settings.beta()));
        if !self.required(question).iter().all(|process| process.is_some_and(|at| wealth[at] >= beta)) {
            let unknown = question.latency && self.sheet().terms().estimates.latency.is_none();
            return Some(if unknown { Cause::LatencyUnknown } else { Cause::Evidence });
        }
        (self.state.warming || question.step_ms < question.floor_ms).then_some(Cause::TooSoon)
    }

    /// The processes whose wealth must have come to 1/β; none for a margin that was never bet on.
    fn required(&self, question: &Question) -> Vec<Option<usize>> {
        let margins = &self.state.settings.margins_ppb;
        let margin = margins.iter().position(|margin| *margin == question.margin_ppb).map(|at| MARGIN + at);
        let latency = LATENCY.iter().filter(|_| question.latency).map(|process| Some(*process));
        std::iter::once(margin).chain(latency).collect()
    }

    fn proven(&self, wealth: &Logs) -> Option<u64> {
        let beta = nats(-ln(self.state.settings.beta()));
        let margins = self.state.settings.margins_ppb.iter().enumerate();
        margins.filter(|(at, _)| wealth[MARGIN + at] >= beta).map(|(_, margin)| *margin).min()
    }

    fn needs(&self, question: &Question, wealth: &Logs, cause: Cause) -> Option<Needs> {
        if !matches!(cause, Cause::Evidence | Cause::NoTraffic | Cause::LatencyUnknown) {
            return None;
        }
        let beta = -ln(self.state.settings.beta());
        let share = share(self.sheet().terms().share_bp);
        let mut most = 0;
        for process in self.required(question) {
            let missing = (beta - from_nats(wealth[process?])).max(0.0);
            let growth = self.drawn().bets.growth(process?, share).filter(|growth| *growth > 0.0);
            match growth {
                Some(growth) => most = most.max((missing / growth).ceil() as u64),
                // Latency that is not known yet is learned on the way; without both arms nothing ever is.
                None if cause == Cause::LatencyUnknown => {}
                None => return None,
            }
        }
        let per_hour = question.candidate_per_hour;
        let seconds = (per_hour > 0).then(|| most.saturating_mul(3600).div_ceil(per_hour));
        Some(Needs { candidate_requests: most, seconds })
    }
}
