//! Latency, with errors beside it: lognormal with σ = 0.5, stable at 0.1 % errors (note, §5).

use cutover_judge::sim::{Random, quantile};
use cutover_judge::{Arm, Histogram, History, Judge, Outcome, Settings};

use crate::{Bench, MARGINS, cell, percent, watches};

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

pub(crate) fn run(bench: &mut Bench) {
    println!(
        "\nlatency and errors together: median requests to the candidate; lognormal, stable at 0.1 % errors"
    );
    for share_bp in [100, 1_000, 5_000] {
        let n = bench.times(2_000);
        let found = watches(n, |seed| watch(seed, Effect::None, share_bp, 30_000));
        let failed = found.iter().filter(|found| found[0].is_some()).count();
        println!(
            "{:>5}% good: taken back {} of {n} (30,000 requests each)",
            f64::from(share_bp) / 100.0,
            percent(failed, n as usize)
        );
        bench.goal(
            &format!("false rollback ≤ 1 % with latency, {share_bp} bp: {}", percent(failed, n as usize)),
            bench.one_percent(failed, n as usize),
        );
        let n = bench.times(1_000);
        for (name, effect) in [
            ("+10 %", Effect::Times(1.1)),
            ("+50 %", Effect::Times(1.5)),
            ("1 in 50 ten times", Effect::Tail),
        ] {
            let found = watches(n, |seed| watch(seed, effect, share_bp, 200_000));
            let [judge, limit] = [0, 1].map(|at| quantile(found.iter().map(|found| found[at]), 0.5));
            println!(
                "{:>5}% {name:>18}: limit {}, judge {}, ratio {}",
                f64::from(share_bp) / 100.0,
                cell(limit),
                cell(judge),
                cell(judge / limit)
            );
        }
    }
}
