//! The watch after the switch, and the probe after its alarm (note, §7).

use cutover_judge::sim::{Detector, Found, Random, Stream, quantile};
use cutover_judge::{Arm, Attribution, Judge, Outcome, Probe, Settings, Tick, Watch};
use serde_json::json;

use crate::rivals::{self, NAMES};
use crate::{Account, Bench, cell, chance, history, object, percent, rounded, watches};

const SECONDS: u32 = 1_800;
const EFFECTS: [(&str, f64); 4] = [("5x", 0.005), ("+1pp", 0.011), ("+5pp", 0.051), ("50 %", 0.5)];
const STABLE: f64 = 0.001;
const PER_S: f64 = 100.0;
/// When the candidate changes: at the switch, ten minutes later.
const FROM: [u32; 2] = [0, 600];

struct Watched(Watch);

impl Detector for Watched {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        let errors = u64::from(arm == Arm::Candidate);
        self.0.add(Tick { requests: ok[1] + errors, errors, timed: 0, slow: 0 })
    }

    fn second(&mut self, ok: [u64; 2], second: u32) -> bool {
        let alarm = self.0.add(Tick { requests: ok[1], errors: 0, timed: 0, slow: 0 });
        if (u64::from(second + 1) * 1000).is_multiple_of(self.0.tick_ms()) {
            self.0.tick();
        }
        alarm
    }
}

/// The test that knows both rates, and not when: the sum of log-likelihoods since the moment that makes it largest.
struct Cusum {
    steps: [f64; 2],
    sum: f64,
    most: f64,
    threshold: f64,
}

impl Cusum {
    fn new(worse: f64, threshold: f64) -> Cusum {
        let steps = [(worse / STABLE).ln(), ((1.0 - worse) / (1.0 - STABLE)).ln()];
        Cusum { steps, sum: 0.0, most: 0.0, threshold }
    }

    /// The threshold that one good release in a hundred reaches in a whole watch.
    fn calibrated(worse: f64, n: u64) -> f64 {
        let most = watches(n, |seed| {
            let mut cusum = Cusum::new(worse, f64::INFINITY);
            stream(&|_| [STABLE; 2]).run(&mut Random::new(seed + 1_000_000), &mut [&mut cusum]);
            Some(cusum.most)
        });
        quantile(most.into_iter(), 0.99)
    }
}

impl Detector for Cusum {
    fn failed(&mut self, ok: [u64; 2], _: Arm) -> bool {
        self.second(ok, 0);
        self.sum += self.steps[0];
        self.most = self.most.max(self.sum);
        self.sum > self.threshold
    }

    fn second(&mut self, ok: [u64; 2], _: u32) -> bool {
        self.sum = (self.sum + ok[1] as f64 * self.steps[1]).max(0.0);
        false
    }
}

fn stream(rates: &dyn Fn(u32) -> [f64; 2]) -> Stream<'_> {
    Stream { per_s: PER_S, share: 1.0, seconds: SECONDS, rates }
}

/// What the watch takes, the test that knows the rates, and the rules of others; from the start.
fn watch(seed: u64, per_s: f64, stable: f64, worse: f64, from: u32, threshold: f64) -> Vec<Option<Found>> {
    let mut random = Random::new(seed);
    let judge = Judge::new(Settings::new(vec![]), history(&mut random, stable, true)).expect("good settings");
    let estimates = judge.sheet().terms().estimates.clone();
    let mut watched = Watched(Watch::new(estimates, 100, SECONDS.into()).expect("good estimates"));
    let (mut cusum, mut others) = (Cusum::new(worse, threshold), rivals::all());
    let mut detectors: Vec<&mut dyn Detector> = vec![&mut watched];
    if worse != stable {
        detectors.push(&mut cusum);
        detectors.extend(rivals::each(&mut others));
    }
    let rates = |second| [if second >= from { worse } else { stable }; 2];
    Stream { per_s, share: 1.0, seconds: SECONDS, rates: &rates }.run(&mut random, &mut detectors)
}

