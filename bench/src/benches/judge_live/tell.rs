//! What the judge came to, in tables and as a line.

use serde_json::{Map, Value, json};

use super::Failing;
use super::rises::Rises;
use super::trips::Trips;
use crate::benches::Outcome;
use crate::benches::numbers::{Samples, Spread, median_between};

const GOAL: &str = "a candidate at 10 % that fails half of its requests: <= 3 of them failed in the median and <= 5 at the 95th \
                    percentile when it is decided, none assigned after; a good one at 100 requests/s has all traffic in <= 60 s \
                    in the median on errors, <= 90 s with latency";
const FAILED: (u64, u64) = (3, 5);
const RISE_US: (f64, f64) = (60e6, 90e6);

/// Prints it, and judges it.
pub(super) fn outcome(rows: &[Failing], rises: &Rises, quick: bool) -> Outcome {
    let mut ours = Map::new();
    let failing = print_failing(rows, quick, &mut ours);
    print_times(rows);
    let good = print_good(rises, quick, &mut ours);
    Outcome {
        bench: "judge-live",
        ratio: rows.first().map(|row| quantile(&row.at_once.failed, 0.5) as f64 / FAILED.0 as f64),
        ours: Value::Object(ours),
        peers: json!({ "article_good_release_s": 1_800 }),
        goal: GOAL,
        holds: failing && good,
    }
}

/// Tells whether the goal holds.
fn print_failing(rows: &[Failing], quick: bool, ours: &mut Map<String, Value>) -> bool {
    let mut holds = true;
    println!(
        "\n  canary at 10 % that fails half of its requests; failed: requests of users, the deciding one included"
    );
    println!(
        "  {:<44} {:>5} {:>8} {:>6} {:>6} {:>10} {:>7}",
        "", "runs", "median", "p95", "most", "in flight", "after"
    );
    for Failing { rate, at_once, later } in rows {
        for (name, trips) in [("from its first request on", at_once), ("after 5 s of doing well", later)] {
            let name = format!("{rate} requests/s, {name}");
            let [median, p95, most] = [0.5, 0.95, 1.0].map(|share| quantile(&trips.failed, share));
            println!(
                "  {name:<44} {:>5} {median:>8} {p95:>6} {most:>6} {:>10} {:>7}",
                trips.runs(),
                trips.in_flight,
                trips.after
            );
            if quick && let Some((low, high)) = between(&trips.failed) {
                println!("    --quick: with a chance of 95 % the median is between {low} and {high}");
            }
            if trips.missed + trips.early > 0 {
                println!("    not found: {}; taken back before they failed: {}", trips.missed, trips.early);
            }
            holds &=
                median <= FAILED.0 && p95 <= FAILED.1 && trips.after == 0 && trips.missed + trips.early == 0;
            ours.insert(name, trips.json());
        }
    }
    holds
}

fn print_times(rows: &[Failing]) {
    println!("\n{}", Spread::head("from the deciding answer, as its server writes it"));
    for Failing { rate, at_once, later } in rows {
        let mut all = at_once.clone();
        all.add(later.clone());
        println!(
            "{}",
            all.last.spread().row(&format!("{rate} requests/s: to the last request that arrived"))
        );
        println!("{}", all.weight_0.spread().row("  to weight 0, written down and told"));
    }
}

/// Tells whether the goal holds. With `quick` there is no time for latency.
fn print_good(rises: &Rises, quick: bool, ours: &mut Map<String, Value>) -> bool {
    let seconds = |samples: &Samples, share: f64| samples.quantile(share) / 1e6;
    let number = |seconds: f64| seconds.is_finite().then(|| (seconds * 10.0).round() / 10.0);
    println!(
        "\n  good canary at 100 requests/s, 5 10 25 50 75 100 %, `bake: auto`; the article takes 1,800 s"
    );
    for (name, samples) in [("on errors", &rises.errors), ("with latency", &rises.latency)] {
        let cells = [0.1, 0.5, 0.95].map(|share| shown(seconds(samples, share)));
        println!(
            "  {name:<14} seconds to 100 %: p10 {}, median {}, p95 {} ({} releases)",
            cells[0],
            cells[1],
            cells[2],
            samples.spread().count
        );
    }
    let count = rises.errors.spread().count;
    if quick && let Some((low, high)) = median_between(count) {
        let at = |place: usize| seconds(&rises.errors, place as f64 / count as f64);
        println!(
            "    --quick: with a chance of 95 % the first median is between {} and {}; the releases end before the second",
            shown(at(low)),
            shown(at(high))
        );
    }
    let steps: Vec<String> = rises.steps.iter().map(|step| format!("{:.1}", step.median() / 1e6)).collect();
    println!(
        "  median seconds at each weight: {}; taken back: {}; not done in time: {}",
        steps.join(", "),
        rises.back,
        rises.late
    );
    rises.words.iter().take(3).for_each(|words| println!("    {words}"));
    ours.insert(
        "good".into(),
        json!({
            "releases": rises.errors.spread().count,
            "on_errors_s": number(seconds(&rises.errors, 0.5)),
            "with_latency_s": number(seconds(&rises.latency, 0.5)),
            "taken_back": rises.back,
            "not_done": rises.late,
        }),
    );
    rises.errors.median() <= RISE_US.0 && (quick || rises.latency.median() <= RISE_US.1)
}

impl Trips {
    fn json(&self) -> Value {
        json!({
            "runs": self.runs(),
            "failed_median": quantile(&self.failed, 0.5),
            "failed_p95": quantile(&self.failed, 0.95),
            "in_flight": self.in_flight,
            "assigned_after": self.after,
            "not_found": self.missed,
            "taken_back_early": self.early,
            "last_arrival": self.last.spread(),
            "weight_0": self.weight_0.spread(),
        })
    }
}

/// Returns seconds for a table; a dash where there was no end.
fn shown(seconds: f64) -> String {
    if seconds.is_finite() { format!("{seconds:.1}") } else { "—".into() }
}

/// Returns the smallest count that at least this share of all does not exceed; 0 without any.
fn quantile(counts: &[u64], share: f64) -> u64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or(0)
}

/// Returns the counts between which the median of all runs lies with a chance of 95 %.
fn between(counts: &[u64]) -> Option<(u64, u64)> {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let (low, high) = median_between(sorted.len())?;
    Some((sorted[low - 1], sorted[high - 1]))
}
