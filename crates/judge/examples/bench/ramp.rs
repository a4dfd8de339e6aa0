//! Whole releases: 5, 25, 50 and 100 %, going on as soon as that is proven (note, §6).

use cutover_judge::sim::{Detector, Random, Stream, quantile};
use cutover_judge::{Arm, Judge, Outcome, Question, Settings, Verdict, ladder};
use serde_json::json;

use crate::latency::history;
use crate::rivals::{self, NAMES};
use crate::{Account, Bench, MARGINS, cell, chance, object, percent, rounded, watches};

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

/// A judge that is asked for one margin as soon as it may be proven.
struct Passes {
    judge: Judge,
    margin_ppb: u64,
}

impl Passes {
    fn passes(&self) -> bool {
        let (margin_ppb, latency) = (self.margin_ppb, false);
        let question =
            Question { margin_ppb, latency, step_ms: 60_000, floor_ms: 2_000, candidate_per_hour: 0 };
        matches!(self.judge.verdict(&question), Verdict::Pass(_))
    }
}

impl Detector for Passes {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        self.judge.failed(ok, arm);
        self.passes()
    }

    fn second(&mut self, ok: [u64; 2], second: u32) -> bool {
        self.judge.second(ok, second);
        self.passes()
    }
}

/// Requests of the candidate until a margin is proven, if it is: by the judge, by the limit.
fn proof(seed: u64, share_bp: u16, margin_ppb: u64, rates: [f64; 2]) -> [Option<f64>; 2] {
    let mut random = Random::new(seed);
    let past = crate::history(&mut random, rates[0], true);
    let margins = [margin_ppb].into_iter().chain(MARGINS).collect::<std::collections::BTreeSet<u64>>();
    let judge = Judge::new(Settings::new(margins.into_iter().collect()), past).expect("good settings");
    let mut passes = Passes { judge, margin_ppb };
    passes.judge.set_share(share_bp);
    let share = f64::from(share_bp) / 10_000.0;
    // So many of the candidate's requests per second at any share: a second is as fine everywhere.
    let stream = Stream { per_s: 10.0 / share, share, seconds: 1_800, rates: &|_| rates };
    let mut best = Best::new(rates[0], margin_ppb as f64 / 1e9, share);
    let found = stream.run(&mut random, &mut [&mut passes, &mut best]);
    [0, 1].map(|at| found[at].map(|found| found.requests as f64))
}

/// The limit: the best bet on one margin, of somebody who knows at which rate both arms fail.
struct Best {
    /// What a failure and a success add, by arm.
    steps: [[f64; 2]; 2],
    sum: f64,
}

impl Best {
    fn new(rate: f64, margin: f64, share: f64) -> Best {
        let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
        let divergence = |p: f64, q: f64| term(p, q) + term(1.0 - p, 1.0 - q);
        // Of all candidates that are worse by the margin, the one that is hardest to tell from a good one.
        let wins = |stable: f64| {
            divergence(rate, stable + margin) + (1.0 - share) / share * divergence(rate, stable)
        };
        let (mut low, mut high) = (0.0, rate);
        for _ in 0..200 {
            let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
            if wins(a) < wins(b) { high = b } else { low = a }
        }
        let ratios = |p: f64| [(rate / p).ln(), ((1.0 - rate) / (1.0 - p)).ln()];
        Best { steps: [ratios(high), ratios(high + margin)], sum: 0.0 }
    }
}

impl Detector for Best {
    fn failed(&mut self, ok: [u64; 2], arm: Arm) -> bool {
        let enough = self.second(ok, 0);
        self.sum += self.steps[arm as usize][0];
        enough
    }

    fn second(&mut self, ok: [u64; 2], _: u32) -> bool {
        self.sum += ok[0] as f64 * self.steps[0][1] + ok[1] as f64 * self.steps[1][1];
        self.sum >= 100f64.ln()
    }
}

/// Proofs of one margin: how many requests, and how often of one that is worse by just that. Returns the worst ratio where
/// the share is small, and where it is half, and the worst share of false proofs.
fn proofs(bench: &mut Bench) -> [f64; 3] {
    println!(
        "requests to the candidate to prove that it is not worse by a margin, and how often that is proven wrongly"
    );
    println!(
        "{:>6} {:>7} {:>8} {:>7} {:>7} {:>6} {:>14} {:>14}",
        "share", "stable", "margin", "limit", "judge", "ratio", "at the margin", "at twice it"
    );
    let mut worst = [0.0f64; 3];
    for share_bp in [100, 1_000, 5_000] {
        for (rate, margin_ppb) in [(0.0, 5_000_000), (0.001, 5_000_000), (0.01, 10_000_000)] {
            let margin = margin_ppb as f64 / 1e9;
            let n = bench.times(2_000);
            let found = watches(n, |seed| proof(seed, share_bp, margin_ppb, [rate; 2]));
            let [judge, limit] = [0, 1].map(|at| quantile(found.iter().map(|found| found[at]), 0.5));
            let wrong = [1.0, 2.0].map(|times| {
                watches(n, |seed| proof(seed, share_bp, margin_ppb, [rate, rate + times * margin]))
                    .iter()
                    .filter(|found| found[0].is_some())
                    .count()
            });
            println!(
                "{:>5}% {:>6}% {:>6} pp {:>7} {:>7} {:>6.2} {:>14} {:>14}",
                f64::from(share_bp) / 100.0,
                rate * 100.0,
                margin * 100.0,
                cell(limit),
                cell(judge),
                judge / limit,
                percent(wrong[0], n as usize),
                percent(wrong[1], n as usize)
            );
            bench.interval("those at the margin", chance::share(wrong[0], n as usize), " %");
            let (which, most) = if share_bp == 5_000 { (1, 1.4) } else { (0, 1.1) };
            let where_ = format!("{share_bp} bp, {rate}");
            bench.goal(
                &format!("proof at {where_}: {:.2} × the limit ≤ {most}", judge / limit),
                judge / limit <= most * bench.slack(),
            );
            bench.goal(
                &format!("false proof ≤ 1 % at the margin, {where_}: {}", percent(wrong[0], n as usize)),
                bench.one_percent(wrong[0], n as usize),
            );
            worst[which] = worst[which].max(judge / limit);
            worst[2] = worst[2].max(wrong[0] as f64 / n as f64);
        }
    }
    worst
}

