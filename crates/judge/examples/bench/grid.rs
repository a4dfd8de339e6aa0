//! Errors: requests per second × share × stable's rate × what the candidate does (note, §2 and §3).

use cutover_judge::sim::{Detector, Found, Limit, Random, Stream, quantile};
use cutover_judge::{Judge, Settings};

use crate::rivals::{self, NAMES, Naming};
use crate::{Bench, MARGINS, cell, history, percent, watches};

const PER_S: [f64; 2] = [10.0, 100.0];
const SHARES_BP: [u16; 4] = [100, 500, 1_000, 5_000];
const STABLE: [f64; 3] = [0.0, 0.001, 0.01];
const SECONDS: u32 = 1_800;

/// What happens to a candidate, by its name and stable's rate.
fn effects(stable: f64) -> Vec<(&'static str, f64)> {
    let mut all = vec![("+1pp", stable + 0.01), ("+5pp", stable + 0.05), ("50 %", 0.5), ("100 %", 1.0)];
    if stable > 0.0 {
        all.splice(0..0, [("2x", stable * 2.0), ("5x", stable * 5.0)]);
    }
    all
}

struct Cell {
    per_s: f64,
    share_bp: u16,
    rates: [f64; 2],
}

/// What each took: the judge, the limit, the limit that names two, then the rivals.
type Watch = Vec<Option<Found>>;

impl Cell {
    fn share(&self) -> f64 {
        f64::from(self.share_bp) / 10_000.0
    }

    fn judge(&self, random: &mut Random, known: bool) -> Judge {
        let past = history(random, self.rates[0], known);
        let mut judge = Judge::new(Settings::new(MARGINS.to_vec()), past).expect("good settings");
        judge.set_share(self.share_bp);
        judge
    }

    fn watch(&self, seed: u64, known: bool, all: bool) -> Watch {
        let mut random = Random::new(seed);
        let mut judge = self.judge(&mut random, known);
        let mut limit = Limit::new(self.rates, self.share());
        let mut naming = Naming { inner: Limit::new(self.rates, self.share()), errors: 0 };
        let mut rivals = rivals::all();
        let mut detectors: Vec<&mut dyn Detector> = vec![&mut judge];
        if self.rates[0] != self.rates[1] {
            detectors.extend([&mut limit as &mut dyn Detector, &mut naming]);
        }
        if all {
            detectors.extend(rivals.iter_mut().map(|rival| rival as &mut dyn Detector));
        }
        let stream =
            Stream { per_s: self.per_s, share: self.share(), seconds: SECONDS, rates: &|_| self.rates };
        stream.run(&mut random, &mut detectors)
    }
}

fn cells() -> impl Iterator<Item = (f64, u16, f64)> {
    PER_S.into_iter().flat_map(|per_s| {
        SHARES_BP
            .into_iter()
            .flat_map(move |share| STABLE.into_iter().map(move |stable| (per_s, share, stable)))
    })
}

/// Returns the worst share of good releases that were rolled back.
pub(crate) fn good_releases(bench: &mut Bench) -> f64 {
    let n = bench.times(10_000);
    println!(
        "good releases taken back in 30 min; {n} watches per cell, worst of 10 and 100 requests/s and shares 1, 5, 10, 50 %"
    );
    println!("{:>24} {:>8} {:>8} {:>8}", "stable's error rate", "0 %", "0.1 %", "1 %");
    let mut worst: f64 = 0.0;
    let mut rows = vec![(0, [0.0f64; 3]); 2 + NAMES.len()];
    for (per_s, share_bp, stable) in cells() {
        let column = STABLE.iter().position(|rate| *rate == stable).unwrap_or(0);
        let cell = Cell { per_s, share_bp, rates: [stable; 2] };
        for (row, known) in [true, false].into_iter().enumerate() {
            let found = watches(n, |seed| cell.watch(seed, known, known));
            for (at, name) in [0].into_iter().chain(if known { 1..found[0].len() } else { 0..0 }).enumerate()
            {
                let failed = found.iter().filter(|watch| watch[name].is_some()).count();
                let row = if at == 0 { row } else { at + 1 };
                rows[row].1[column] = rows[row].1[column].max(failed as f64 / n as f64);
                if at == 0 {
                    worst = worst.max(failed as f64 / n as f64);
                    let what = format!(
                        "false rollback ≤ 1 % at {per_s} requests/s, {share_bp} bp, {stable}: {}",
                        percent(failed, n as usize)
                    );
                    bench.goal(&what, bench.one_percent(failed, n as usize));
                }
            }
        }
    }
    for (name, (_, row)) in ["judge, stable known", "judge, nothing known"].iter().chain(&NAMES).zip(&rows) {
        let row: Vec<String> = row.iter().map(|share| format!("{:>7.2}%", share * 100.0)).collect();
        println!("{name:>24} {}", row.join(" "));
    }
    worst
}

