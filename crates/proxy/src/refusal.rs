//! Answers of the proxy itself: why a request was not served, and who is to blame.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::body::DownBody;
use crate::exhausted::EXHAUSTED;
use crate::route::Router;
use crate::traffic::Traffic;

/// Response header that says why the proxy itself answered; one of [`REASONS`].
pub const REASON_HEADER: &str = "x-cutover-reason";
/// Response header that says who is to blame for that: `client`, `target`, `operator` or `proxy`.
pub const BLAME_HEADER: &str = "x-cutover-blame";

/// Why the proxy itself answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// Value of [`REASON_HEADER`].
    pub name: &'static str,
    /// Status of the answer.
    pub status: u16,
    /// Value of [`BLAME_HEADER`].
    pub blame: &'static str,
    /// What happened, for people.
    pub what: &'static str,
}

const fn reason(name: &'static str, status: u16, blame: &'static str, what: &'static str) -> Reason {
    Reason { name, status, blame, what }
}

/// Every reason there is; docs/proxy.md lists the same.
pub const REASONS: &[Reason] = &[
    reason("connect-method", 501, "client", "this is not a proxy for CONNECT"),
    reason("two-hosts", 400, "client", "the request names more than one host"),
    reason("no-host", 400, "client", "the request names no host"),
    reason("bad-host", 400, "client", "the host of the request is no name, address or port"),
    reason("bad-coding", 400, "client", "the body is coded in something else than chunked, or twice"),
    reason("plain-text", 400, "client", "this address speaks TLS"),
    reason("https-redirect", 308, "client", "this service is served by HTTPS"),
    reason("client-aborted", 400, "client", "the request body broke off"),
    reason("client-stalled", 408, "client", "the request body came too slowly"),
    reason("body-too-large", 413, "client", "the request body is longer than the service takes"),
    reason("headers-too-large", 431, "client", "the request has more header fields than the service takes"),
    reason("client-rate", 429, "client", "the client sends more requests than it may"),
    reason("client-busy", 429, "client", "the client has as many requests at once as it may"),
    reason("no-service", 404, "operator", "no service is routed for the host"),
    reason("maintenance", 503, "operator", "the service is closed for maintenance"),
    reason("queue-full", 503, "operator", "the operator holds the requests, and no more may wait"),
    reason("queue-timeout", 503, "operator", "the operator held the request for as long as it may wait"),
    reason(
        "targets-full",
        503,
        "target",
        "all targets have as many requests as they may, and no more may wait",
    ),
    reason("targets-busy", 503, "target", "no target had room for the request for as long as it may wait"),
    reason("no-target", 503, "operator", "the service has no ready target"),
    reason("table-damaged", 503, "proxy", "the proxy lost its table"),
    reason(EXHAUSTED, 503, "proxy", "the proxy is out of descriptors"),
    reason("connect-refused", 503, "target", "no target accepted a connection"),
    reason("connect-unreachable", 503, "target", "no target could be reached"),
    reason("connect-failed", 503, "target", "no target could be reached"),
    reason("connect-timeout", 504, "target", "no target accepted a connection in time"),
    reason("response-timeout", 504, "target", "the target did not answer in time"),
    reason("bad-response", 502, "target", "the target's response could not be understood"),
    reason(
        "target-closed",
        502,
        "target",
        "the target closed the connection before it answered; the request may have had its effect",
    ),
    reason(
        "target-reset",
        502,
        "target",
        "the target gave the request up before it answered; it may have had its effect",
    ),
    reason(
        "drain-deadline",
        504,
        "operator",
        "the target was drained and its deadline passed before it answered",
    ),
];

/// A refusal before any target was claimed.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

impl Refusal {
    /// Refuses as the list of reasons says.
    pub(crate) fn of(name: &'static str) -> Self {
        let (status, what) = find(name).map_or((503, "refused"), |reason| (reason.status, reason.what));
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self { status, reason: name, text: what.to_owned() }
    }

