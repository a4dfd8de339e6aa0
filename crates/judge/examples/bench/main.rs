//! The judge, measured by simulation, beside the limit and the rules of others on the same streams.
//!
//!     judge-bench NAME [--quick]        the last line is the result as JSON
//!
//! The goals are G1 to G8 of the statistics that the judge was built from, as the design adjusted them.

mod after;
mod chance;
mod cost;
mod grid;
mod kayenta;
mod latency;
mod ramp;
mod rivals;
mod slow;
mod trouble;

use cutover_judge::sim::Random;
use cutover_judge::{Histogram, History};
use serde_json::{Map, Value, json};

/// Margins that every judge here bets on: all processes run, as in a release.
pub(crate) const MARGINS: [u64; 3] = [5_000_000, 20_000_000, 50_000_000];

/// How much is simulated, and what did not hold.
pub(crate) struct Bench {
    quick: bool,
    missed: Vec<String>,
}

/// What a benchmark came to.
pub(crate) struct Account {
    pub(crate) ours: Value,
    pub(crate) peers: Value,
    /// Ours by the limit, or by what is allowed.
    pub(crate) ratio: f64,
}

impl Bench {
    /// Replications: a number, or with --quick a part of it.
    pub(crate) fn times(&self, full: u64) -> u64 {
        if self.quick { (full / 40).max(50) } else { full }
    }

    pub(crate) fn quick(&self) -> bool {
        self.quick
    }

    /// A goal. What is not reached is told at the end.
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

    /// Says, with --quick, how far what was just printed may be from the truth.
    pub(crate) fn interval(&self, what: &str, [low, high]: [f64; 2], unit: &str) {
        if self.quick {
            println!(
                "--quick: with a chance of 95 %, {what} is between {} and {}{unit}",
                cell(low),
                cell(high)
            );
        }
    }
}

/// One of the benchmarks.
struct Named {
    name: &'static str,
    goal: &'static str,
    run: fn(&mut Bench) -> Account,
}

const ALL: [Named; 5] = [
    Named {
        name: "judge-false",
        goal: "G1: a good release is taken back in <= 1 % of the watches, in every cell, also under outage, drift and retries",
        run: |bench| {
            let mut account = grid::good_releases(bench);
            let trouble = trouble::run(bench);
            account.ratio = account.ratio.max(trouble.ratio);
            account.ours["in_trouble"] = trouble.ours;
            account.peers["in_trouble"] = trouble.peers;
            account
        },
    },
    Named {
        name: "judge-power",
        goal: "G2: requests to find a regression <= 1.35 x the two-sample SPRT in the median over cells, <= 1.5 x + 2 in every \
               cell; G4: <= 3 failed requests in the median and <= 5 at the 95th percentile where half or more fail; \
               G8: < 1 µs per request",
        run: |bench| {
            let mut account = grid::regressions(bench);
            account.ours["ns_per_request"] = json!(cost::run(bench).round());
            account
        },
    },
    Named {
        name: "judge-latency",
        goal: "G1 with latency; G3: requests to find slowness <= 1.75 x the two-sample SPRT where all are slower, <= 2 x where \
               few are",
        run: latency::run,
    },
    Named {
        name: "judge-promote",
        goal: "G5: requests to prove a good release <= 1.1 x the limit at shares up to 10 %, <= 1.4 x at half, and 100 % in <= \
               60 s at 100 requests/s on errors, <= 90 s with latency; G6: one that is worse by the margin passes in <= 1 %",
        run: ramp::run,
    },
    Named {
        name: "judge-after",
        goal: "G7: requests after the switch until an alarm <= 2 x a CUSUM that knows both rates; a false alarm in <= 1 % of the \
               watches",
        run: after::run,
    },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, options) = arguments.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
    let named: Vec<&Named> = ALL.iter().filter(|named| name == "judge" || named.name == name).collect();
    if named.is_empty() || options.iter().any(|option| option != "--quick") {
        eprintln!("usage: judge-bench judge|{} [--quick]", ALL.map(|named| named.name).join("|"));
        std::process::exit(2);
    }
    let mut lines = Vec::new();
    for Named { name, goal, run } in named {
        let mut bench = Bench { quick: !options.is_empty(), missed: Vec::new() };
        println!("\n{name}\n{}\n", "-".repeat(name.len()));
        let Account { ours, peers, ratio } = run(&mut bench);
        println!();
        bench.missed.iter().for_each(|missed| println!("not reached: {missed}"));
        let holds = bench.missed.is_empty();
        println!("goal: {goal} — {}", if holds { "holds" } else { "NOT reached" });
        let line = json!({
            "bench": name, "ours": ours, "peers": peers, "ratio": rounded(ratio), "goal": goal, "holds": holds,
        });
        lines.push(line);
    }
    match &lines[..] {
        [line] => println!("{line}"),
        lines => println!("{}", whole(lines)),
    }
}

/// All of them as one: the ratio is that of the regressions, which says most.
fn whole(lines: &[Value]) -> Value {
    let of = |key: &str| -> Map<String, Value> {
        lines
            .iter()
            .filter_map(|line| Some((line["bench"].as_str()?.to_owned(), line[key].clone())))
            .collect()
    };
    let ratio = lines.iter().find(|line| line["bench"] == "judge-power").map(|line| line["ratio"].clone());
    let holds = lines.iter().all(|line| line["holds"] == true);
    json!({
        "bench": "judge", "ours": of("ours"), "peers": of("peers"), "ratio": ratio, "goal": of("goal"), "holds": holds,
    })
}

/// Thousandths; JSON knows no infinity.
pub(crate) fn rounded(value: f64) -> Value {
    if value.is_finite() { json!((value * 1_000.0).round() / 1_000.0) } else { Value::Null }
}

/// What has names, as an object.
pub(crate) fn object<K: Into<String>>(all: impl IntoIterator<Item = (K, f64)>) -> Value {
    Value::Object(all.into_iter().map(|(name, value)| (name.into(), rounded(value))).collect())
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
