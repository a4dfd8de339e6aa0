//! What a process takes from the machine, as /proc shows it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// Processor time in user and kernel mode since its start, in microseconds; a clock tick exact.
    pub(super) cpu_us: f64,
    /// How often its threads that live now went to sleep, and so were woken.
    pub(super) wakes: u64,
    pub(super) threads: u64,
    pub(super) rss_mib: f64,
    /// Its share of what it has in memory: pages that others have too count by part.
    pub(super) pss_mib: f64,
}

impl Usage {
    /// Reads the processor time of the threads that live now: to the microsecond where the kernel says it so, else a clock
    /// tick exact.
    pub(super) fn cpu_of(pid: u32) -> Result<f64> {
        let threads: Vec<f64> = tasks(pid).filter_map(|task| scheduled_us(&task, 0)).collect();
        if threads.is_empty() { cpu_us(&stat(pid)?) } else { Ok(threads.iter().sum()) }
    }

    /// Reads how long the threads that live now were ready to run and had no core, in microseconds; 0 where the kernel
    /// does not say it.
    pub(super) fn waited_of(pid: u32) -> f64 {
        tasks(pid).filter_map(|task| scheduled_us(&task, 1)).sum()
    }

    /// Reads it.
    pub(super) fn of(pid: u32) -> Result<Usage> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))
        };
        let fields = stat(pid)?;
        let memory = read("smaps_rollup")?;
        let mib = |key: &str| named(&memory, key).unwrap_or(0) as f64 / 1024.0;
        Ok(Usage {
            cpu_us: cpu_us(&fields)?,
            wakes: wakes(pid),
            threads: fields.get(17).copied().unwrap_or(0),
            rss_mib: mib("Rss:"),
            pss_mib: mib("Pss:"),
        })
    }
}

/// Returns the numbers of /proc/PID/stat behind the state; what is no number is 0.
fn stat(pid: u32) -> Result<Vec<u64>> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    // The program's name, in brackets, may hold anything.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    Ok(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

fn cpu_us(fields: &[u64]) -> Result<f64> {
    let ticks = fields.get(11).zip(fields.get(12)).map(|(user, kernel)| user + kernel);
    let ticks = ticks.context("/proc/PID/stat is not as it should be")?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64 * 1e6)
}

/// Returns the number behind a key.
fn named(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the folders of a process' threads.
fn tasks(pid: u32) -> impl Iterator<Item = PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|entry| entry.path())
}

/// Returns a time of a thread as the scheduler counts it: 0, how long it ran; 1, how long it waited for a core.
fn scheduled_us(task: &Path, field: usize) -> Option<f64> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    let ns: u64 = text.split_whitespace().nth(field)?.parse().ok()?;
    Some(ns as f64 / 1e3)
}

fn wakes(pid: u32) -> u64 {
    let of =
        |task: PathBuf| named(&fs::read_to_string(task.join("status")).ok()?, "voluntary_ctxt_switches:");
    tasks(pid).filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_mib >= usage.pss_mib && usage.pss_mib > 0.1, "{usage:?}");
        assert!(usage.threads >= 1, "{usage:?}");
        // Other threads of this program may have ended since.
        assert!(Usage::cpu_of(std::process::id()).unwrap() > 0.0);
    }
}
