//! What the judge promises, with nothing but its public face.

#![allow(missing_docs)]

mod after;
mod clusters;
mod counts;
mod grid;
mod trouble;
mod verdicts;

use cutover_judge::sim::Random;
use cutover_judge::{Arm, Histogram, History, Judge, Outcome, Question, Settings};

const MARGINS: [u64; 3] = [5_000_000, 20_000_000, 50_000_000];

/// Ten thousand requests, of which `errors` failed, with latencies around 100 ms.
fn history(errors: u64) -> History {
    let mut latencies = Histogram::default();
    let mut random = Random::new(99);
    (0..10_000).for_each(|_| latencies.add(latency(&mut random)));
    History { requests: 10_000, errors, client_errors: 0, latencies }
}

fn judge(errors: u64, share_bp: u16) -> Judge {
    let mut judge = Judge::new(Settings::new(MARGINS.to_vec()), history(errors)).expect("good settings");
    judge.set_share(share_bp);
    judge
}

/// Lognormal, with a median of 100 ms.
fn latency(random: &mut Random) -> u64 {
    (100_000.0 * (random.normal() / 2.0).exp()) as u64
}

fn question(margin_ppb: u64) -> Question {
    Question { margin_ppb, latency: false, step_ms: 10_000, floor_ms: 2_000, candidate_per_hour: 36_000 }
}

/// Sends requests until there are `n`, or the candidate has failed.
fn send(judge: &mut Judge, random: &mut Random, n: u32, of: impl Fn(&mut Random, Arm) -> Outcome) {
    for _ in 0..n {
        let arm = random.arm(f64::from(judge.sheet().terms().share_bp) / 10_000.0);
        let ticket = judge.assign(arm);
        let outcome = of(random, arm);
        if judge.score(ticket, outcome).is_some() {
            break;
        }
        if judge.due() {
            judge.next_epoch();
        }
    }
}

/// An outcome at an error rate per arm, with the usual latency.
fn rates(stable: f64, candidate: f64) -> impl Fn(&mut Random, Arm) -> Outcome {
    move |random, arm| {
        let rate = if arm == Arm::Candidate { candidate } else { stable };
        if random.unit() < rate { Outcome::Error } else { Outcome::Ok { latency_us: latency(random) } }
    }
}
