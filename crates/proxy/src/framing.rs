//! Requests that could be read in two ways, where the parser lets them through: refused, and the connection closed.

use http::header::{HOST, TRANSFER_ENCODING};
use http::{Request, Version};

/// Returns why a request is not passed on, one of the reasons of the documentation.
pub(crate) fn ambiguous<B>(request: &Request<B>) -> Option<&'static str> {
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let authority = request.uri().authority();
    if second.is_some() {
        return Some("two-hosts");
    }
    match (first, authority) {
        (None, None) if request.version() != Version::HTTP_10 => return Some("no-host"),
        // In HTTP/1 the target of the request counts, whatever the header says (RFC 9112, 3.2.2); in HTTP/2 both must
        // be the same (RFC 9113, 8.3.1).
        (Some(host), Some(authority))
            if request.version() == Version::HTTP_2
                && !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Some("two-hosts");
        }
        _ => {}
    }
    // A host alone for a target (`GET a.test HTTP/1.1`) is for CONNECT, which never gets here.
    let plain = |scheme: &str| scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if authority.is_some() && !request.uri().scheme_str().is_some_and(plain) {
        return Some("bad-host");
    }
    let name = authority.map(|authority| authority.as_str().as_bytes());
    if name.or(first.map(|host| host.as_bytes())).is_some_and(|host| !is_host(host)) {
        return Some("bad-host");
    }
    // Chunked, once, is all that we read; what else the body is coded in would be lost on the way (RFC 9112, 6.1).
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => None,
        _ => Some("bad-coding"),
    }
}

/// Tells whether it is a name or an address, and perhaps a port.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => match rest.iter().position(|byte| *byte == b']') {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => return false,
        },
        None => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let named = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%:".contains(byte);
    let digits = |port: &[u8]| port.iter().all(u8::is_ascii_digit);
    !name.is_empty() && name.iter().all(named) && (port.is_empty() || port[0] == b':' && digits(&port[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_addresses_and_ports() {
        for host in ["a", "Shop-1.example.com.", "a_b:8080", "127.0.0.1", "[::1]", "[2001:db8::1]:443", "a:"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in ["", ":80", "a b", "a,b", "a/b", "u@a", "a:b", "a:1:2", "[::1", "[::1]a", "a?b", "ä"] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
