//! Time as the engine reads it. Leases and timers follow the boot clock, which no one sets; the wall clock only
//! bridges a reboot, and is shown to people.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cutover_core::Moment;

use crate::util::lock;

/// What the clocks show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Which boot of the machine this is.
    pub boot: String,
    /// Milliseconds since that boot, time asleep included.
    pub boot_ms: u64,
}

impl Reading {
    /// Returns the milliseconds from `earlier` to this; never negative, whatever the wall clock did.
    pub fn ms_since(&self, earlier: &Reading) -> u64 {
        if self.boot == earlier.boot {
            self.boot_ms.saturating_sub(earlier.boot_ms)
        } else {
            self.wall_ms.saturating_sub(earlier.wall_ms)
        }
    }
}

/// Reads the clocks.
pub trait Clock: Send + Sync {
    /// Returns what they show now.
    fn read(&self) -> Reading;
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    boot: String,
}

impl SystemClock {
    /// Reads which boot this is.
    pub fn new() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        // Without a name for the boot no two processes share one: they then bridge with the wall clock.
        let boot =
            boot.map_or_else(|_| format!("process-{}", std::process::id()), |id| id.trim().to_string());
        SystemClock { boot }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn read(&self) -> Reading {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let boot_ms = u64::try_from(boot.tv_sec).unwrap_or(0) * 1000
            + u64::try_from(boot.tv_nsec).unwrap_or(0) / 1_000_000;
        Reading {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            boot: self.boot.clone(),
            boot_ms,
        }
    }
}

/// A clock for tests: it follows tokio's time, which tests pause, and its wall can be set.
#[derive(Debug)]
pub struct FakeClock {
    start: tokio::time::Instant,
    set: Mutex<(u64, String, i64)>,
}

impl FakeClock {
    /// Starts at `wall_ms` in a boot of that name.
    pub fn new(wall_ms: u64, boot: &str) -> Self {
        FakeClock { start: tokio::time::Instant::now(), set: Mutex::new((wall_ms, boot.to_string(), 0)) }
    }

    /// Steps the wall clock, as a person or a time server would.
    pub fn step_wall(&self, by_ms: i64) {
        lock(&self.set).2 += by_ms;
    }

    /// Pretends that the machine was booted again.
    pub fn reboot(&self, boot: &str) {
        lock(&self.set).1 = boot.to_string();
    }
}

impl Clock for FakeClock {
    fn read(&self) -> Reading {
        let passed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (wall, boot, step) = lock(&self.set).clone();
        Reading { wall_ms: (wall + passed).saturating_add_signed(step), boot, boot_ms: passed }
    }
}

/// Turns readings into a release's moments: the last journaled moment plus what passed since.
#[derive(Clone, Debug)]
pub(crate) struct Anchor {
    pub(crate) at: Moment,
    pub(crate) reading: Reading,
}

impl Anchor {
    pub(crate) fn moment(&self, now: &Reading) -> Moment {
        self.at.after_ms(now.ms_since(&self.reading))
    }
}

/// How long to sleep from `now` until `due`, never longer than a second: tokio's clock stops while the machine
/// sleeps, the boot clock does not.
pub(crate) fn until(now: Moment, due: Option<Moment>) -> Duration {
    let ms = due.map_or(1_000, |due| due.ms_since(now)).clamp(1, 1_000);
    Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(wall_ms: u64, boot: &str, boot_ms: u64) -> Reading {
        Reading { wall_ms, boot: boot.into(), boot_ms }
    }

    #[test]
    fn a_step_of_the_wall_does_not_matter_within_a_boot() {
        let anchor = Anchor { at: Moment(500), reading: reading(10_000_000, "a", 1_000) };
        assert_eq!(anchor.moment(&reading(13_600_000, "a", 1_010)), Moment(510));
        assert_eq!(anchor.moment(&reading(6_400_000, "a", 1_020)), Moment(520));
    }

    #[test]
    fn over_a_reboot_the_wall_counts_and_never_back() {
        let anchor = Anchor { at: Moment(500), reading: reading(10_000, "a", 9_000) };
        assert_eq!(anchor.moment(&reading(12_000, "b", 3)), Moment(2_500));
        assert_eq!(anchor.moment(&reading(8_000, "b", 3)), Moment(500));
    }

    #[test]
    fn the_system_clock_goes_on() {
        let clock = SystemClock::new();
        let first = clock.read();
        let second = clock.read();
        assert!(second.boot_ms >= first.boot_ms && first.boot == second.boot && first.wall_ms > 0);
    }
}
