//! Errors: requests per second × share × stable's rate × what the candidate does (note, §2 and §3).

use cutover_judge::sim::{Detector, Found, Limit, Random, Stream, quantile};
use cutover_judge::{Judge, Settings};
use serde_json::json;

use crate::rivals::{self, NAMES, Naming};
use crate::{Account, Bench, MARGINS, cell, chance, history, object, percent, rounded, watches};

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
        let mut told = Limit::new([self.rates[0], self.rates[0] + 0.01], self.share());
        let mut rivals = rivals::all();
        let mut detectors: Vec<&mut dyn Detector> = vec![&mut judge];
        if self.rates[0] != self.rates[1] {
            detectors.extend([&mut limit as &mut dyn Detector, &mut naming]);
        } else if all {
            detectors.push(&mut told);
        }
        if all {
            detectors.extend(rivals::each(&mut rivals));
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

/// Counts good releases that are taken back; the ratio is the worst share by the 1 % that are allowed.
pub(crate) fn good_releases(bench: &mut Bench) -> Account {
    let n = bench.times(10_000);
    println!(
        "good releases taken back in 30 min; {n} watches per cell, worst of 10 and 100 requests/s and shares 1, 5, 10, 50 %"
    );
    println!("{:>28} {:>8} {:>8} {:>8}", "stable's error rate", "0 %", "0.1 %", "1 %");
    let mut worst = 0;
    let ours = ["judge, stable known", "judge, nothing known"];
    // The test that is the limit has to be told what to look for.
    let names: Vec<&str> = ours.iter().chain(&["two-sample SPRT for +1pp"]).chain(&NAMES).copied().collect();
    let mut rows = vec![[0.0f64; 3]; names.len()];
    for (per_s, share_bp, stable) in cells() {
        let column = STABLE.iter().position(|rate| *rate == stable).unwrap_or(0);
        let cell = Cell { per_s, share_bp, rates: [stable; 2] };
        for (row, known) in [true, false].into_iter().enumerate() {
            let found = watches(n, |seed| cell.watch(seed, known, false));
            let failed = found.iter().filter(|watch| watch[0].is_some()).count();
            rows[row][column] = rows[row][column].max(failed as f64 / n as f64);
            worst = worst.max(failed);
            let what = format!(
                "false rollback ≤ 1 % at {per_s} requests/s, {share_bp} bp, {stable}: {}",
                percent(failed, n as usize)
            );
            bench.goal(&what, bench.one_percent(failed, n as usize));
        }
        // What they do wrong is plain from fewer.
        let found = watches(n / 10, |seed| cell.watch(seed, true, true));
        for (at, row) in rows.iter_mut().enumerate().skip(ours.len()) {
            let failed = found.iter().filter(|watch| watch[at - 1].is_some()).count();
            row[column] = row[column].max(failed as f64 / found.len() as f64);
        }
    }
    for (name, row) in names.iter().zip(&rows) {
        let row: Vec<String> = row.iter().map(|share| format!("{:>7.2}%", share * 100.0)).collect();
        println!("{name:>28} {}", row.join(" "));
    }
    bench.interval("a cell as the judge's worst", chance::share(worst, n as usize), " %");
    let most = |row: &[f64; 3]| row.iter().copied().fold(0.0, f64::max);
    let of_others = names.iter().zip(&rows).skip(ours.len()).map(|(name, row)| (*name, most(row)));
    Account {
        ours: json!({ "watches_per_cell": n, "worst": rounded(worst as f64 / n as f64) }),
        peers: object(of_others),
        ratio: worst as f64 / n as f64 / 0.01,
    }
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
    /// What each watch took the judge, and the limit.
    all: [Vec<f64>; 2],
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
            all: [0, 2].map(|at| {
                let requests = |watch: &Watch| watch[at].map_or(f64::INFINITY, |found| found.requests as f64);
                found.iter().map(requests).collect()
            }),
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

/// Measures requests to the candidate until a regression is found; the ratio is the median over cells by those of the limit.
pub(crate) fn regressions(bench: &mut Bench) -> Account {
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

fn summary(bench: &mut Bench, rows: &[Row]) -> Account {
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
    let lists: Vec<Vec<f64>> = rows.iter().flat_map(|row| row.all.clone()).collect();
    bench.interval("the median ratio", chance::redrawn(&lists, ratio_of), "");
    let rivals = NAMES.into_iter().enumerate().map(|(at, name)| (name, of(&|row| row.rivals[at], 0.5)));
    let failed = |p: usize| {
        let hard = rows.iter().filter(|row| row.cell.rates[1] >= 0.5 && row.cell.share_bp <= 1_000);
        hard.map(|row| row.failed[p]).fold(0.0, f64::max)
    };
    Account {
        ours: json!({
            "ratio_median": rounded(ours),
            "ratio_p90": rounded(of(&|row| row.judge, 0.9)),
            "ratio_worst_where_limit_20": rounded(worst),
            "failed_median_worst": rounded(failed(0)),
            "failed_p95_worst": rounded(failed(1)),
        }),
        peers: object(rivals.chain([("two_sample_sprt", 1.0)])),
        ratio: ours,
    }
}

/// The median over cells of the judge's median by the limit's, from the lists of each cell by turns.
fn ratio_of(lists: &[Vec<f64>]) -> f64 {
    let median = |list: &[f64]| quantile(list.iter().copied().map(Some), 0.5);
    quantile(lists.chunks(2).map(|both| Some(median(&both[0]) / median(&both[1]))), 0.5)
}
