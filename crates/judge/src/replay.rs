//! The same sum again, from what was written down.

use crate::ledger::{Drawn, Epoch, Ledger};
use crate::math::{ln, nats};
use crate::settings::Settings;
use crate::table::{LATENCY, MARGIN};
use crate::verdict::Failure;

/// What comes out when a release is judged again from its closed epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Wealth and totals at the end.
    pub ledger: Ledger,
    /// The failure that is proven at the end, if one is.
    pub failure: Option<Failure>,
    /// Where this differs from what was written down, in words. Empty if nothing does.
    pub differences: Vec<String>,
}

/// Judges a release again from its closed epochs, and compares with what was written down: the wealth after each of them,
/// and whether it `failed`.
///
/// Every number comes out the same to the last bit, on any machine: the counts are integers, what they are multiplied
/// with are integers, and those are made of the terms by the four basic operations alone. A difference means that the
/// journal was changed, or that another version of the judge makes other bets of the same terms; it says which.
pub fn replay(settings: &Settings, epochs: &[Epoch], failed: Option<&Failure>) -> Replayed {
    let (mut ledger, mut failure) = (Ledger::default(), None);
    let mut differences = Vec::new();
    for (at, epoch) in epochs.iter().enumerate() {
        let number = epoch.terms.epoch;
        if number as usize != at {
            differences.push(format!("epoch {at} is missing: the next one that is there is {number}"));
        }
        if epoch.terms.margins_ppb != settings.margins_ppb {
            differences.push(format!("epoch {number} was bet on other margins than the release's settings"));
        }
        if let Err(wrong) = epoch.terms.check(&epoch.counts, &epoch.blocks) {
            differences.push(format!("no judge wrote this: {wrong}"));
            break;
        }
        let drawn = Drawn::new(epoch.terms.clone());
        let version = drawn.table.fingerprint() != epoch.fingerprint;
        if version {
            differences.push(format!(
                "epoch {number} was bet by another version of the judge: the same terms give other bets"
            ));
        }
        ledger.add(&drawn, &epoch.counts, &epoch.blocks);
        if ledger != epoch.ledger {
            let why = if version { "" } else { ": counts or wealth were changed after they were written" };
            differences.push(format!("the wealth after epoch {number} comes out differently{why}"));
        }
        // What was told belongs to its epoch; what was not told may be proven by any.
        if failure.is_none() && failed.is_none_or(|failed| failed.epoch == number) {
            failure = ledger.failure(&epoch.terms, settings.alpha());
        }
    }
    differences.extend(compared(failed, failure.as_ref()));
    Replayed { ledger, failure, differences }
}

/// Tells whether the closed epochs up to `epoch`, summed up again, prove a margin, and that latency is no worse where that is
/// asked: a pass that was told after that epoch.
pub fn replay_pass(
    settings: &Settings,
    epochs: &[Epoch],
    epoch: u32,
    margin_ppb: u64,
    latency: bool,
) -> bool {
    let mut ledger = Ledger::default();
    let mut closed = 0;
    for known in epochs.iter().filter(|known| known.terms.epoch <= epoch) {
        if known.terms.check(&known.counts, &known.blocks).is_err() {
            return false;
        }
        ledger.add(&Drawn::new(known.terms.clone()), &known.counts, &known.blocks);
        closed += 1;
    }
    let margin = settings.margins_ppb.iter().position(|known| *known == margin_ppb);
    let needed = nats(-ln(settings.beta()));
    let proven = |process: usize| ledger.wealth[process] >= needed;
    closed == u64::from(epoch) + 1
        && margin.is_some_and(|at| proven(MARGIN + at))
        && (!latency || LATENCY.into_iter().all(proven))
}

fn compared(failed: Option<&Failure>, failure: Option<&Failure>) -> Option<String> {
    match (failed, failure) {
        (Some(told), Some(found)) if told != found => {
            Some(format!("the journal says \"{told}\", its counts say \"{found}\""))
        }
        (Some(_), None) => {
            Some("the journal says that the candidate failed, and its counts do not prove it".into())
        }
        (None, Some(_)) => {
            Some("the counts prove that the candidate failed, and the journal does not say so".into())
        }
        _ => None,
    }
}
