//! When an epoch ends, and what the next one is bet on.

use crate::judge::{Judge, OpenEpoch};
use crate::ledger::{Drawn, Epoch};
use crate::outcome::{Arm, Counts};
use crate::sheet::Sheet;
use crate::table::PROCESSES;
use crate::terms::Terms;

/// An epoch ends when stable has had this part of the requests behind its estimates again…
const GROWTH: u64 = 8;
/// …but not before it had this many, and when it holds this many of both arms or blocks. So there are about 150 epochs in
/// a billion requests, and no sum can leave 63 bits.
const LEAST: u64 = 25;
const MOST: u64 = 1 << 22;
const MOST_BLOCKS: usize = 64;

impl Judge {
    /// Whether enough is new that better terms can be drawn; [`next_epoch`](Judge::next_epoch) does it.
    pub fn due(&self) -> bool {
        let open = self.state.open.last().expect("a judge has an open epoch: checked in resume");
        let blocks: u64 = open.blocks.iter().map(|block| block.stable.requests).sum();
        let stable = open.counts.requests(Arm::Stable).saturating_add(blocks);
        stable >= LEAST.max(self.state.baseline.requests() / GROWTH)
            || self.held >= MOST
            || open.blocks.len() >= MOST_BLOCKS
    }

    /// Begins an epoch with the same share, and returns the one before for the journal.
    pub fn next_epoch(&mut self) -> Vec<Epoch> {
        let share_bp = self.sheet.terms.share_bp;
        self.begin(share_bp, 0)
    }

    /// Begins an epoch with another share. The one before keeps counting what was assigned in it until the next one ends.
    ///
    /// Wealth goes on: the release as a whole has one α.
    pub fn set_share(&mut self, share_bp: u16) -> Vec<Epoch> {
        let share_bp = share_bp.min(10_000);
        if share_bp == self.sheet.terms.share_bp { self.next_epoch() } else { self.begin(share_bp, 1) }
    }

    /// Closes what is open, at the end of the release, and returns it for the journal.
    pub fn close(&mut self) -> Vec<Epoch> {
        self.begin(self.sheet.terms.share_bp, 0)
    }

    /// Closes all but the last `keep` epochs, learns from them, and opens one.
    fn begin(&mut self, share_bp: u16, keep: usize) -> Vec<Epoch> {
        let number = self.sheet.terms.epoch + 1;
        let same = share_bp == self.sheet.terms.share_bp;
        let closing = self.state.open.len() - keep;
        let mut closed = Vec::with_capacity(closing);
        for (open, drawn) in self.state.open.drain(..closing).zip(self.drawn.drain(..closing)) {
            self.state.ledger.add(&drawn, &open.counts, &open.blocks);
            self.state.baseline.learn(&open.counts, &self.state.latencies);
            self.state.latencies.clear();
            for block in &open.blocks {
                self.state
                    .baseline
                    .learn_block(block.stable.requests, block.stable.errors.min(block.stable.requests));
            }
            let OpenEpoch { terms, counts, blocks } = open;
            if self.state.failure.is_none() {
                // Also where stable's requests tipped it, so that the journal and the judge cannot disagree.
                self.state.failure = self.state.ledger.failure(&terms, self.state.settings.alpha());
            }
            let fingerprint = drawn.table.fingerprint();
            closed.push(Epoch { terms, counts, blocks, fingerprint, ledger: self.state.ledger.clone() });
        }
        let terms = Terms {
            epoch: number,
            share_since: if same { self.sheet.terms.share_since } else { number },
            share_bp,
            estimates: self.state.baseline.estimates(),
            margins_ppb: self.state.settings.margins_ppb.clone(),
        };
        self.state.unconfirmed = false;
        self.drawn.push(Drawn::new(terms.clone()));
        self.sheet = Sheet { terms: terms.clone(), warming: self.state.warming };
        self.state.open.push(OpenEpoch { terms, counts: Counts::default(), blocks: Vec::new() });
        self.recount();
        closed
    }

    pub(crate) fn recount(&mut self) {
        self.sums = [0; PROCESSES];
        self.held = 0;
        for (open, drawn) in self.state.open.iter().zip(&self.drawn) {
            let logs = std::iter::once(drawn.table.sum(&open.counts))
                .chain(open.blocks.iter().map(|block| drawn.block(block)));
            for log in logs {
                self.sums.iter_mut().zip(log).for_each(|(sum, log)| *sum += log);
            }
            self.held +=
                open.counts.total() + open.blocks.iter().map(|block| block.counts().total()).sum::<u64>();
        }
    }
}
