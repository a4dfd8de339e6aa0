//! What can be set of the local platform; the defaults are what people get.

use std::time::Duration;

/// How the local platform restarts, bounds and reserves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pause before the first restart; doubled after each exit.
    pub restart_first: Duration,
    /// The longest pause before a restart.
    pub restart_longest: Duration,
    /// An instance that ran so long starts again with the first pause.
    pub steady: Duration,
    /// So many exits within `crash_loop_within` are a crash loop.
    pub crash_loop_exits: usize,
    /// The time that exits are counted over.
    pub crash_loop_within: Duration,
    /// How often the size of logs is looked at.
    pub log_every: Duration,
    /// Disk space that a copy leaves free, in bytes.
    pub reserve_bytes: u64,
    /// Whether instances get control groups of their own, where this process may make them.
    pub cgroups: bool,
    /// The group that this process shares with whoever started it; plans name it.
    pub shared_cgroup: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            restart_first: Duration::from_millis(100),
            restart_longest: Duration::from_secs(30),
            steady: Duration::from_secs(10),
            crash_loop_exits: 5,
            crash_loop_within: Duration::from_secs(60),
            log_every: Duration::from_millis(500),
            reserve_bytes: 256 << 20,
            cgroups: true,
            shared_cgroup: None,
        }
    }
}
