//! WebSockets of HTTP/2 clients (RFC 8441): a stream that asks to become one, towards targets of HTTP/1.1.

use std::any::Any;
use std::rc::Rc;

use http::header::{HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::{Method, Request, StatusCode, request, response};
use hyper::body::Incoming;
use hyper::ext::Protocol;

use crate::headers;

/// Keeps the stream of a tunnel counted as open, for as long as it is kept.
pub(crate) type Alive = Rc<dyn Any>;

/// Tells whether a stream asks to become a WebSocket.
pub(crate) fn is_websocket(request: &Request<Incoming>) -> bool {
    let protocol = || request.extensions().get::<Protocol>().map(Protocol::as_str);
    request.method() == Method::CONNECT && protocol() == Some("websocket")
}

/// Makes the request one that a target of HTTP/1.1 understands; the caller asks for the upgrade.
pub(crate) fn to_upgrade(head: &mut request::Parts) {
    head.method = Method::GET;
    head.extensions.remove::<Protocol>();
    // Clients of HTTP/2 send none: the stream itself proves that the server means it.
    head.headers.insert(SEC_WEBSOCKET_KEY, key(fastrand::u128(..).to_be_bytes()));
}

/// Makes the 101 of a target the 200 that a client of HTTP/2 waits for.
pub(crate) fn accept(head: &mut response::Parts) {
    head.status = StatusCode::OK;
    headers::strip_hop_by_hop(&mut head.headers);
    head.headers.remove(SEC_WEBSOCKET_ACCEPT);
}

/// Returns sixteen bytes in base64.
fn key(bytes: [u8; 16]) -> HeaderValue {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u128::from_be_bytes(bytes);
    let letter = |at: u32| LETTERS[(if at < 21 { bits >> (122 - 6 * at) } else { bits << 4 } & 63) as usize];
    let text: Vec<u8> = (0..22).map(letter).chain(*b"==").collect();
    HeaderValue::from_bytes(&text).expect("letters, digits, + / and = are visible")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_base64() {
        // The example of RFC 6455, 1.3.
        assert_eq!(key(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(key([0xff; 16]), "/////////////////////w==");
    }
}
