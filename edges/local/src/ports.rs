//! Which loopback ports belong to instances: each to one, until that instance is gone.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cutover_core::Fault;

/// The ports in use; rebuilt from the instances' records when the platform opens.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    taken: Mutex<BTreeSet<u16>>,
}

impl Ports {
    /// Marks a recorded instance's port as taken.
    pub(crate) fn claim(&self, port: u16) {
        self.lock().insert(port);
    }

    /// Returns a free port that no instance has, chosen by the operating system.
    pub(crate) fn take(&self) -> Result<u16, Fault> {
        self.take_from(|| Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port()))
    }

    /// Gives the port back: its instance is gone.
    pub(crate) fn free(&self, port: u16) {
        self.lock().remove(&port);
    }

    fn take_from(&self, mut offer: impl FnMut() -> std::io::Result<u16>) -> Result<u16, Fault> {
        let mut taken = self.lock();
        for _ in 0..1000 {
            let port =
                offer().map_err(|error| Fault::platform(format!("find a free loopback port: {error}")))?;
            if taken.insert(port) {
                return Ok(port);
            }
        }
        Err(Fault::platform(format!(
            "find a free loopback port: {} belong to instances already",
            taken.len()
        )))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_handed_out_again_only_after_it_was_freed() {
        let ports = Ports::default();
        ports.claim(5000);
        let mut offers = [5000, 5000, 5001, 5000, 5002].into_iter();
        let mut take = || ports.take_from(|| Ok(offers.next().unwrap_or(5000)));
        assert_eq!(take().unwrap(), 5001, "5000 is offered, but its instance still has it");
        assert_eq!(take().unwrap(), 5002);
        assert!(take().is_err());
        ports.free(5000);
        assert_eq!(take().unwrap(), 5000);
    }
}