/// Requests from the change to the alarm; none where there was none, or one before the change.
fn delay(found: Option<Found>, from: u32) -> Option<f64> {
    found
        .filter(|found| found.seconds >= f64::from(from))
        .map(|found| (found.seconds - f64::from(from)) * PER_S)
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

/// Measures alarms; the ratio is the worst delay by that of the test that knows both rates.
pub(crate) fn run(bench: &mut Bench) -> Account {
    println!("after the switch, watched for 30 min");
    let mut worst_false = 0.0f64;
    for stable in [0.001, 0.01] {
        for per_s in [1.0, 10.0, 100.0] {
            let n = bench.times(4_000);
            let found = watches(n, |seed| watch(seed, per_s, stable, stable, 0, f64::INFINITY)[0]);
            let failed = found.iter().flatten().count();
            worst_false = worst_false.max(failed as f64 / n as f64);
            println!(
                "{per_s:>6} requests/s at {:>4} %, good: alarm in {}",
                stable * 100.0,
                percent(failed, n as usize)
            );
            bench.interval("that", chance::share(failed, n as usize), " %");
            bench.goal(
                &format!(
                    "false alarm ≤ 1 % at {per_s} requests/s, {stable}: {}",
                    percent(failed, n as usize)
                ),
                bench.one_percent(failed, n as usize),
            );
        }
    }
    let [ratios, peers] = delays(bench);
    let probes_wrong = probes(bench);
    Account {
        ours: json!({
            "false_alarm_worst": rounded(worst_false),
            "probe_wrong_worst": rounded(probes_wrong),
            "ratios": object(ratios.clone()),
        }),
        peers: object(peers),
        ratio: ratios.iter().map(|(_, ratio)| *ratio).fold(0.0, f64::max),
    }
}

/// Median requests from a change to the alarm, by those of the test that knows both rates; and those of the others.
fn delays(bench: &mut Bench) -> [Vec<(String, f64)>; 2] {
    println!("\nmedian requests from a change to the alarm, at 100 requests/s and 0.1 %");
    let head: Vec<String> = NAMES.iter().map(|name| format!("{name:>12}")).collect();
    println!("{:>6} {:>18} {:>7} {:>7} {:>6} {}", "", "", "CUSUM", "watch", "ratio", head.join(" "));
    let (mut ratios, mut peers) = (Vec::new(), Vec::new());
    for (name, worse) in EFFECTS {
        let threshold = Cusum::calibrated(worse, bench.times(4_000));
        for from in FROM {
            let n = bench.times(1_000);
            let found = watches(n, |seed| watch(seed, PER_S, STABLE, worse, from, threshold));
            let medians: Vec<f64> = (0..NAMES.len() + 2)
                .map(|at| quantile(found.iter().map(|found| delay(found[at], from)), 0.5))
                .collect();
            let ratio = medians[0] / medians[1];
            let when = if from == 0 { "at the switch" } else { "10 minutes later" };
            let cells: Vec<String> =
                medians[2..].iter().map(|median| format!("{:>12}", cell(*median))).collect();
            println!(
                "{name:>6} {when:>18} {:>7} {:>7} {:>6} {}",
                cell(medians[1]),
                cell(medians[0]),
                cell(ratio),
                cells.join(" ")
            );
            let all: Vec<f64> =
                found.iter().map(|found| delay(found[0], from).unwrap_or(f64::INFINITY)).collect();
            bench.interval("the watch's median", chance::median(&all), "");
            let what = format!("{name} {when}: {ratio:.2} × a CUSUM that knows the rates ≤ 2");
            bench.goal(&what, ratio <= 2.0 * bench.slack());
            ratios.push((format!("{name} {when}"), ratio));
            if from == 0 {
                let of_others = NAMES.iter().zip(&medians[2..]);
                peers.extend(
                    of_others.map(|(rival, median)| (format!("{rival}, {name}"), median / medians[1])),
                );
            }
        }
    }
    [ratios, peers]
}

/// Returns the worst share of probes that were wrong or did not know.
fn probes(bench: &mut Bench) -> f64 {
    println!();
    let mut worst = 0.0f64;
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
        worst = worst.max(wrong as f64 / n as f64);
        println!(
            "   probe, {name:>15}: {} failed until it is known; wrong or unknown {}",
            cell(quantile(found.iter().map(|found| Some(found.0)), 0.5)),
            percent(wrong, n as usize)
        );
    }
    worst
}
