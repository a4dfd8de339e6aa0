//! How things stand: what the closed epochs carry, and what the open ones add.

use crate::baseline::History;
use crate::judge::Judge;
use crate::ledger::{Drawn, Ledger};
use crate::math::Nats;
use crate::split;
use crate::table::Logs;
use crate::verdict::Seen;

impl Judge {
    /// What was seen of both arms.
    pub fn seen(&self) -> Seen {
        let mut seen = Seen::of(&self.state.ledger);
        for open in &self.state.open {
            seen.add(&open.counts);
            open.blocks.iter().for_each(|block| seen.add(&block.counts()));
        }
        seen
    }

    /// The logarithm of the wealth against the candidate now, in nats: it is taken back at ln(1/α), 4.6 for 1 %.
    pub fn ln_wealth(&self) -> f64 {
        Ledger::ln_rollback(&self.wealth())
    }

    /// What is known of stable up to the last closed epoch: history for a watch, a probe, or the next release.
    pub fn known(&self) -> History {
        self.state.baseline.known()
    }

    /// The wealth of each process now.
    pub(crate) fn wealth(&self) -> Logs {
        let carried = &self.state.ledger.wealth;
        std::array::from_fn(|process| carried[process] + self.sums[process])
    }

    /// The bets on the split now, and the assigned requests by arm.
    pub(crate) fn split(&self) -> ([Nats; 2], [u64; 2]) {
        let ledger = &self.state.ledger;
        let (mut split, mut assigned) = (ledger.split, ledger.totals.assigned);
        for open in &self.state.open {
            for at in 0..2 {
                split[at] =
                    split[at].saturating_add(split::logs(open.terms.share_bp, open.counts.assigned)[at]);
                assigned[at] = assigned[at].saturating_add(open.counts.assigned[at]);
            }
        }
        (split, assigned)
    }

    /// The ledger as it would be if everything were closed now.
    pub(crate) fn ledger(&self) -> Ledger {
        let mut ledger = self.state.ledger.clone();
        for (open, drawn) in self.state.open.iter().zip(&self.drawn) {
            ledger.add(drawn, &open.counts, &open.blocks);
        }
        ledger
    }

    pub(crate) fn drawn(&self) -> &Drawn {
        self.drawn.last().expect("a judge has an open epoch: checked in resume")
    }
}
