//! The PROXY protocol: a load balancer says first whose connection it brings (haproxy.org, doc/proxy-protocol.txt).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The beginning of a header; more bytes will tell.
    Incomplete,
    /// A whole header.
    Complete {
        /// Its length in bytes; the connection itself begins after it.
        length: usize,
        /// Who connected to the load balancer; none: the balancer itself, to see whether we live.
        source: Option<SocketAddr>,
    },
    /// No header.
    Invalid,
}

/// Longest header of version 1, its line end included.
const MOST_V1: usize = 107;
/// Longest header of version 2 that is read: addresses, and what some balancers add to them.
const MOST_V2: usize = 4 << 10;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads a header of version 1 or 2 from the first bytes of a connection. Whatever the bytes are, more of them never
/// change the answer once it is not `Incomplete`.
pub fn parse_proxy_header(bytes: &[u8]) -> ProxyHeader {
    match bytes.first() {
        None => ProxyHeader::Incomplete,
        Some(b'P') => version_1(bytes),
        Some(b'\r') => version_2(bytes),
        Some(_) => ProxyHeader::Invalid,
    }
}

fn version_1(bytes: &[u8]) -> ProxyHeader {
    let start = b"PROXY ";
    let common = bytes.len().min(start.len());
    if bytes[..common] != start[..common] {
        return ProxyHeader::Invalid;
    }
    let within = &bytes[..bytes.len().min(MOST_V1)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= MOST_V1 { ProxyHeader::Invalid } else { ProxyHeader::Incomplete };
    };
    match std::str::from_utf8(&bytes[start.len()..end]).ok().and_then(line) {
        Some(source) => ProxyHeader::Complete { length: end + 2, source },
        None => ProxyHeader::Invalid,
    }
}

/// Reads what follows `PROXY `.
fn line(text: &str) -> Option<Option<SocketAddr>> {
    let words: Vec<&str> = text.split(' ').collect();
    let (family, rest) = words.split_first()?;
    let &[source, destination, from, to] = match *family {
        // The rest of the line is to be ignored.
        "UNKNOWN" => return Some(None),
        "TCP4" | "TCP6" => <&[&str; 4]>::try_from(rest).ok()?,
        _ => return None,
    };
    let wanted = |ip: IpAddr| ip.is_ipv4() == (*family == "TCP4");
    let address = |text: &str| text.parse().ok().filter(|ip| wanted(*ip));
    let port = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        plain.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (source, _): (IpAddr, IpAddr) = (address(source)?, address(destination)?);
    let (from, _) = (port(from)?, port(to)?);
    Some(Some(SocketAddr::new(source, from)))
}

fn version_2(bytes: &[u8]) -> ProxyHeader {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] != SIGNATURE[..common] {
        return ProxyHeader::Invalid;
    }
    let Some(&[command, family, high, low]) = bytes.get(12..16).and_then(|head| head.first_chunk::<4>())
    else {
        return ProxyHeader::Incomplete;
    };
    let length = 16 + usize::from(u16::from_be_bytes([high, low]));
    let addresses = match family {
        0x11 => 12,
        0x21 => 36,
        // Unspecified, UDP, or a socket of the balancer's machine: nobody we could name.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => 0,
        _ => return ProxyHeader::Invalid,
    };
    if !matches!(command, 0x20 | 0x21) || length < 16 + addresses || length > MOST_V2 {
        return ProxyHeader::Invalid;
    }
    let Some(header) = bytes.get(..length) else { return ProxyHeader::Incomplete };
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let source = match (command, family) {
        (0x21, 0x11) => header[16..].first_chunk::<4>().map(|ip| (Ipv4Addr::from(*ip).into(), port(24))),
        (0x21, 0x21) => header[16..].first_chunk::<16>().map(|ip| (Ipv6Addr::from(*ip).into(), port(48))),
        _ => None,
    };
    ProxyHeader::Complete {
        length,
        source: source.map(|(ip, port): (IpAddr, u16)| SocketAddr::new(ip, port)),
    }
}

#[cfg(test)]
#[path = "../tests/reader/mod.rs"]
mod reader;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(header: &[u8]) -> Option<SocketAddr> {
        match parse_proxy_header(header) {
            ProxyHeader::Complete { length, source } if length == header.len() => source,
            other => panic!("{other:?}"),
        }
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((payload.len() as u16).to_be_bytes());
        header.extend(payload);
        header
    }

    #[test]
    fn headers_of_both_versions_name_the_client() {
        let four: SocketAddr = "192.0.2.1:56324".parse().unwrap();
        let six: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
        assert_eq!(source(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"), Some(four));
        assert_eq!(source(b"PROXY TCP6 2001:db8::1 2001:db8::2 443 443\r\n"), Some(six));
        assert_eq!(source(b"PROXY UNKNOWN whatever it says\r\n"), None);
        let payload = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 0xbb];
        assert_eq!(source(&v2(0x21, 0x11, &payload)), Some(four));
        // With what a balancer adds after the addresses, and for its own health checks.
        assert_eq!(source(&v2(0x21, 0x11, &[&payload[..], &[4, 0, 1, 9]].concat())), Some(four));
        assert_eq!(source(&v2(0x20, 0x00, &[])), None);
        let mut payload = vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        payload.extend([0; 16]);
        payload.extend([1, 0xbb, 1, 0xbb]);
        assert_eq!(source(&v2(0x21, 0x21, &payload)), Some(six));
    }

    #[test]
    fn what_is_no_header_is_known_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 056 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 +56 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
            b"\r\n\r\nGET",
            &v2(0x31, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x41, &[0; 12]),
            &v2(0x21, 0x11, &[0; 5_000]),
            &[&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
        ] {
            assert_eq!(parse_proxy_header(bytes), ProxyHeader::Invalid, "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_keep_the_promises(bytes: Vec<u8>) {
            super::reader::holds(&bytes);
        }

        #[test]
        fn every_header_is_read_whole_or_not_at_all(ip: [u8; 16], port: u16, four: bool, one: bool, rest: Vec<u8>) {
            let ip: IpAddr = match four {
                true => Ipv4Addr::from(*ip.first_chunk::<4>().unwrap()).into(),
                false => Ipv6Addr::from(ip).into(),
            };
            let octets = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let header = match one {
                true => format!("PROXY TCP{} {ip} {ip} {port} 1\r\n", if four { 4 } else { 6 }).into_bytes(),
                false => {
                    let ports = [port.to_be_bytes(), [0, 1]].concat();
                    v2(0x21, if four { 0x11 } else { 0x21 }, &[octets.clone(), octets, ports].concat())
                }
            };
            let wanted = ProxyHeader::Complete { length: header.len(), source: Some(SocketAddr::new(ip, port)) };
            prop_assert_eq!(parse_proxy_header(&header), wanted.clone());
            prop_assert_eq!(parse_proxy_header(&[header.clone(), rest].concat()), wanted);
            for cut in 0..header.len() {
                prop_assert_eq!(parse_proxy_header(&header[..cut]), ProxyHeader::Incomplete);
            }
        }
    }
}
