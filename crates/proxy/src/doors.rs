//! What holds for a connection before anybody knows which service it wants.

use std::net::SocketAddr;

use crate::paced;
use crate::table::ServiceTable;
use crate::upload::Pace;

/// What the services of a table want of the connections to their listeners.
#[derive(Debug, Default)]
pub(crate) struct Doors(Vec<Door>);

#[derive(Debug)]
struct Door {
    /// Empty: all listeners.
    listen: Vec<SocketAddr>,
    connections: Option<u32>,
    pace: Option<Pace>,
}

impl Doors {
    pub(crate) fn add(&mut self, service: &ServiceTable) {
        let connections = service.limits.per_client.and_then(|limit| limit.connections);
        let pace = service.limits.download;
        if connections.is_some() || pace.is_some() {
            self.0.push(Door { listen: service.listen.clone(), connections, pace });
        }
    }

    /// Returns how many connections one client may have to a listener: the least that any of its services says.
    pub(crate) fn connections(&self, listener: SocketAddr) -> Option<u32> {
        self.at(listener).filter_map(|door| door.connections).min()
    }

    /// Returns what a client must take: the most that any of the listener's services says.
    pub(crate) fn pace(&self, listener: SocketAddr) -> Pace {
        let paces = self.at(listener).filter_map(|door| door.pace);
        paces.max_by_key(|pace| per_hour(*pace)).unwrap_or(paced::PATIENCE)
    }

    fn at(&self, listener: SocketAddr) -> impl Iterator<Item = &Door> {
        self.0.iter().filter(move |door| door.listen.is_empty() || door.listen.contains(&listener))
    }
}

fn per_hour(pace: Pace) -> u64 {
    pace.bytes.saturating_mul(3_600_000) / pace.within_ms.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::PerClient;

    #[test]
    fn the_strictest_service_of_a_listener_counts_and_no_other() {
        let (here, there) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let mut doors = Doors::default();
        let service = |listen: &[SocketAddr], connections, bytes| {
            let mut service = ServiceTable { listen: listen.to_vec(), ..ServiceTable::default() };
            service.limits.per_client = Some(PerClient { burst: 1, connections, ..PerClient::default() });
            service.limits.download = Some(Pace { bytes, within_ms: 1_000 });
            service
        };
        doors.add(&ServiceTable::default());
        assert_eq!((doors.connections(here), doors.pace(here)), (None, paced::PATIENCE));
        doors.add(&service(&[here], Some(9), 10));
        doors.add(&service(&[here], Some(4), 1));
        assert_eq!((doors.connections(here), doors.pace(here).bytes), (Some(4), 10));
        assert_eq!((doors.connections(there), doors.pace(there)), (None, paced::PATIENCE));
        doors.add(&service(&[], Some(2), 20));
        assert_eq!((doors.connections(here), doors.pace(there).bytes), (Some(2), 20));
    }
}