    pub(crate) fn count(self, router: &Router) -> Response<DownBody> {
        *router.unrouted.borrow_mut().entry(self.reason).or_default() += 1;
        refuse(self.status, self.reason, &self.text)
    }
}

/// A refusal, or the page of an operator.
pub(crate) enum Refused {
    Plain(Refusal),
    Page(Arc<Traffic>),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Plain(refusal)
    }
}

impl Refused {
    pub(crate) fn count(self, router: &Router) -> Response<DownBody> {
        let traffic = match self {
            Self::Plain(refusal) => return refusal.count(router),
            Self::Page(traffic) => traffic,
        };
        let closed = Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: "maintenance",
            text: "the service is closed for maintenance".to_owned(),
        };
        let mut response = closed.count(router);
        if let Traffic::Maintenance { page, content_type, retry_after_s } = &*traffic {
            *response.body_mut() = DownBody::Own(Some(Bytes::copy_from_slice(page.as_bytes())));
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from(*retry_after_s));
            // Looked at when it was set.
            if let Ok(content_type) = HeaderValue::from_str(content_type) {
                headers.insert(CONTENT_TYPE, content_type);
            }
        }
        response
    }
}

/// Returns what happened, for people.
pub(crate) fn what(name: &str) -> &'static str {
    find(name).map_or("the request came to nothing", |reason| reason.what)
}

fn find(name: &str) -> Option<&'static Reason> {
    REASONS.iter().find(|reason| reason.name == name)
}

/// Returns why the proxy itself answered.
pub(crate) fn reason_of<B>(response: &Response<B>) -> Option<&'static str> {
    find(response.headers().get(REASON_HEADER)?.to_str().ok()?).map(|reason| reason.name)
}

/// Answers for an attempt that came to nothing.
pub(crate) fn lost(name: &'static str) -> Response<DownBody> {
    match find(name) {
        Some(reason) => {
            let status = StatusCode::from_u16(reason.status).unwrap_or(StatusCode::BAD_GATEWAY);
            refuse(status, name, reason.what)
        }
        None => refuse(StatusCode::BAD_GATEWAY, name, "the request came to nothing"),
    }
}

pub(crate) fn refuse(status: StatusCode, name: &'static str, text: &str) -> Response<DownBody> {
    let reason = find(name);
    // Tests run with it: what is not listed here and in docs/proxy.md cannot be looked up by whoever gets it.
    debug_assert!(reason.is_some_and(|reason| reason.status == status), "list {name} ({status}) in REASONS");
    let mut response = Response::new(DownBody::Own(Some(Bytes::from(format!("cutover: {text} ({name})\n")))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(REASON_HEADER), HeaderValue::from_static(name));
    if let Some(reason) = reason {
        headers.insert(HeaderName::from_static(BLAME_HEADER), HeaderValue::from_static(reason.blame));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED) {
        // Whoever sends such things may mean what follows for somebody else.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_reason_as_it_is() {
        let page = include_str!("../../../docs/proxy.md");
        let section = page.split("### Reasons").nth(1).and_then(|rest| rest.split("\n#").next()).unwrap();
        let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let wanted: Vec<String> = REASONS
            .iter()
            .map(|reason| {
                format!("| `{}` | {} | {} | {} |", reason.name, reason.status, reason.blame, reason.what)
            })
            .collect();
        assert_eq!(rows, wanted, "docs/proxy.md, \"Reasons\", must say:\n{}", wanted.join("\n"));
    }

    #[test]
    fn each_reason_is_there_once_and_blames_somebody() {
        for (at, reason) in REASONS.iter().enumerate() {
            assert!(["client", "target", "operator", "proxy"].contains(&reason.blame), "{reason:?}");
            assert!(REASONS[..at].iter().all(|other| other.name != reason.name), "{reason:?}");
        }
    }
}