/// Counts what fails of the candidate, and never fires.
#[derive(Default)]
struct Meter(u64);

impl Detector for Meter {
    fn failed(&mut self, _: [u64; 2], arm: Arm) -> bool {
        self.0 += u64::from(arm == Arm::Candidate);
        false
    }

    fn second(&mut self, _: [u64; 2], _: u32) -> bool {
        false
    }
}

/// The article's steps, 300 s each, under the rules of others: whether the candidate gets to 100 %, and its failed requests.
fn stairs(seed: u64, per_s: f64, rates: [f64; 2]) -> Vec<(bool, f64)> {
    let (mut random, mut meter, mut others) = (Random::new(seed), Meter::default(), rivals::all());
    let mut ends: Vec<Option<f64>> = vec![None; NAMES.len()];
    for share in [0.05, 0.1, 0.25, 0.5, 0.75] {
        let before = meter.0;
        let mut detectors: Vec<&mut dyn Detector> = vec![&mut meter];
        detectors.extend(rivals::each(&mut others));
        let found = Stream { per_s, share, seconds: 300, rates: &|_| rates }.run(&mut random, &mut detectors);
        for (end, found) in ends.iter_mut().zip(&found[1..]) {
            *end = end.or(found.map(|found| (before + found.errors) as f64));
        }
    }
    ends.into_iter().map(|end| (end.is_none(), end.unwrap_or(meter.0 as f64))).collect()
}

/// Measures what good releases take and what bad ones come to; the ratio is the good one's seconds by the 60 that it may take.
pub(crate) fn run(bench: &mut Bench) -> Account {
    let [small, half, wrong] = proofs(bench);
    println!(
        "\nreleases 5 → 25 → 50 → 100 %, stable at 0.1 %; the article, and the others with its steps, take 1,800 s"
    );
    let mut medians = [0.0; 2];
    for per_s in [1.0, 10.0, 100.0, 1_000.0] {
        for (which, latency) in [false, true].into_iter().enumerate() {
            let n = bench.times(if per_s > 500.0 { 500 } else { 2_000 });
            let found = watches(n, |seed| ramp(seed, per_s, [0.001; 2], latency));
            let taken: Vec<f64> = found
                .iter()
                .map(|ramp| if ramp.end == End::Released { ramp.seconds } else { f64::INFINITY })
                .collect();
            let seconds = |p| quantile(taken.iter().copied().map(Some), p);
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
                bench.interval("the median", chance::median(&taken), " s");
                medians[which] = seconds(0.5);
                let most = [60.0, 90.0][which];
                bench.goal(
                    &format!("good release within {most} s: {:.0}", seconds(0.5)),
                    seconds(0.5) <= most,
                );
            }
        }
    }
    println!("\n100 requests/s: how often it gets to 100 %, and median failed requests");
    let head: Vec<String> = NAMES.iter().map(|name| format!("{name:>16}")).collect();
    println!("{:>8} {:>16} {}", "", "judge", head.join(" "));
    let mut peers = Vec::new();
    for (name, candidate) in
        [("good", 0.001), ("+0.5pp", 0.006), ("+1pp", 0.011), ("+5pp", 0.051), ("50 %", 0.5)]
    {
        let n = bench.times(1_000);
        let found = watches(n, |seed| ramp(seed, 100.0, [0.001, candidate], false));
        let ours = found.iter().map(|ramp| (ramp.end == End::Released, ramp.failed as f64)).collect();
        let few = (n / 10).max(20);
        let others = watches(few, |seed| stairs(seed, 100.0, [0.001, candidate]));
        let others = (0..NAMES.len()).map(|at| others.iter().map(|rules| rules[at]).collect());
        let columns: Vec<Vec<(bool, f64)>> = [ours].into_iter().chain(others).collect();
        let cells: Vec<String> = columns
            .iter()
            .map(|column| {
                let released = column.iter().filter(|(released, _)| *released).count();
                let failed = quantile(column.iter().map(|(_, failed)| Some(*failed)), 0.5);
                format!("{:>16}", format!("{} {failed:.0}", percent(released, column.len())))
            })
            .collect();
        println!("{name:>8} {}", cells.join(" "));
        if candidate == 0.5 {
            let failed =
                |column: &Vec<(bool, f64)>| quantile(column.iter().map(|(_, failed)| Some(*failed)), 0.5);
            peers = NAMES
                .iter()
                .map(|name| format!("{name}_failed_at_50"))
                .zip(columns[1..].iter().map(failed))
                .collect();
        }
    }
    Account {
        ours: json!({
            "good_release_s": rounded(medians[0]),
            "good_release_with_latency_s": rounded(medians[1]),
            "proof_ratio_small_share": rounded(small),
            "proof_ratio_half": rounded(half),
            "false_proof_worst": rounded(wrong),
        }),
        peers: object(peers.into_iter().chain([("article_good_release_s".to_owned(), 1_800.0)])),
        ratio: medians[0] / 60.0,
    }
}
