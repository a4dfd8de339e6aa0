//! gRPC's health protocol: `grpc.health.v1.Health/Check`. Its two messages have one field each and are written by hand.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, and for the frame around a message
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use bytes::Bytes;
use cutover_core::CheckOutcome;
use cutover_core::file::Through;
use cutover_ports::CheckRequest;
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::http::{Ask, broken, exchange};
use crate::tries::{Miss, Try};

const PATH: &str = "/grpc.health.v1.Health/Check";
/// An answer has a few bytes; a server that sends more speaks something else.
const MOST: usize = 4096;

/// Asks for the health of `service`; the empty name stands for the whole server.
pub(crate) async fn health(check: &CheckRequest, service: &str, through: Through) -> Try {
    let header = |name: &str, value: &str| (name.to_string(), value.to_string());
    let ask = Ask {
        method: Method::POST,
        path: PATH,
        headers: vec![header("content-type", "application/grpc"), header("te", "trailers")],
        body: Bytes::from(question(service)),
        through,
        http2: true,
    };
    exchange(check, &ask, async |response| judge(response, service).await).await
}

/// `message HealthCheckRequest { string service = 1; }`, in its frame.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        varint(&mut message, service.len());
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame
}

fn varint(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

async fn judge(response: Response<Incoming>, service: &str) -> Try {
    let (head, mut body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(said(format!("answered HTTP {}, which no gRPC server does", head.status.as_u16())));
    }
    let mut bytes = Vec::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| broken(&error))?.into_data() {
            Ok(data) => bytes.extend(data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
        if bytes.len() > MOST {
            return Err(said("the answer is not one of the health protocol".into()));
        }
    }
    // An answer without a message has its status in the head.
    let of = |name: &str| {
        let value = trailers.get(name).or_else(|| head.headers.get(name));
        value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_string()
    };
    match (of("grpc-status").as_str(), serving(&bytes)) {
        ("0", Some(1)) => Ok("SERVING".into()),
        ("0", Some(status)) => Err(said(match status {
            0 => "says UNKNOWN, expected SERVING".into(),
            2 => "says NOT_SERVING, expected SERVING".into(),
            3 => format!("says SERVICE_UNKNOWN: it has no service \"{service}\""),
            other => format!("says {other}, which the health protocol does not know"),
        })),
        ("5", _) => Err(said(format!("says NOT_FOUND: it tells no health of \"{service}\""))),
        ("12", _) => Err(said("says UNIMPLEMENTED: it has no health service (grpc.health.v1.Health)".into())),
        ("0" | "", _) => Err(said("the answer is not one of the health protocol".into())),
        (code, _) => Err(said(format!("answered gRPC status {code} {}", of("grpc-message")).trim().into())),
    }
}

fn said(why: String) -> Miss {
    Miss::No { outcome: CheckOutcome::Failed, why, shown: String::new(), lines: Vec::new() }
}

/// `message HealthCheckResponse { ServingStatus status = 1; }` in its frame; none where it is none.
fn serving(frame: &[u8]) -> Option<u64> {
    let [compressed, a, b, c, d, message @ ..] = frame else { return None };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    if *compressed != 0 || message.len() != length {
        return None;
    }
    match message {
        // What has its default is not written.
        [] => Some(0),
        [0x08, rest @ ..] if rest.len() <= 10 => {
            let last = rest.iter().position(|byte| byte & 0x80 == 0)?;
            let shifted = rest[..=last]
                .iter()
                .rev()
                .try_fold(0_u64, |sum, byte| sum.checked_mul(128).map(|sum| sum | u64::from(byte & 0x7f)));
            shifted.filter(|_| last + 1 == rest.len())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_as_protobuf_writes_them() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(serving(&[0, 0, 0, 0, 3, 8, 0x81, 1]), Some(129));
        for wrong in [
            &[][..],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 2, 8, 0x80],
            &[0, 0, 0, 0, 1, 9],
        ] {
            assert_eq!(serving(wrong), None, "{wrong:?}");
        }
    }
}
