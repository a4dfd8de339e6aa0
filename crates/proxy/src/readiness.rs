//! What a balancer in front asks: can this proxy serve here?

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::body::DownBody;
use crate::compiled::{Compiled, CompiledService};
use crate::forward::From;
use crate::headers;
use crate::route::Router;

/// Where it is asked.
const PATH: &str = "/.well-known/cutover/ready";
/// Counted name of an answer.
const ANSWERED: &str = "ready-question";

/// Answers 200 while the service of the request's host has a ready target for its traffic here, else 503; of a host that no
/// service has, all services of the listener must. Such a question is no request of the service, and is not counted as one.
pub(crate) fn answer(router: &Router, request: &Request<Incoming>, from: From) -> Option<Response<DownBody>> {
    if request.uri().path() != PATH || !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let compiled = router.compiled.borrow();
    let host = headers::host_of(request.uri(), request.headers());
    let ready = match compiled.find(host, PATH, from.listener) {
        Some(at) => is_ready(&compiled, &compiled.services[at]),
        None => {
            let mut here =
                compiled.services.iter().filter(|service| service.listens(from.listener)).peekable();
            here.peek().is_some() && here.all(|service| is_ready(&compiled, service))
        }
    };
    *router.unrouted.borrow_mut().entry(ANSWERED).or_default() += 1;
    let (status, text) = match ready {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no ready target\n"),
    };
    let body = (request.method() == Method::GET).then(|| Bytes::from_static(text.as_bytes()));
    let mut response = Response::new(DownBody::Own(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// A closed service takes no traffic. Every revision with weight must be ready, the candidate aside: whether that one is
/// any good is for its release to find out.
fn is_ready(compiled: &Compiled, service: &CompiledService) -> bool {
    let weights = service.drawn_by();
    let up = |at: usize| {
        let mut targets = service.tracks[at].targets.iter();
        targets.any(|target| {
            !service.down.contains(&target.address) && !compiled.unverified.contains(&target.address)
        })
    };
    let mut weighted = (0..service.tracks.len()).filter(|at| weights[*at] > 0).peekable();
    let alone = |at: usize| weights[at] == weights.iter().sum::<u16>();
    service.maintenance.is_none()
        && weighted.peek().is_some()
        && weighted.all(|at| up(at) || (service.candidate == Some(at) && !alone(at)))
}
