//! Loopback ports that containers are published on.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use cutover_core::Fault;

/// Below the ports that the system gives to outgoing connections: after a reboot none of those has taken a container's.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// Chooses ports. The engine would too, but another one after each start of the container.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    next: Mutex<u16>,
    /// They are those of another host: only its engine can tell whether one is free.
    elsewhere: bool,
}

impl Ports {
    /// Begins the search anywhere: two state folders on one machine seldom want the same.
    pub(crate) fn beginning(at: u16, elsewhere: bool) -> Ports {
        Ports { next: Mutex::new(at % COUNT), elsewhere }
    }

    /// Returns a port that nobody listens on and that is none of `taken`, those of all our containers. Somebody may take
    /// it before the container does: then another is asked for.
    pub(crate) fn choose(&self, taken: &BTreeSet<u16>) -> Result<u16, Fault> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..COUNT {
            let port = FIRST + *next;
            *next = (*next + 1) % COUNT;
            if !taken.contains(&port) && (self.elsewhere || TcpListener::bind(("127.0.0.1", port)).is_ok()) {
                return Ok(port);
            }
        }
        let last = FIRST + COUNT - 1;
        Err(Fault::platform(format!("find a free loopback port: none from {FIRST} to {last} is")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_has_is_passed_over() {
        let ports = Ports::beginning(7, false);
        let first = ports.choose(&BTreeSet::new()).unwrap();
        let held = TcpListener::bind(("127.0.0.1", first + 1));
        let second = ports.choose(&BTreeSet::from([first + 2])).unwrap();
        assert!(second > first + 2 || held.is_err() && second > first, "{first} {second}");
        *ports.next.lock().unwrap() = COUNT - 1;
        ports.choose(&BTreeSet::new()).unwrap();
        assert!(ports.choose(&BTreeSet::new()).unwrap() < FIRST + COUNT);
    }
}
