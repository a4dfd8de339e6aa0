//! Listening sockets by the kernel's socket diagnostics (netlink, `sock_diag(7)`).
//!
//! `/proc/net/tcp` walks every connection of the machine to find the few that listen: with the 70,000 closed ones that
//! a busy proxy leaves behind in TIME_WAIT one look took seconds. Here the kernel walks its listeners alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::sockets::Listener;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// `1 << TCP_LISTEN`.
const LISTENING: u32 = 1 << 10;
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// The kernel fills at most 32 KiB of a dump at once.
const BUFFER: usize = 64 << 10;
/// More answers than any machine's listeners need; a kernel that never says "done" must not hang a check.
const MAX_ANSWERS: usize = 10_000;

/// Returns all listening TCP sockets of this network namespace.
///
/// # Errors
/// When the kernel has no socket diagnostics, or a sandbox forbids them.
pub(crate) fn listeners() -> io::Result<Vec<Listener>> {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Recv,
        Some(std::time::Duration::from_secs(2)),
    )?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        rustix::net::send(&socket, &request(family), SendFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        let mut done = false;
        for _ in 0..MAX_ANSWERS {
            let (length, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
            done = read(&buffer[..length], &mut found)?;
            if done {
                break;
            }
        }
        if !done {
            return Err(io::Error::other("the list of listening sockets does not end"));
        }
    }
    Ok(found)
}

fn request(family: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    // Sequence and port: one request at a time on a socket of its own needs neither.
    bytes.extend([0; 8]);
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(LISTENING.to_ne_bytes());
    bytes.resize(HEADER + REQUEST, 0);
    bytes
}

/// Reads one answer, which holds several messages; true when it was the last.
fn read(mut answer: &[u8], found: &mut Vec<Listener>) -> io::Result<bool> {
    while let Some(header) = answer.get(..HEADER) {
        let length = u32_at(header, 0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = answer.get(HEADER..length) else { break };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = body.get(..4).map_or(0, |code| u32_at(code, 0).cast_signed());
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => found.extend(listener(body)),
        }
        // Messages are aligned to four bytes.
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn listener(message: &[u8]) -> Option<Listener> {
    let message = message.get(..MESSAGE)?;
    let address = match message[0] {
        AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&message[8..12]).ok()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&message[8..24]).ok()?)),
        _ => return None,
    };
    Some(Listener {
        address,
        port: u16::from_be_bytes([message[4], message[5]]),
        uid: u32_at(message, 64),
        inode: u32_at(message, 68).into(),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sources must tell the same of this process's sockets: each kind of address, and none that only connects.
    #[test]
    fn the_kernel_and_proc_agree() {
        let ours: Vec<std::net::TcpListener> = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"]
            .into_iter()
            .filter_map(|address| std::net::TcpListener::bind(address).ok())
            .collect();
        let _client = std::net::TcpStream::connect(ours[0].local_addr().unwrap()).unwrap();
        let ports: Vec<u16> = ours.iter().map(|one| one.local_addr().unwrap().port()).collect();
        let told = |listeners: Vec<Listener>| {
            let mut told: Vec<String> = listeners
                .into_iter()
                .filter(|one| ports.contains(&one.port))
                .map(|one| format!("{one:?}"))
                .collect();
            told.sort();
            told
        };
        let kernel = match listeners() {
            Ok(found) => told(found),
            Err(error) => {
                return println!("skipped: the_kernel_and_proc_agree: no socket diagnostics: {error}");
            }
        };
        assert_eq!(kernel.len(), ours.len());
        assert_eq!(kernel, told(crate::sockets::from_proc()));
    }

    #[test]
    fn half_an_answer_is_no_answer() {
        let mut found = Vec::new();
        for length in [0, 3, 15, 16, 20] {
            assert!(!read(&vec![0xff; length], &mut found).unwrap());
        }
        assert!(found.is_empty());
    }
}
