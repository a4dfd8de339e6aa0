//! What the reader of PROXY protocol headers promises, whatever the bytes are; for the fuzz target and for proptest.

#[cfg(not(test))]
use cutover_proxy::{ProxyHeader, parse_proxy_header};

#[cfg(test)]
use super::{ProxyHeader, parse_proxy_header};

/// Panics where a promise is broken.
pub(crate) fn holds(bytes: &[u8]) {
    let whole = parse_proxy_header(bytes);
    if let ProxyHeader::Complete { length, .. } = &whole {
        assert!(
            *length <= bytes.len() && *length <= 4 << 10,
            "longer than what was given, or than any header"
        );
        assert_eq!(parse_proxy_header(&bytes[..*length]), whole, "what follows a header is not part of it");
        for cut in 0..*length {
            assert_eq!(parse_proxy_header(&bytes[..cut]), ProxyHeader::Incomplete, "cut at {cut}");
        }
    }
    if whole == ProxyHeader::Incomplete {
        assert!(bytes.len() < 4 << 10, "undecided for ever");
        for cut in 0..bytes.len() {
            assert_eq!(
                parse_proxy_header(&bytes[..cut]),
                ProxyHeader::Incomplete,
                "less told more, at {cut}"
            );
        }
    }
}
