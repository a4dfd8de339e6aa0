//! Who listens where.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use cutover_keep::sockets::Listener;
use cutover_keep::sockets::parse_table;

/// Returns all listening TCP sockets of this network namespace.
pub(crate) fn listeners() -> Vec<Listener> {
    // A sandbox may forbid netlink; /proc says the same, only slower.
    crate::diag::listeners().unwrap_or_else(|_| from_proc())
}

/// Returns the same as the tables in /proc/net show it.
pub(crate) fn from_proc() -> Vec<Listener> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let lines = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    lines.flat_map(|table| parse_table(&table)).collect()
}

/// Returns the sockets that a connection to `port` on 127.0.0.1 may reach: the most specific address wins,
/// and among equals
/// (SO_REUSEPORT) any may.
pub(crate) fn reached(listeners: &[Listener], port: u16) -> Vec<Listener> {
    let loopback = Ipv4Addr::LOCALHOST;
    let ranks: [&dyn Fn(IpAddr) -> bool; 3] = [
        &|address| address == IpAddr::V4(loopback) || address == IpAddr::V6(loopback.to_ipv6_mapped()),
        &|address| address == IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        &|address| address == IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    for rank in ranks {
        let found: Vec<Listener> =
            listeners.iter().filter(|one| one.port == port && rank(one.address)).cloned().collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// Returns the inodes of the sockets that the process holds; empty where this process may not look.
pub(crate) fn sockets_of(pid: u32) -> BTreeSet<u64> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    links.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str, inode: u64) -> Listener {
        Listener { address: address.parse().unwrap(), port: 80, inode, uid: 0 }
    }

    #[test]
    fn the_most_specific_listener_is_reached() {
        let all = [
            at("::", 1),
            at("0.0.0.0", 2),
            at("127.0.0.1", 3),
            at("127.0.0.1", 4),
            at("::1", 5),
            at("10.0.0.1", 6),
        ];
        let inodes = |from: &[Listener]| reached(from, 80).iter().map(|one| one.inode).collect::<Vec<_>>();
        assert_eq!(inodes(&all), [3, 4]);
        assert_eq!(inodes(&all[..2]), [2]);
        assert_eq!(inodes(&all[..1]), [1]);
        assert_eq!(inodes(&all[4..]), [0u64; 0], "neither ::1 nor another address is 127.0.0.1");
        assert_eq!(reached(&all, 81), []);
    }

    #[test]
    fn this_process_is_found_by_its_listener() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let Ok(socket) = std::net::TcpListener::bind(address) else { continue };
            let address = socket.local_addr().unwrap();
            let reached = reached(&listeners(), address.port());
            assert_eq!(reached.len(), 1, "{address}");
            assert_eq!(reached[0].address, address.ip());
            assert!(sockets_of(std::process::id()).contains(&reached[0].inode));
        }
    }
}
