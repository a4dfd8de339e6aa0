//! What a process takes from the machine, as /proc shows it.

use std::fs;

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
    /// Reads it.
    pub(super) fn of(pid: u32) -> Result<Usage> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))
        };
        let stat = read("stat")?;
        // The program's name, in brackets, may hold anything.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        let (user, kernel) = (number(11), number(12));
        let ticks = user.zip(kernel).map(|(user, kernel)| user + kernel);
        let ticks = ticks.with_context(|| format!("/proc/{pid}/stat is not as it should be: {stat}"))?;
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let memory = read("smaps_rollup")?;
        let mib = |key: &str| named(&memory, key).unwrap_or(0) as f64 / 1024.0;
        Ok(Usage {
            cpu_us: ticks as f64 / per_second * 1e6,
            wakes: wakes(pid),
            threads: number(17).unwrap_or(0),
            rss_mib: mib("Rss:"),
            pss_mib: mib("Pss:"),
        })
    }
}

/// Returns the number behind a key.
fn named(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn wakes(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| {
        named(&fs::read_to_string(entry.path().join("status")).ok()?, "voluntary_ctxt_switches:")
    };
    threads.filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_mib >= usage.pss_mib && usage.pss_mib > 0.1, "{usage:?}");
        assert!(usage.threads >= 1, "{usage:?}");
    }
}
