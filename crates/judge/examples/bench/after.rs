//! The watch after the switch, and the probe after its alarm (note, §7).

use cutover_judge::sim::{Random, quantile};
use cutover_judge::{Attribution, Judge, Outcome, Probe, Settings, Tick, Watch};

use crate::{Bench, cell, history, percent, watches};

const SECONDS: u64 = 1_800;

/// Requests from the change to the alarm, and those of them that failed; a change after the end is none.
fn watch(seed: u64, per_s: f64, stable: f64, worse: f64, from: u64) -> Option<[f64; 2]> {
    let mut random = Random::new(seed);
    let judge = Judge::new(Settings::new(vec![]), history(&mut random, stable, true)).expect("good settings");
    let mut watch =
        Watch::new(judge.sheet().terms().estimates.clone(), 100, SECONDS).expect("good estimates");
    let mut found = [0.0; 2];
    for second in 0..SECONDS {
        if second > 0 && (second * 1000).is_multiple_of(watch.tick_ms()) {
            watch.tick();
        }
        let rate = if second >= from { worse } else { stable };
        let mut at = 0.0;
        while at < 1.0 {
            let gap = random.exponential(per_s * rate).min(1.0 - at);
            at += gap;
            let ok = random.poisson(per_s * (1.0 - rate) * gap);
            let errors = u64::from(at < 1.0);
            if second >= from {
                found = [found[0] + (ok + errors) as f64, found[1] + errors as f64];
            }
            if watch.add(Tick { requests: ok + errors, errors, timed: 0, slow: 0 }) {
                return Some(found);
            }
        }
    }
    None
}

/// Requests that failed at either arm until a probe knew, and whether it was right.
fn probe(seed: u64, rates: [f64; 2]) -> (f64, bool) {
    let mut random = Random::new(seed);
    let mut probe = Probe::new(history(&mut random, 0.001, true), 100).expect("good settings");
    let mut failed = 0.0;
    for _ in 0..20_000 {
        let ticket = probe.assign(random.arm(0.5));
        let fails = random.unit() < rates[ticket.arm() as usize];
        failed += f64::from(u8::from(fails));
        match probe.score(ticket, if fails { Outcome::Error } else { Outcome::Untimed }) {
            Attribution::Candidate(_) => return (failed, rates[0] < rates[1]),
            Attribution::Shared(_) => return (failed, rates[0] == rates[1]),
            Attribution::Unclear => {}
        }
        probe.next_epoch();
    }
    (failed, false)
}

pub(crate) fn run(bench: &mut Bench) {
    println!("\nafter the switch, watched for 30 min");
    for stable in [0.001, 0.01] {
        for per_s in [1.0, 10.0, 100.0] {
            let n = bench.times(4_000);
            let failed =
                watches(n, |seed| watch(seed, per_s, stable, stable, SECONDS)).into_iter().flatten().count();
            println!(
                "{per_s:>6} requests/s at {:>4} %, good: alarm in {}",
                stable * 100.0,
                percent(failed, n as usize)
            );
            bench.goal(
                &format!(
                    "false alarm ≤ 1 % at {per_s} requests/s, {stable}: {}",
                    percent(failed, n as usize)
                ),
                bench.one_percent(failed, n as usize),
            );
        }
    }
    for (name, worse) in [("5x", 0.005), ("+1pp", 0.011), ("+5pp", 0.051), ("50 %", 0.5)] {
        let n = bench.times(1_000);
        let medians = [0, 600].map(|from| {
            let found = watches(n, |seed| watch(seed, 100.0, 0.001, worse, from));
            [0, 1].map(|at| quantile(found.iter().map(|found| found.map(|found| found[at])), 0.5))
        });
        println!(
            "   100 requests/s at 0.1 %, {name:>5}: at the switch {} requests, {} failed; ten minutes later {}, {}",
            cell(medians[0][0]),
            cell(medians[0][1]),
            cell(medians[1][0]),
            cell(medians[1][1])
        );
    }
    for (name, rates) in [
        ("release dead", [0.001, 1.0]),
        ("release at 50 %", [0.001, 0.5]),
        ("+5pp", [0.001, 0.051]),
        ("both at 50 %", [0.5, 0.5]),
        ("both at 5 %", [0.05, 0.05]),
    ] {
        let n = bench.times(1_000);
        let found = watches(n, |seed| probe(seed, rates));
        let wrong = found.iter().filter(|found| !found.1).count();
        println!(
            "   probe, {name:>15}: {} failed until it is known; wrong or unknown {}",
            cell(quantile(found.iter().map(|found| Some(found.0)), 0.5)),
            percent(wrong, n as usize)
        );
    }
}
