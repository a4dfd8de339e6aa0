//! The memory that is left on this machine.

use std::fs;
use std::path::Path;

use cutover_core::Fault;

use crate::disk;

/// Returns the memory that a new process can get: MemAvailable, or less inside a control group, in bytes.
pub fn available() -> Result<u64, Fault> {
    let path = Path::new("/proc/meminfo");
    let text = fs::read_to_string(path).map_err(|error| disk::fault("read", path, &error))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let machine = kib.ok_or_else(|| Fault::platform("read /proc/meminfo: MemAvailable is missing"))? << 10;
    Ok(group_room().map_or(machine, |room| room.min(machine)))
}

/// Returns what this process's control group (version 2) has left of its memory limit.
fn group_room() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut group = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?).to_path_buf();
    let mut least: Option<u64> = None;
    loop {
        let folder = Path::new("/sys/fs/cgroup").join(group.strip_prefix("/").unwrap_or(&group));
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        if let (Some(most), Some(used)) = (number("memory.max"), number("memory.current")) {
            let room = most.saturating_sub(used);
            least = Some(least.map_or(room, |least| least.min(room)));
        }
        if !group.pop() {
            return least;
        }
    }
}
