//! A network bridge for one engine: two on the same would take each other's addresses.

use std::fs::{File, OpenOptions};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

/// A bridge that is this process's as long as it holds the lock of its number.
pub(crate) struct Bridge {
    number: u8,
    _lock: File,
}

impl Bridge {
    /// Makes a bridge with a network that no other engine of the tests has.
    pub(crate) fn make() -> Bridge {
        let folder = std::env::temp_dir().join("cutover-docker-bridges");
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..250 {
            let path = folder.join(number.to_string());
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path).unwrap();
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let bridge = Bridge { number, _lock: lock };
            // One that is there belonged to a test that was killed.
            ip(&["link", "delete", &bridge.name()]);
            assert!(ip(&["link", "add", &bridge.name(), "type", "bridge"]), "ip link add {}", bridge.name());
            let address = format!("10.213.{number}.1/24");
            assert!(ip(&["address", "add", &address, "dev", &bridge.name()]), "ip address add {address}");
            assert!(ip(&["link", "set", &bridge.name(), "up"]), "ip link set {} up", bridge.name());
            return bridge;
        }
        panic!("250 engines run already");
    }

    pub(crate) fn name(&self) -> String {
        format!("cutover{}", self.number)
    }

    /// Returns where the networks lie that the engine makes itself.
    pub(crate) fn pool(&self) -> String {
        format!("10.214.{}.0/24", self.number)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.name()]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}
