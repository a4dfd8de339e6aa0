//! What an answer of gRPC came to: its HTTP status is 200 whatever happens, and its own status follows at the end.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

const STATUS: &str = "grpc-status";

/// The statuses by which a server says that it failed, and not that its caller did: UNKNOWN, DEADLINE_EXCEEDED,
/// UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS. OpenTelemetry's conventions for spans of gRPC servers draw the same line.
const FAILURES: [&[u8]; 6] = [b"2", b"4", b"12", b"13", b"14", b"15"];

/// When it is known what an answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// It is none of gRPC, or one whose HTTP status says it already.
    AsHttp,
    /// It says so at its end.
    InTrailers,
    /// Its head is all of it, and says that the server failed.
    Failed,
}

/// Tells when it is known what an answer with this head came to.
pub(crate) fn ends(status: StatusCode, head: &HeaderMap) -> Ends {
    if status != StatusCode::OK || !is_grpc(head) {
        return Ends::AsHttp;
    }
    match head.get(STATUS) {
        None => Ends::InTrailers,
        Some(_) if is_failure(head) => Ends::Failed,
        Some(_) => Ends::AsHttp,
    }
}

/// Tells whether a server says that it failed. Trailers without a status say so too: callers take it for UNKNOWN.
pub(crate) fn is_failure(trailers: &HeaderMap) -> bool {
    trailers.get(STATUS).is_none_or(|status| FAILURES.contains(&status.as_bytes()))
}

/// `application/grpc` and `application/grpc+proto`, not `application/grpc-web`, whose status is part of its body.
fn is_grpc(head: &HeaderMap) -> bool {
    let kind = head.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn head(kind: &str, status: Option<&str>) -> HeaderMap {
        let mut head = HeaderMap::new();
        head.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        if let Some(status) = status {
            head.insert(STATUS, HeaderValue::from_str(status).unwrap());
        }
        head
    }

    #[test]
    fn an_answer_of_grpc_is_told_by_its_kind_and_decided_where_its_status_stands() {
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert_eq!(ends(StatusCode::OK, &head(kind, None)), Ends::InTrailers, "{kind}");
            assert_eq!(ends(StatusCode::OK, &head(kind, Some("14"))), Ends::Failed, "{kind}");
            assert_eq!(ends(StatusCode::OK, &head(kind, Some("5"))), Ends::AsHttp, "{kind}");
            assert_eq!(ends(StatusCode::BAD_GATEWAY, &head(kind, None)), Ends::AsHttp, "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", "text/grpc"] {
            assert_eq!(ends(StatusCode::OK, &head(kind, None)), Ends::AsHttp, "{kind}");
        }
    }

    #[test]
    fn the_servers_failures_are_told_from_the_callers() {
        let failed: Vec<u32> = (0..=16)
            .filter(|status| is_failure(&head("application/grpc", Some(&status.to_string()))))
            .collect();
        assert_eq!(failed, [2, 4, 12, 13, 14, 15]);
        assert!(is_failure(&HeaderMap::new()));
    }
}
