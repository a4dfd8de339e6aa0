//! Clients that stay with their arm.

use cutover_judge::sim::Random;
use cutover_judge::{Clusters, Judge};

use crate::judge;

/// Ten minutes at 20 requests/s from clients that come for a minute each and stay with their arm; `bad` is the chance that
/// a client is one whose requests all fail, retries included, at each arm.
fn release(seed: u64, bad: [f64; 2], clustered: bool) -> Judge {
    let mut random = Random::new(seed);
    let mut judge = judge(10, 1_000);
    let mut clusters = Clusters::new(65_536);
    for request in 0..12_000u64 {
        // A new set of 100 clients each minute; each client's arm and fate are its own for good.
        let client = request / 1_200 * 100 + (random.unit() * 100.0) as u64;
        let mut own = Random::new(seed << 32 | client);
        let arm = own.arm(0.1);
        let broken = own.unit() < bad[arm as usize];
        for _ in 0..if broken { 10 } else { 1 } {
            if clustered {
                if let Some(block) = clusters.score(client, arm, broken, request * 50) {
                    judge.block(block);
                }
            } else {
                judge.assigned(arm, 1);
                let class = if broken { cutover_judge::Class::ERROR } else { cutover_judge::Class::UNTIMED };
                judge.score_many(arm, class, 1);
            }
        }
        if judge.due() {
            judge.next_epoch();
        }
    }
    judge.block(clusters.take());
    judge
}

#[test]
fn retry_storms_of_clients_roll_no_good_release_back() {
    let failed = |clustered| {
        (0..100).filter(|seed| release(*seed, [0.02, 0.02], clustered).failure().is_some()).count()
    };
    assert!(failed(true) <= 1, "{} of 100", failed(true));
    assert!(failed(false) > 10, "counted by requests they do: {} of 100", failed(false));
}

#[test]
fn a_candidate_that_fails_many_clients_is_found() {
    let found = (0..20).filter(|seed| release(*seed, [0.001, 0.5], true).failure().is_some()).count();
    assert!(found >= 19, "{found} of 20");
}
