//! From HTTP to HTTPS: a listener that only says where the service is.

use http::header::{HeaderValue, LOCATION};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::body::DownBody;
use crate::forward::From;
use crate::headers;
use crate::refusal::refuse;
use crate::route::Router;

/// Counted reason of a redirect.
const REASON: &str = "https-redirect";

/// Returns the redirect of a request that came without TLS to a listener whose service wants it.
pub(crate) fn redirect(
    router: &Router,
    request: &Request<Incoming>,
    from: From,
) -> Option<Response<DownBody>> {
    let compiled = router.compiled.borrow();
    if from.secure || !compiled.redirects {
        return None;
    }
    let host = headers::host_of(request.uri(), request.headers());
    let service = &compiled.services[compiled.find(host, request.uri().path(), from.listener)?];
    let (_, port) = service.redirect.iter().find(|(listener, _)| *listener == from.listener)?;
    // The host was given by the client: without one there is nowhere to send it.
    if host.is_empty() || host.bytes().any(|byte| !byte.is_ascii_graphic() || b"/\\@?#\"<>".contains(&byte)) {
        return None;
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let port = if *port == 443 { String::new() } else { format!(":{port}") };
    let location = HeaderValue::try_from(format!("https://{host}{port}{path}")).ok()?;
    *router.unrouted.borrow_mut().entry(REASON).or_default() += 1;
    // Keeps the method and the body.
    let mut response = refuse(StatusCode::PERMANENT_REDIRECT, REASON, "this service is served by HTTPS");
    response.headers_mut().insert(LOCATION, location);
    Some(response)
}
