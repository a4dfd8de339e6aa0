//! Answers of the proxy itself: why a request was not served.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::body::DownBody;
use crate::exhausted::EXHAUSTED;
use crate::route::Router;

/// Response header that says why the proxy itself answered.
pub const REASON_HEADER: &str = "x-cutover-reason";

/// A refusal before any target was claimed.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn count(self, router: &Router) -> Response<DownBody> {
        *router.unrouted.borrow_mut().entry(self.reason).or_default() += 1;
        refuse(self.status, self.reason, &self.text)
    }
}

pub(crate) fn lost(reason: &'static str) -> Response<DownBody> {
    let status = match reason {
        EXHAUSTED => StatusCode::SERVICE_UNAVAILABLE,
        "connect-timeout" | "response-timeout" | "drain-deadline" => StatusCode::GATEWAY_TIMEOUT,
        "connect-refused" | "connect-unreachable" | "connect-failed" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    let text = match reason {
        EXHAUSTED => "the proxy is out of descriptors",
        "connect-refused" => "no target accepted a connection",
        "connect-unreachable" | "connect-failed" => "no target could be reached",
        "connect-timeout" => "no target accepted a connection in time",
        "response-timeout" => "the target did not answer in time",
        "drain-deadline" => "the target was drained and its deadline passed before it answered",
        "bad-response" => "the target's response could not be understood",
        "target-reset" => "the target gave the request up before it answered; it may have had its effect",
        _ => "the target closed the connection before it answered; the request may have had its effect",
    };
    refuse(status, reason, text)
}

pub(crate) fn refuse(status: StatusCode, reason: &'static str, text: &str) -> Response<DownBody> {
    let mut response =
        Response::new(DownBody::Own(Some(Bytes::from(format!("cutover: {text} ({reason})\n")))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(REASON_HEADER), HeaderValue::from_static(reason));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
