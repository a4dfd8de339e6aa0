//! Bets where a client stays with its arm.
//!
//! With sticky routing the lottery draws clients, not requests: ten failures of one broken client are one piece of bad
//! luck, and counted as ten they rolled back 57 % of good releases in a simulation. So a client counts once per window, and
//! **its failure once per release**; and as the label of a client that comes again is no news, the windows are blocks, judged
//! by the split that they show.
//!
//! The specification had one bet per client and window of 60 s. A client that is broken for good would bet the same label
//! every minute there; and windows that need not dilute such clients may be short, so that a verdict is quick.

use std::collections::HashMap;

use crate::ledger::Block;
use crate::outcome::Arm;

/// Milliseconds of a window.
const WINDOW_MS: u64 = 5_000;

/// The clients of a release, by a hash of whatever keeps them at their arm.
///
/// Memory is bounded: beyond the limit new clients are not counted, whichever arm they have.
#[derive(Clone, Debug)]
pub struct Clusters {
    limit: usize,
    window: u64,
    /// Blocks that were taken; a client counts once in each.
    taken: u64,
    clients: HashMap<u64, Client>,
    block: Block,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    /// The block in which it was counted last.
    block: u64,
    failed: bool,
}

impl Clusters {
    /// No client yet, and room for `limit`; 65,536 take about 2 MiB.
    pub fn new(limit: usize) -> Clusters {
        Clusters { limit, window: 0, taken: 0, clients: HashMap::new(), block: Block::default() }
    }

    /// The clients that have failed, to be written down.
    pub fn failed(&self) -> Vec<u64> {
        let mut failed: Vec<u64> =
            self.clients.iter().filter(|(_, client)| client.failed).map(|(client, _)| *client).collect();
        failed.sort_unstable();
        failed
    }

    /// Remembers clients that have failed before.
    pub fn remember(&mut self, failed: &[u64]) {
        for client in failed.iter().take(self.limit) {
            self.clients.insert(*client, Client { block: 0, failed: true });
        }
    }

    /// Counts a request of a client, and returns the window before if this one begins another.
    pub fn score(&mut self, client: u64, arm: Arm, failed: bool, now_ms: u64) -> Option<Block> {
        let window = now_ms / WINDOW_MS;
        // A clock that goes back begins no window.
        let ended = (window > self.window).then(|| self.take());
        self.window = self.window.max(window);
        let room = self.clients.len() < self.limit;
        let known = self.clients.get_mut(&client);
        let counted = match arm {
            Arm::Stable => &mut self.block.stable,
            Arm::Candidate => &mut self.block.candidate,
        };
        match known {
            None if room => {
                self.clients.insert(client, Client { block: self.taken, failed });
                counted.requests += 1;
                counted.errors += u64::from(failed);
            }
            Some(known) if !known.failed => {
                counted.requests += u64::from(known.block != self.taken);
                counted.errors += u64::from(failed);
                *known = Client { block: self.taken, failed };
            }
            _ => {}
        }
        ended.filter(|block| block.stable.requests + block.candidate.requests > 0)
    }

    /// What the window holds so far, at the end of a release or when a judge is asked. It begins anew.
    pub fn take(&mut self) -> Block {
        // Who failed is remembered. The others count again anyway.
        self.clients.retain(|_, client| client.failed);
        self.taken += 1;
        std::mem::take(&mut self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Scraped;

    #[test]
    fn a_client_counts_once_per_window_and_fails_once_per_release() {
        let mut clusters = Clusters::new(10);
        for _ in 0..10 {
            assert_eq!(clusters.score(1, Arm::Candidate, true, 100), None);
            assert_eq!(clusters.score(2, Arm::Stable, false, 200), None);
        }
        let first = clusters.score(1, Arm::Candidate, true, WINDOW_MS).unwrap();
        assert_eq!(first.candidate, Scraped { requests: 1, errors: 1 });
        assert_eq!(first.stable, Scraped { requests: 1, errors: 0 });
        clusters.score(2, Arm::Stable, true, WINDOW_MS);
        let second = clusters.take();
        assert_eq!(second.candidate, Scraped::default());
        assert_eq!(second.stable, Scraped { requests: 1, errors: 1 });
    }

    #[test]
    fn a_failure_later_in_a_window_is_that_clients() {
        let mut clusters = Clusters::new(10);
        clusters.score(1, Arm::Candidate, false, 0);
        clusters.score(1, Arm::Candidate, true, 1);
        assert_eq!(clusters.take().candidate, Scraped { requests: 1, errors: 1 });
    }

    #[test]
    fn a_flood_of_clients_takes_no_more_room() {
        let mut clusters = Clusters::new(100);
        for client in 0..10_000 {
            clusters.score(client, Arm::Stable, client % 2 == 0, 0);
        }
        assert_eq!(clusters.clients.len(), 100);
        assert_eq!(clusters.take().stable, Scraped { requests: 100, errors: 50 });
    }
}
