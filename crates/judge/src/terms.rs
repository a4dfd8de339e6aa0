//! What the bets of an epoch are made on, and whether they can have been.

use serde::{Deserialize, Serialize};

use crate::baseline::{Estimates, PPB};
use crate::ledger::Block;
use crate::outcome::Counts;

/// Margins of error rates that can be asked about in one release.
pub const MARGINS: usize = 6;
/// Requests that an epoch can hold: so many of the dearest outcome stay within 63 bits. One that nobody closes counts no
/// more than this.
pub(crate) const FULL: u64 = 1 << 26;

/// What the bets of one epoch are made on. It is fixed before the first of them and written down with their counts, so
/// that anyone can do the sum again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The epoch's number, from 0.
    pub epoch: u32,
    /// The first epoch with this share: what was assigned since then is scored by these terms.
    pub share_since: u32,
    /// The probability with which a request is assigned to the candidate, in basis points.
    pub share_bp: u16,
    /// What stable is taken to be like.
    pub estimates: Estimates,
    /// Margins in parts per billion of requests, as in [`Settings`](crate::Settings).
    pub margins_ppb: Vec<u64>,
}

impl Terms {
    /// Whether a judge can have written this down; else what is wrong with it.
    pub(crate) fn check(&self, counts: &Counts, blocks: &[Block]) -> Result<(), String> {
        let epoch = self.epoch;
        if self.share_bp > 10_000 {
            return Err(format!(
                "epoch {epoch} has a share of {} basis points, which is more than everything",
                self.share_bp
            ));
        }
        if self.margins_ppb.len() > MARGINS
            || self.margins_ppb.iter().any(|margin| !(1..PPB).contains(margin))
        {
            return Err(format!("epoch {epoch} has margins that no release can be asked for"));
        }
        self.estimates.check().map_err(|why| format!("epoch {epoch}: {why}"))?;
        let held =
            blocks.iter().fold(counts.total(), |sum, block| sum.saturating_add(block.counts().total()));
        if held > FULL {
            return Err(format!("epoch {epoch} has {held} requests; {FULL} are the most that one counts"));
        }
        Ok(())
    }
}
