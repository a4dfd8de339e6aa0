//! Latency, with errors beside it: lognormal with σ = 0.5, stable at 0.1 % errors (note, §5).

use cutover_judge::sim::{Random, quantile};
use cutover_judge::{Arm, Histogram, History, Judge, Outcome, Settings};
use serde_json::json;

use crate::slow::{NAMES, Slow};
use crate::{Account, Bench, MARGINS, cell, chance, object, percent, rounded, watches};

/// What happens to the candidate's latency.
#[derive(Clone, Copy, PartialEq)]
enum Effect {
    None,
    /// Every request takes so many times as long.
    Times(f64),
    /// One in fifty takes ten times as long.
    Tail,
}

const SIGMA: f64 = 0.5;

impl Effect {
    /// The logarithm of the latency by its median.
    fn draw(self, random: &mut Random) -> f64 {
        let z = random.normal() * SIGMA;
        match self {
            Effect::None => z,
            Effect::Times(times) => z + times.ln(),
            Effect::Tail => z + if random.unit() < 0.02 { 10f64.ln() } else { 0.0 },
        }
    }

    /// The candidate's density by stable's.
    fn ratio(self, x: f64) -> f64 {
        let shifted = |by: f64| ((x * by - by * by / 2.0) / (SIGMA * SIGMA)).exp();
        match self {
            Effect::None => 1.0,
            Effect::Times(times) => shifted(times.ln()),
            Effect::Tail => 0.98 + 0.02 * shifted(10f64.ln()),
        }
    }
}

pub(crate) fn history(random: &mut Random, errors: u64) -> History {
    let mut latencies = Histogram::default();
    (0..10_000).for_each(|_| latencies.add(micros(Effect::None.draw(random))));
    History { requests: 10_000, errors, client_errors: 0, latencies }
}

fn micros(x: f64) -> u64 {
    (100_000.0 * x.exp()) as u64
}

/// Requests of the candidate until judge and limit have found it, of at most `most` of both arms.
fn watch(seed: u64, effect: Effect, share_bp: u16, most: u32) -> [Option<f64>; 2] {
    let mut random = Random::new(seed);
    let past = history(&mut random, 10);
    let mut judge = Judge::new(Settings::new(MARGINS.to_vec()), past).expect("good settings");
    judge.set_share(share_bp);
    let share = f64::from(share_bp) / 10_000.0;
    let (mut found, mut limit, mut requests) = ([None; 2], 0.0f64, 0.0);
    for _ in 0..most {
        let ticket = judge.assign(random.arm(share));
        let candidate = ticket.arm() == Arm::Candidate;
        requests += f64::from(u8::from(candidate));
        let x = if candidate { effect.draw(&mut random) } else { Effect::None.draw(&mut random) };
        let fails = random.unit() < 0.001;
        if found[0].is_none() {
            let outcome = if fails { Outcome::Error } else { Outcome::Ok { latency_us: micros(x) } };
            found[0] = judge.score(ticket, outcome).is_some().then_some(requests);
            if judge.due() {
                judge.next_epoch();
            }
        }
        let ratio = effect.ratio(x);
        limit += if candidate { ratio.ln() } else { 0.0 } - (share * ratio + 1.0 - share).ln();
        if effect != Effect::None && limit >= 100f64.ln() && found[1].is_none() {
            found[1] = Some(requests);
        }
        if found[0].is_some() && (found[1].is_some() || effect == Effect::None) {
            break;
        }
    }
    found
}

/// What the rules of others take of the same traffic, at 100 requests/s for half an hour.
fn others(seed: u64, effect: Effect, share_bp: u16) -> [Option<f64>; NAMES.len()] {
    let (mut random, mut slow) = (Random::new(seed), Slow::default());
    let share = f64::from(share_bp) / 10_000.0;
    let (mut found, mut requests) = ([None; NAMES.len()], 0.0);
    for _ in 0..30 {
        for _ in 0..random.poisson(6_000.0) {
            let arm = random.arm(share);
            let effect = if arm == Arm::Candidate { effect } else { Effect::None };
            requests += f64::from(u8::from(arm == Arm::Candidate));
            slow.add(arm, 100.0 * effect.draw(&mut random).exp());
        }
        for (found, fires) in found.iter_mut().zip(slow.end_minute()) {
            *found = found.or(fires.then_some(requests));
        }
    }
    found
}

