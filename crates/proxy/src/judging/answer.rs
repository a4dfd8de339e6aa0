//! What a judge is asked, and what it says.

use cutover_judge::{Block, Epoch, Question, Scraped, Settings, Verdict};
use serde::{Deserialize, Serialize};

use super::Judging;
use crate::aftermath::Probed;
use crate::store::boot_ms;

/// What a judge says, with all that it takes to compute it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// The release.
    pub release: String,
    /// The verdict.
    pub verdict: Verdict,
    /// The candidate's share of requests now, in basis points.
    pub share_bp: u16,
    /// Requests of the service per hour, at the rate since the last shift.
    pub per_hour: u64,
    /// The epoch after which a pass holds: the last closed one.
    pub epoch: Option<u32>,
    /// The settings it began with.
    pub settings: Settings,
    /// The closed epochs that were asked for.
    pub epochs: Vec<Epoch>,
    /// What the probe after the switch counted, if there was one and epochs were asked for.
    #[serde(default)]
    pub probe: Option<Probed>,
}

/// How a judge stands, for who only looks: nothing is closed or counted by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeStanding {
    /// The release.
    pub release: String,
    /// The logarithm of the wealth against the candidate, in thousandths of a nat: it is taken back at ln(1/α).
    pub wealth_millinats: i64,
    /// What it says, in a word: `fail`, `shared` (stable fails as well) or `none` (neither, so far).
    pub verdict: String,
    /// Requests scored, and failed ones among them, by arm: stable's, the candidate's.
    pub scored: [[u64; 2]; 2],
}

/// What is asked of a judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeQuestion {
    /// The margin of errors to be proven, in parts per billion; one of those of the table.
    pub margin_ppb: u64,
    /// Whether latency is to be proven, too.
    pub latency: bool,
    /// The shortest time at one weight, in milliseconds.
    pub floor_ms: u64,
    /// The first closed epoch that is wanted; none: no epochs are.
    pub epochs_from: Option<u32>,
    /// Close what is open: nothing more will come.
    pub close: bool,
}

impl Judging {
    /// Answers a question. A pass closes an epoch, so that it can be computed again from what is closed.
    pub(crate) fn answer(&self, question: &JudgeQuestion) -> Judged {
        let mut inner = self.lock();
        inner.gather();
        let step_ms = boot_ms().saturating_sub(inner.step.since_ms);
        let seen = inner.judge.seen();
        let per_hour = |now: Scraped, before: Scraped| {
            let requests = now.since(before).map_or(0, |since| since.requests);
            requests.saturating_mul(3_600_000) / step_ms.max(1)
        };
        let candidate_per_hour = per_hour(seen.candidate, inner.step.candidate);
        let JudgeQuestion { margin_ppb, latency, floor_ms, epochs_from, close } = *question;
        let verdict =
            inner.judge.verdict(&Question { margin_ppb, latency, step_ms, floor_ms, candidate_per_hour });
        if close && !inner.over {
            let block = inner.clusters.take();
            inner.take((block != Block::default()).then_some(block));
            let closed = inner.judge.close();
            inner.epochs.extend(closed);
            inner.over = true;
        } else if matches!(verdict, Verdict::Pass(_)) && !inner.over {
            inner.next_epoch();
        }
        let after = inner.after.as_mut();
        let probe = after.and_then(|after| after.probed(close)).filter(|_| epochs_from.is_some());
        let wanted = |epoch: &&Epoch| epochs_from.is_some_and(|from| epoch.terms.epoch >= from);
        Judged {
            release: self.release.clone(),
            verdict,
            share_bp: inner.judge.sheet().terms().share_bp,
            per_hour: candidate_per_hour.saturating_add(per_hour(seen.stable, inner.step.stable)),
            epoch: inner.epochs.last().map(|epoch| epoch.terms.epoch),
            settings: inner.judge.state().settings().clone(),
            epochs: inner.epochs.iter().filter(wanted).cloned().collect(),
            probe,
        }
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> JudgeStanding {
        let mut inner = self.lock();
        inner.gather();
        let seen = inner.judge.seen();
        let verdict = match inner.because() {
            Some(because) if because.shared => "shared",
            Some(_) => "fail",
            None => "none",
        };
        JudgeStanding {
            release: self.release.clone(),
            wealth_millinats: (inner.judge.ln_wealth() * 1_000.0).round() as i64,
            verdict: verdict.into(),
            scored: [seen.stable, seen.candidate].map(|arm| [arm.requests, arm.errors]),
        }
    }
}
