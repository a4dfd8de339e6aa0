//! The verdicts of a release, computed again from what the judge counted.

use std::fmt::Write;

use cutover_judge::{Arm, Epoch, Failure, replay, replay_pass};

use super::count;
use crate::effect::{EffectKey, Evidence, StepKey};
use crate::event::{Account, Event, Record};
use crate::guard::{Judgement, Verdict};
use crate::plan::{Plan, Prove, Step};
use crate::units::Weight;

/// Verdicts that were computed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejudged {
    /// What was counted, what was told, and whether both agree; for people.
    pub text: String,
    /// Where the journal says something else than its counts do. Empty if nothing does.
    pub differences: Vec<String>,
}

/// Computes the verdicts of a journal again; none where the judge has left no account.
pub fn rejudge(records: &[Record]) -> Option<Rejudged> {
    let Event::Opened { plan, .. } = &records.first()?.event else { return None };
    let account = records.iter().rev().find_map(|record| match &record.event {
        Event::Judged { account } => Some(&**account),
        _ => None,
    })?;
    let (mut text, mut differences) = (String::new(), Vec::new());
    let _ = writeln!(text, "judged again from {} epochs", account.epochs.len());
    let failure = again(account, &mut text, &mut differences);
    let Account { settings, epochs, .. } = account;
    for (key, verdict) in records.iter().filter_map(told) {
        let Some((prove, epoch)) = asked(plan, key).zip(verdict.epoch) else { continue };
        let again = replay_pass(settings, epochs, epoch, prove.margin_ppb, prove.latency);
        let _ = writeln!(text, "pass after epoch {epoch}: {}", verdict.why);
        if !again {
            differences
                .push(format!("the counts up to epoch {epoch} do not prove the pass that the journal says"));
        }
    }
    if let Some(failure) = failure {
        let _ = writeln!(text, "{failure}");
    }
    if let Some(probe) = &account.probe {
        let _ = writeln!(text, "the probe after the switch, by halves");
        if let Some(failure) = again(probe, &mut text, &mut differences) {
            let _ = writeln!(text, "{failure}");
        }
    }
    for difference in &differences {
        let _ = writeln!(text, "differs: {difference}");
    }
    if differences.is_empty() {
        let _ = writeln!(text, "the journal says the same");
    }
    Some(Rejudged { text, differences })
}

/// Sums an account up again; returns the failure that it proves.
fn again(account: &Account, text: &mut String, differences: &mut Vec<String>) -> Option<Failure> {
    let replayed = replay(&account.settings, &account.epochs, account.failure.as_deref());
    differences.extend(replayed.differences);
    for (weight, [stable, candidate]) in by_weight(&account.epochs) {
        let _ = writeln!(
            text,
            "  at {weight}: {} of {} requests failed at the candidate, {} of {} at stable",
            count(candidate.1),
            count(candidate.0),
            count(stable.1),
            count(stable.0)
        );
    }
    replayed.failure
}

fn told(record: &Record) -> Option<(&EffectKey, &Verdict)> {
    match &record.event {
        Event::Done { effect, evidence: Evidence::Verdict(verdict) }
            if verdict.judgement == Judgement::Pass =>
        {
            Some((effect, verdict))
        }
        _ => None,
    }
}

fn asked<'a>(plan: &'a Plan, key: &EffectKey) -> Option<&'a Prove> {
    let StepKey::Forward(at) = key.step else { return None };
    match plan.steps.get(at) {
        Some(Step::Bake { prove, .. }) => prove.as_ref(),
        _ => None,
    }
}

/// Requests and failures by arm, for each weight in turn.
fn by_weight(epochs: &[Epoch]) -> Vec<(Weight, [(u64, u64); 2])> {
    let mut found: Vec<(Weight, [(u64, u64); 2])> = Vec::new();
    for epoch in epochs {
        let weight = Weight::from_bp(epoch.terms.share_bp);
        if found.last().is_none_or(|(last, _)| *last != weight) {
            found.push((weight, [(0, 0); 2]));
        }
        let Some((_, sums)) = found.last_mut() else { continue };
        for (sum, arm) in sums.iter_mut().zip(Arm::BOTH) {
            sum.0 += epoch.counts.requests(arm);
            sum.1 += epoch.counts.errors(arm);
            for block in &epoch.blocks {
                let scraped = match arm {
                    Arm::Stable => block.stable,
                    Arm::Candidate => block.candidate,
                };
                sum.0 += scraped.requests;
                sum.1 += scraped.errors;
            }
        }
    }
    found.retain(|(_, sums)| sums.iter().any(|(requests, _)| *requests > 0));
    found
}