const EFFECTS: [(&str, Effect, f64); 3] = [
    ("+10 %", Effect::Times(1.1), 1.75),
    ("+50 %", Effect::Times(1.5), 1.75),
    ("1 in 50 ten times", Effect::Tail, 2.0),
];

/// Measures false rollbacks and requests to find slowness; the ratio is the worst by those of the limit.
pub(crate) fn run(bench: &mut Bench) -> Account {
    println!(
        "latency and errors together: median requests to the candidate; lognormal, stable at 0.1 % errors"
    );
    let head: Vec<String> = NAMES.iter().map(|name| format!("{name:>14}")).collect();
    println!("{:>6} {:>18} {:>7} {:>7} {:>6} {}", "share", "", "limit", "judge", "ratio", head.join(" "));
    let (mut worst_false, mut ratios) = (0.0f64, Vec::new());
    let mut peers: Vec<(String, f64)> = Vec::new();
    for share_bp in [100, 1_000, 5_000] {
        let n = bench.times(2_000);
        let found = watches(n, |seed| watch(seed, Effect::None, share_bp, 30_000));
        let failed = found.iter().filter(|found| found[0].is_some()).count();
        worst_false = worst_false.max(failed as f64 / n as f64);
        let few = (n / 20).max(10);
        let found = watches(few, |seed| others(seed, Effect::None, share_bp));
        let back =
            |at: usize| percent(found.iter().filter(|found| found[at].is_some()).count(), few as usize);
        let cells: Vec<String> = (0..NAMES.len()).map(|at| format!("{:>14}", back(at))).collect();
        let share = f64::from(share_bp) / 100.0;
        println!(
            "{share:>5}% {:>18} {:>7} {:>7} {:>6} {}",
            "good: taken back",
            "",
            percent(failed, n as usize),
            "",
            cells.join(" ")
        );
        bench.interval("the judge's", chance::share(failed, n as usize), " %");
        bench.goal(
            &format!("false rollback ≤ 1 % with latency, {share_bp} bp: {}", percent(failed, n as usize)),
            bench.one_percent(failed, n as usize),
        );
        let n = bench.times(1_000);
        for (name, effect, most) in EFFECTS {
            let found = watches(n, |seed| watch(seed, effect, share_bp, 200_000));
            let [judge, limit] = [0, 1].map(|at| quantile(found.iter().map(|found| found[at]), 0.5));
            let ratio = judge / limit;
            let rivals = watches(few, |seed| others(seed, effect, share_bp));
            let medians: Vec<f64> =
                (0..NAMES.len()).map(|at| quantile(rivals.iter().map(|found| found[at]), 0.5)).collect();
            let cells: Vec<String> = medians.iter().map(|median| format!("{:>14}", cell(*median))).collect();
            println!(
                "{share:>5}% {name:>18} {:>7} {:>7} {:>6} {}",
                cell(limit),
                cell(judge),
                cell(ratio),
                cells.join(" ")
            );
            let all: Vec<f64> = found.iter().map(|found| found[0].unwrap_or(f64::INFINITY)).collect();
            bench.interval("the judge's median", chance::median(&all), "");
            let what = format!("{name} at {share_bp} bp: {ratio:.2} × the limit ≤ {most}");
            bench.goal(&what, ratio <= most * bench.slack());
            ratios.push((format!("{name} at {share} %"), ratio));
            if share_bp == 1_000 {
                peers.extend(
                    NAMES
                        .iter()
                        .zip(medians)
                        .map(|(rival, median)| (format!("{rival}, {name}"), median / limit)),
                );
            }
        }
    }
    let worst = ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max);
    Account {
        ours: json!({ "false_rollback_worst": rounded(worst_false), "ratios": object(ratios) }),
        peers: object(peers),
        ratio: worst,
    }
}
