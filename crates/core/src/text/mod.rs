//! What a person sees: renderings of plan and journal. The CLI, the API and the log print these and nothing else.

mod junit;
mod plan;
mod report;
mod story;

use crate::ids::ProcessName;
use crate::plan::{Plan, ProcessCounts};

pub use junit::junit;
pub use plan::plan_text;
pub use report::{GateReport, Report, ReportOutcome};
pub use story::{Line, Mark, Story, story_text};

/// Names processes with their counts: `clock and 2 × worker`.
fn processes(run: &ProcessCounts) -> String {
    let named = |(name, count): (&ProcessName, &u32)| {
        if *count == 1 { name.to_string() } else { format!("{count} × {name}") }
    };
    list(run.iter().map(named).collect())
}

/// Names the processes of stable that stop at step `at`.
fn stopped(plan: &Plan, at: usize) -> String {
    let (before, after) = (plan.stable_processes_at(at.saturating_sub(1)), plan.stable_processes_at(at));
    list(before.keys().filter(|name| !after.contains_key(*name)).map(ToString::to_string).collect())
}

fn list(names: Vec<String>) -> String {
    match names.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        names => names.concat(),
    }
}

/// Prints milliseconds for people: `0.3s`, `12.0s`, `3m05s`, `2h10m`.
pub fn elapsed(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// Prints a count with thin groups: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
