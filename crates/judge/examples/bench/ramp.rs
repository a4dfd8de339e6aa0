//! Whole releases: 5, 25, 50 and 100 %, going on as soon as that is proven (note, §6).

use cutover_judge::sim::{Random, quantile};
use cutover_judge::{Arm, Judge, Outcome, Question, Settings, Verdict, ladder};

use crate::latency::history;
use crate::{Bench, cell, percent, watches};

const WEIGHTS: [u16; 3] = [500, 2_500, 5_000];
const SECONDS: f64 = 1_800.0;

/// How a release ended, after so many seconds and failed requests of the candidate.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Released,
    Back,
    Unknown,
}

struct Ramp {
    end: End,
    seconds: f64,
    failed: u64,
}

fn ramp(seed: u64, per_s: f64, rates: [f64; 2], latency: bool) -> Ramp {
    let mut random = Random::new(seed);
    let errors = random.poisson(10_000.0 * rates[0]);
    let past = history(&mut random, errors);
    let margins = ladder(&WEIGHTS, &past);
    let mut judge = Judge::new(Settings::new(margins.clone()), past).expect("good settings");
    let (mut now, mut failed) = (0.0, 0);
    for (share_bp, margin_ppb) in WEIGHTS.into_iter().zip(margins) {
        judge.set_share(share_bp);
        let begun = now;
        loop {
            now += random.exponential(per_s);
            let ticket = judge.assign(random.arm(f64::from(share_bp) / 10_000.0));
            let candidate = ticket.arm() == Arm::Candidate;
            let fails = random.unit() < rates[usize::from(candidate)];
            failed += u64::from(fails && candidate);
            let latency_us = (100_000.0 * (random.normal() / 2.0).exp()) as u64;
            judge.score(ticket, if fails { Outcome::Error } else { Outcome::Ok { latency_us } });
            if judge.due() {
                judge.next_epoch();
            }
            if !candidate && now < SECONDS {
                continue;
            }
            let step_ms = ((now - begun) * 1000.0) as u64;
            let latency = latency && share_bp == 5_000;
            match judge.verdict(&Question {
                margin_ppb,
                latency,
                step_ms,
                floor_ms: 2_000,
                candidate_per_hour: 0,
            }) {
                Verdict::Pass(_) => break,
                Verdict::Fail(_) => return Ramp { end: End::Back, seconds: now, failed },
                Verdict::Inconclusive(_) if now >= SECONDS => {
                    return Ramp { end: End::Unknown, seconds: now, failed };
                }
                Verdict::Inconclusive(_) => {}
            }
        }
    }
    Ramp { end: End::Released, seconds: now, failed }
}

/// Returns the median seconds of a good release at 100 requests/s, on errors and with latency.
pub(crate) fn run(bench: &mut Bench) -> [f64; 2] {
    println!("\nreleases 5 → 25 → 50 → 100 %, stable at 0.1 %; the article takes 1,800 s");
    let mut medians = [0.0; 2];
    for per_s in [1.0, 10.0, 100.0, 1_000.0] {
        for (which, latency) in [false, true].into_iter().enumerate() {
            let n = bench.times(if per_s > 500.0 { 500 } else { 2_000 });
            let found = watches(n, |seed| ramp(seed, per_s, [0.001; 2], latency));
            let seconds =
                |p| quantile(found.iter().map(|ramp| (ramp.end == End::Released).then_some(ramp.seconds)), p);
            let count = |end| percent(found.iter().filter(|ramp| ramp.end == end).count(), n as usize);
            println!(
                "{per_s:>6} requests/s, good, {:>18}: median {} s, p95 {} s; taken back {}, inconclusive {}",
                if latency { "errors and latency" } else { "errors" },
                cell(seconds(0.5)),
                cell(seconds(0.95)),
                count(End::Back),
                count(End::Unknown)
            );
            if per_s == 100.0 {
                medians[which] = seconds(0.5);
                let most = [60.0, 90.0][which];
                bench.goal(
                    &format!("good release within {most} s: {:.0}", seconds(0.5)),
                    seconds(0.5) <= most,
                );
            }
        }
    }
    for (name, candidate) in [("+0.5pp", 0.006), ("+1pp", 0.011), ("+5pp", 0.051), ("50 %", 0.5)] {
        let n = bench.times(1_000);
        let found = watches(n, |seed| ramp(seed, 100.0, [0.001, candidate], false));
        let released = found.iter().filter(|ramp| ramp.end == End::Released).count();
        let failed = quantile(found.iter().map(|ramp| Some(ramp.failed as f64)), 0.5);
        let article: f64 = WEIGHTS
            .iter()
            .chain(&[1_000, 7_500, 10_000])
            .map(|bp| f64::from(*bp) / 10_000.0 * 300.0 * 100.0 * candidate)
            .sum();
        let first = 0.05 * 300.0 * 100.0 * candidate;
        let article = if candidate < 0.05 { article } else { first };
        println!(
            "   100 requests/s, {name:>6}: released {}, median failed requests {failed:.0}; the article's 300 s per step: {article:.0}",
            percent(released, n as usize)
        );
    }
    medians
}