/// What the regressions came to.
pub(crate) struct Power {
    /// The median over cells of requests to find it, by those of the limit.
    pub(crate) ours: f64,
    /// The same where the limit is 20 requests or more, at worst.
    pub(crate) worst: f64,
    /// The same median of others.
    pub(crate) rivals: Vec<(&'static str, f64)>,
}

/// Requests to the candidate until a regression is found, by those of the limit.
pub(crate) fn regressions(bench: &mut Bench) -> Power {
    let n = bench.times(2_000);
    println!("\nregressions: median requests to the candidate until it is found; {n} watches per cell");
    println!(
        "{:>6} {:>6} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6} {:>9} {}",
        "req/s",
        "share",
        "stable",
        "effect",
        "limit",
        "judge",
        "ratio",
        "cold",
        "failed",
        NAMES.map(|name| format!("{name:>12}")).join(" ")
    );
    let (mut ours, mut cold, mut worst) = (Vec::new(), Vec::new(), 0.0f64);
    let mut others: Vec<Vec<f64>> = vec![Vec::new(); NAMES.len()];
    for (per_s, share_bp, stable) in cells() {
        for (effect, candidate) in effects(stable) {
            let cell_ = Cell { per_s, share_bp, rates: [stable, candidate] };
            let found = watches(n, |seed| cell_.watch(seed, true, true));
            let without = watches(n, |seed| cell_.watch(seed, false, false));
            let median = |found: &[Watch], at: usize| {
                quantile(found.iter().map(|watch| watch[at].map(|found| found.requests as f64)), 0.5)
            };
            let [judge, raw, limit] = [0, 1, 2].map(|at| median(&found, at));
            if !limit.is_finite() {
                continue;
            }
            let errors = |p| quantile(found.iter().map(|watch| watch[0].map(|found| found.errors as f64)), p);
            let (failed, failed95) = (errors(0.5), errors(0.95));
            ours.push(judge / limit);
            cold.push(median(&without, 0) / limit);
            let rivals: Vec<f64> = (0..NAMES.len()).map(|at| median(&found, at + 3)).collect();
            others.iter_mut().zip(&rivals).for_each(|(all, rival)| all.push(rival / limit));
            if limit >= 20.0 && judge.is_finite() {
                worst = worst.max(judge / limit);
            }
            println!(
                "{per_s:>6} {:>5}% {:>5}% {effect:>6} {:>7} {:>7} {:>6} {:>6} {:>9} {}",
                f64::from(share_bp) / 100.0,
                stable * 100.0,
                if raw == limit { cell(limit) } else { format!("{}({})", cell(limit), cell(raw)) },
                cell(judge),
                cell(judge / limit),
                cell(median(&without, 0) / limit),
                format!("{}/{}", cell(failed), cell(failed95)),
                rivals.iter().map(|rival| format!("{:>12}", cell(*rival))).collect::<Vec<_>>().join(" ")
            );
            let name = format!("{effect} of {stable} at {per_s} requests/s, {share_bp} bp");
            // Where the limit needs most of the half hour, the judge's median may fall outside of it.
            let sent = per_s * cell_.share() * f64::from(SECONDS);
            if judge.is_finite() || limit * 1.5 < sent {
                bench.goal(
                    &format!("{judge} requests ≤ 1.5 × {limit} + 2: {name}"),
                    judge <= (1.5 * limit + 2.0) * bench.slack(),
                );
            }
            if candidate >= 0.5 && share_bp <= 1_000 {
                bench.goal(
                    &format!("{failed}/{failed95} failed ≤ 3/5: {name}"),
                    failed <= 3.0 * bench.slack() && failed95 <= 5.0 * bench.slack(),
                );
            }
        }
    }
    summary(bench, ours, cold, worst, others)
}

fn summary(bench: &mut Bench, ours: Vec<f64>, cold: Vec<f64>, worst: f64, others: Vec<Vec<f64>>) -> Power {
    let of = |all: &[f64], p| quantile(all.iter().map(|ratio| Some(*ratio)), p);
    let median = of(&ours, 0.5);
    println!(
        "judge ÷ limit over {} cells: median {median:.3}, 90th percentile {:.2}; nothing known of stable: median {:.3}; worst where \
         the limit is 20 requests or more: {worst:.2}",
        ours.len(),
        of(&ours, 0.9),
        of(&cold, 0.5)
    );
    println!("(in brackets: the limit if one failed request were enough to take a release back)");
    bench.goal(&format!("median ratio {median:.3} ≤ 1.35"), median <= 1.35);
    let rivals = NAMES.into_iter().zip(others.iter().map(|all| of(all, 0.5))).collect();
    Power { ours: median, worst, rivals }
}
