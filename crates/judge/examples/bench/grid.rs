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
    let mut rows = vec![[0.0f64; 3]; 2 + NAMES.len()];
    for (per_s, share_bp, stable) in cells() {
        let column = STABLE.iter().position(|rate| *rate == stable).unwrap_or(0);
        let cell = Cell { per_s, share_bp, rates: [stable; 2] };
        for (row, known) in [true, false].into_iter().enumerate() {
            let found = watches(n, |seed| cell.watch(seed, known, false));
            let failed = found.iter().filter(|watch| watch[0].is_some()).count();
            rows[row][column] = rows[row][column].max(failed as f64 / n as f64);
            worst = worst.max(failed as f64 / n as f64);
            let what = format!(
                "false rollback ≤ 1 % at {per_s} requests/s, {share_bp} bp, {stable}: {}",
                percent(failed, n as usize)
            );
            bench.goal(&what, bench.one_percent(failed, n as usize));
        }
        // What they do wrong is plain from fewer.
        let found = watches(n / 10, |seed| cell.watch(seed, true, true));
        for at in 0..NAMES.len() {
            let failed = found.iter().filter(|watch| watch[at + 1].is_some()).count();
            rows[at + 2][column] = rows[at + 2][column].max(failed as f64 / found.len() as f64);
        }
    }
    for (name, row) in ["judge, stable known", "judge, nothing known"].iter().chain(&NAMES).zip(&rows) {
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

/// What a regression took, in medians over watches.
struct Row {
    cell: Cell,
    effect: &'static str,
    /// Requests to the candidate: the judge's, the limit's if one failed request were enough, the limit's.
    judge: f64,
    raw: f64,
    limit: f64,
    /// The judge's where nothing is known of stable.
    cold: f64,
    /// Failed requests until the judge knows: median, 95th percentile.
    failed: [f64; 2],
    rivals: Vec<f64>,
}

impl Row {
    fn measure(cell: Cell, effect: &'static str, n: u64) -> Row {
        let found = watches(n, |seed| cell.watch(seed, true, true));
        let without = watches(n, |seed| cell.watch(seed, false, false));
        let median = |found: &[Watch], at: usize| {
            quantile(found.iter().map(|watch| watch[at].map(|found| found.requests as f64)), 0.5)
        };
        let errors = |p| quantile(found.iter().map(|watch| watch[0].map(|found| found.errors as f64)), p);
        Row {
            judge: median(&found, 0),
            raw: median(&found, 1),
            limit: median(&found, 2),
            cold: median(&without, 0),
            failed: [0.5, 0.95].map(errors),
            rivals: (0..NAMES.len()).map(|at| median(&found, at + 3)).collect(),
            cell,
            effect,
        }
    }

    fn print(&self) {
        let Row { limit, raw, judge, cold, .. } = *self;
        let bracket = if raw == limit { String::new() } else { format!("({})", cell(raw)) };
        let rivals: Vec<String> = self.rivals.iter().map(|rival| format!("{:>12}", cell(*rival))).collect();
        println!(
            "{:>6} {:>5}% {:>5}% {:>6} {:>9} {:>7} {:>6} {:>6} {:>9} {}",
            self.cell.per_s,
            f64::from(self.cell.share_bp) / 100.0,
            self.cell.rates[0] * 100.0,
            self.effect,
            format!("{}{bracket}", cell(limit)),
            cell(judge),
            cell(judge / limit),
            cell(cold / limit),
            format!("{}/{}", cell(self.failed[0]), cell(self.failed[1])),
            rivals.join(" ")
        );
    }

    fn goals(&self, bench: &mut Bench) {
        let (limit, judge, [failed, failed95]) = (self.limit, self.judge, self.failed);
        let Cell { per_s, share_bp, rates } = self.cell;
        let name = format!("{} of {} at {per_s} requests/s, {share_bp} bp", self.effect, rates[0]);
        // Where the limit needs most of the half hour, the judge's median may fall outside of it.
        let sent = per_s * self.cell.share() * f64::from(SECONDS);
        if judge.is_finite() || limit * 1.5 < sent {
            let what = format!("{judge} requests ≤ 1.5 × {limit} + 2: {name}");
            bench.goal(&what, judge <= (1.5 * limit + 2.0) * bench.slack());
        }
        if rates[1] >= 0.5 && share_bp <= 1_000 {
            let what = format!("{failed}/{failed95} failed ≤ 3/5: {name}");
            bench.goal(&what, failed <= 3.0 * bench.slack() && failed95 <= 5.0 * bench.slack());
        }
    }
}

/// Requests to the candidate until a regression is found, by those of the limit.
pub(crate) fn regressions(bench: &mut Bench) -> Power {
    let n = bench.times(1_000);
    println!("\nregressions: median requests to the candidate until it is found; {n} watches per cell");
    println!(
        "{:>6} {:>6} {:>6} {:>6} {:>9} {:>7} {:>6} {:>6} {:>9} {}",
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
    let mut rows = Vec::new();
    for (per_s, share_bp, stable) in cells() {
        for (effect, candidate) in effects(stable) {
            let row = Row::measure(Cell { per_s, share_bp, rates: [stable, candidate] }, effect, n);
            // What the limit itself does not find in half of the watches is no measure.
            if row.limit.is_finite() {
                row.print();
                row.goals(bench);
                rows.push(row);
            }
        }
    }
    summary(bench, &rows)
}

fn summary(bench: &mut Bench, rows: &[Row]) -> Power {
    let of =
        |value: &dyn Fn(&Row) -> f64, p| quantile(rows.iter().map(|row| Some(value(row) / row.limit)), p);
    let ours = of(&|row| row.judge, 0.5);
    let large = rows.iter().filter(|row| row.limit >= 20.0 && row.judge.is_finite());
    let worst = large.map(|row| row.judge / row.limit).fold(0.0, f64::max);
    println!(
        "judge ÷ limit over {} cells: median {ours:.3}, 90th percentile {:.2}; nothing known of stable: median {:.3}; \
         worst where the limit is 20 requests or more: {worst:.2}",
        rows.len(),
        of(&|row| row.judge, 0.9),
        of(&|row| row.cold, 0.5)
    );
    println!("(in brackets: the limit if one failed request were enough to take a release back)");
    let raw = quantile(rows.iter().map(|row| Some(row.judge / row.raw)), 0.5);
    println!("against the limit in brackets: median {raw:.3}");
    bench.goal(&format!("median ratio {ours:.3} ≤ 1.35"), ours <= 1.35);
    let rivals =
        NAMES.into_iter().enumerate().map(|(at, name)| (name, of(&|row| row.rivals[at], 0.5))).collect();
    Power { ours, worst, rivals }
}
