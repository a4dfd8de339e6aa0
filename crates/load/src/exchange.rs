//! One request and its answer, over a connection that is kept.

use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};

use crate::http1::Http1;
use crate::http2::Http2;
use crate::spec::{Protocol, Scenario, Target};

/// What came of a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// It was answered as expected.
    Ok,
    /// It was answered with another status.
    Status(u16),
    /// It was not answered.
    Miss(Miss),
}

/// Why a request was not answered.
#[derive(Clone, Debug)]
pub(crate) enum Miss {
    /// There was no connection.
    Refused(String),
    /// The connection broke, or what came was no answer.
    Broken(String),
    /// The answer was not whole in time.
    Timeout,
    /// It was never sent: as many requests as may be were open.
    Unsent,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Ok => write!(f, "answered"),
            Answer::Status(status) => write!(f, "answered {status}"),
            Answer::Miss(Miss::Refused(why)) => write!(f, "no connection: {why}"),
            Answer::Miss(Miss::Broken(why)) => write!(f, "broken off: {why}"),
            Answer::Miss(Miss::Timeout) => write!(f, "no whole answer in time"),
            Answer::Miss(Miss::Unsent) => write!(f, "not sent, as many requests as may be were open"),
        }
    }
}

impl Miss {
    pub(crate) fn broken(error: &hyper::Error) -> Miss {
        use std::error::Error;
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Miss::Broken(format!("{error}{cause}"))
    }
}

/// A request, made once and sent often: cloning it copies references, and its few headers.
pub(crate) type Prepared = Request<Full<Bytes>>;

/// Makes the request of a scenario to a target.
pub(crate) fn prepare(scenario: &Scenario, target: Target, protocol: Protocol) -> Prepared {
    let host = scenario.headers.get(header::HOST).cloned();
    let address = || HeaderValue::from_str(&target.address.to_string());
    let host = host.unwrap_or_else(|| address().expect("an address is of visible characters"));
    let mut headers = HeaderMap::with_capacity(scenario.headers.len() + 2);
    let mut uri = Uri::builder().path_and_query(scenario.path.clone());
    match protocol {
        Protocol::Http1 => drop(headers.insert(header::HOST, host)),
        Protocol::Http2 => uri = uri.scheme("http").authority(host.as_bytes()),
    }
    headers.insert(header::USER_AGENT, HeaderValue::from_static("cutover-load"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    for name in scenario.headers.keys().filter(|name| **name != header::HOST) {
        headers.remove(name);
        headers.extend(scenario.headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
    }
    let mut request = Request::new(Full::new(scenario.body.clone()));
    *request.method_mut() = scenario.method.clone();
    *request.uri_mut() = uri.build().unwrap_or_else(|_| Uri::from(scenario.path.clone()));
    *request.headers_mut() = headers;
    request
}

/// A way to a target: a connection of its own, or streams of one that others use too.
pub(crate) enum Link {
    Http1(Http1),
    Http2(Rc<Http2>),
}

impl Link {
    /// Sends a request and reads its answer to the end.
    ///
    /// # Cancel safety
    /// Dropped, it takes its connection along (HTTP/1.1), or resets its stream (HTTP/2).
    pub(crate) async fn exchange(&mut self, request: &Prepared) -> Result<u16, Miss> {
        match self {
            Link::Http1(link) => link.exchange(request).await,
            Link::Http2(link) => link.exchange(request).await,
        }
    }
}

/// Reads an answer to its end, and throws it away.
pub(crate) async fn finish(response: Response<Incoming>) -> Result<u16, Miss> {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    while !body.is_end_stream() {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Miss::broken(&error)),
            None => break,
        }
    }
    Ok(status)
}
