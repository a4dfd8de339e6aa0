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
            // What is there belonged to a test that was killed.
            bridge.sweep();
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

impl Bridge {
    /// Removes the bridge, and what engines on it left: bridges of networks that they made, and halves of what was to connect a
    /// container. An engine that ends keeps the first for its next start, and a killed one the second as well; sixteen
    /// of them, and no engine with this number can make a network.
    fn sweep(&self) {
        ip(&["link", "delete", &self.name()]);
        let networks = format!(" inet 10.214.{}.", self.number);
        let containers = [213, 214].map(|net| format!("link/ether 02:42:0a:{net:02x}:{:02x}:", self.number));
        for (listed, marks) in
            [(&["-o", "-4", "address", "show"][..], &[networks][..]), (&["-o", "link", "show"], &containers)]
        {
            for line in said(listed).lines().filter(|line| marks.iter().any(|mark| line.contains(mark))) {
                // `7: veth1a@veth2b: <…>`, or `7: br-1a    inet …`
                let name = line.split_whitespace().nth(1).unwrap_or_default().trim_end_matches(':');
                ip(&["link", "delete", name.split('@').next().unwrap_or_default()]);
            }
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.sweep();
    }
}

fn said(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}
