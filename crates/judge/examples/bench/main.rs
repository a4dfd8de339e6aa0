//! The judge, measured by simulation, beside the limit and the rules of others on the same streams: `bench/run judge`.
//!
//!     bench [--quick]        the last line is the result as JSON

mod after;
mod cost;
mod grid;
mod latency;
mod ramp;
mod rivals;
mod trouble;

use cutover_judge::sim::Random;
use cutover_judge::{Histogram, History};

/// Margins that every judge here bets on: all processes run, as in a release.
pub(crate) const MARGINS: [u64; 3] = [5_000_000, 20_000_000, 50_000_000];

/// How much is simulated, and what did not hold.
pub(crate) struct Bench {
    quick: bool,
    missed: Vec<String>,
}

impl Bench {
    /// Replications: a number, or with --quick a part of it.
    pub(crate) fn times(&self, full: u64) -> u64 {
        if self.quick { (full / 40).max(50) } else { full }
    }

    pub(crate) fn quick(&self) -> bool {
        self.quick
    }

    /// A goal of the design. What is not reached is told at the end.
    pub(crate) fn goal(&mut self, what: &str, holds: bool) {
        if !holds {
            self.missed.push(what.to_string());
        }
    }

    /// How far a median may be from its goal: not at all in a full run. Medians of 50 watches are wrong by a fifth.
    pub(crate) fn slack(&self) -> f64 {
        if self.quick { 1.2 } else { 1.0 }
    }

    /// Whether so many failures in so many replications can be a chance of 1 %: as they are in a full run, with what
    /// chance allows (three standard errors) in a quick one.
    pub(crate) fn one_percent(&self, failed: usize, of: usize) -> bool {
        let expected = of as f64 * 0.01;
        let slack = if self.quick { 3.0 * expected.sqrt() } else { 0.0 };
        failed as f64 <= expected + slack
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = arguments.iter().find(|argument| *argument != "--quick") {
        eprintln!("bench: unknown option \"{unknown}\"; usage: bench [--quick]");
        std::process::exit(2);
    }
    let mut bench = Bench { quick: !arguments.is_empty(), missed: Vec::new() };
    let false_worst = grid::good_releases(&mut bench);
    let power = grid::regressions(&mut bench);
    let trouble_worst = trouble::run(&mut bench);
    latency::run(&mut bench);
    let [errors_s, latency_s] = ramp::run(&mut bench);
    after::run(&mut bench);
    let nanoseconds = cost::run(&mut bench);
    println!();
    for missed in &bench.missed {
        println!("not reached: {missed}");
    }
    let peers: Vec<String> =
        power.rivals.iter().map(|(name, ratio)| format!("\"{name}\": {}", number(*ratio))).collect();
    println!(
        "{{\"bench\": \"judge\", \"ours\": {:.3}, \"peers\": {{{}}}, \"ratio\": {:.3}, \"goal\": 1.35, \
         \"false_rollback_worst\": {false_worst:.4}, \"false_rollback_in_trouble_worst\": {trouble_worst:.4}, \
         \"ratio_worst_where_limit_20\": {:.3}, \"good_release_s\": {errors_s:.1}, \"good_release_with_latency_s\": {latency_s:.1}, \
         \"ns_per_request\": {nanoseconds:.0}, \"holds\": {}}}",
        power.ours,
        peers.join(", "),
        power.ours,
        power.worst,
        bench.missed.is_empty()
    );
}

/// JSON knows no infinity.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { "null".into() }
}

/// History of stable with an error rate; none if it is not known.
pub(crate) fn history(random: &mut Random, rate: f64, known: bool) -> History {
    let requests = if known { 10_000 } else { 0 };
    let errors = random.poisson(requests as f64 * rate);
    History { requests, errors, client_errors: 0, latencies: Histogram::default() }
}

/// What `of` returns for each seed, on all cores, in the order of the seeds.
pub(crate) fn watches<T: Send>(n: u64, of: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let mut all: Vec<(u64, T)> = std::thread::scope(|scope| {
        let of = &of;
        let started: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    (thread..n).step_by(threads as usize).map(|seed| (seed, of(seed))).collect()
                })
            })
            .collect();
        started.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|_: _| Vec::new())).collect()
    });
    assert_eq!(all.len() as u64, n, "a simulation panicked");
    all.sort_by_key(|(seed, _)| *seed);
    all.into_iter().map(|(_, found)| found).collect()
}

/// A share of replications, in words.
pub(crate) fn percent(part: usize, of: usize) -> String {
    format!("{:.2} %", 100.0 * part as f64 / of.max(1) as f64)
}

/// A number for a table: whole if it is large, a dash if there is none.
pub(crate) fn cell(value: f64) -> String {
    match value {
        value if !value.is_finite() => "—".into(),
        value if value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.0}"),
    }
}
