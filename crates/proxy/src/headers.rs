//! Headers between two hops: what ends here, what is added, what names the service.

use http::header::{
    CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version, request};
use std::time::Duration;

use crate::forward::From;
use crate::passing;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Returns the host of a request without its port, as it is looked up.
pub(crate) fn host_of<'request>(uri: &'request Uri, headers: &'request HeaderMap) -> &'request str {
    let name = match uri.host() {
        Some(host) => host,
        None => headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or(""),
    };
    let bare = match name.strip_prefix('[') {
        Some(_) => name.find(']').map_or(name, |end| &name[..=end]),
        None => name.split(':').next().unwrap_or(name),
    };
    bare.trim_end_matches('.')
}

/// Returns the protocol a request wants to upgrade to. HTTP/2 is none: a target that took it would get requests that
/// nobody has routed; clients use prior knowledge instead (RFC 9113, 3.1).
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(UPGRADE).filter(|wanted| !offers_http2(wanted))?;
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asks =
        named.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    asks.then(|| wanted.clone())
}

fn offers_http2(wanted: &HeaderValue) -> bool {
    let mut offered = wanted.as_bytes().split(|byte| *byte == b',');
    offered.any(|protocol| {
        let protocol = protocol.trim_ascii();
        protocol.eq_ignore_ascii_case(b"h2c") || protocol.eq_ignore_ascii_case(b"h2")
    })
}

/// Tells whether a request may be sent twice without its effect happening twice (RFC 9110, 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// What concerns only one hop, beside what `Connection` names (RFC 9110, 7.6.1).
const ONE_HOP: [HeaderName; 6] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, UPGRADE, TRANSFER_ENCODING, PROXY_AUTHENTICATE];

/// Removes what concerns only this hop (RFC 9110, 7.6.1).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have nothing of it, and comparing names is cheaper than looking each of them up.
    if !headers.keys().any(|name| ONE_HOP.contains(name)) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| HeaderName::try_from(token.trim()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in ONE_HOP {
        headers.remove(name);
    }
}

/// Makes a client's request head one of ours.
pub(crate) fn to_target(
    head: &mut request::Parts,
    from: From,
    upgrade: Option<&HeaderValue>,
    trusted: bool,
    forward: bool,
) {
    let trailers = head.headers.get(TE).is_some_and(|te| {
        te.to_str().is_ok_and(|te| te.split(',').any(|token| token.trim().eq_ignore_ascii_case("trailers")))
    });
    strip_hop_by_hop(&mut head.headers);
    for name in [TE, PROXY_AUTHORIZATION, HTTP2_SETTINGS] {
        head.headers.remove(name);
    }
    // The client gets its "100 Continue" when the target's connection asks for the body.
    head.headers.remove(EXPECT);
    if trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol.clone());
    }
    if let Some(host) = head.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        head.headers.insert(HOST, host);
    }
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers);
    }
    if !head.headers.contains_key(HOST)
        && let Ok(listener) = HeaderValue::try_from(from.listener.to_string())
    {
        // A client of HTTP/1.0 need not name one; the target may insist on it.
        head.headers.insert(HOST, listener);
    }
    let path = head.uri.path_and_query().cloned();
    head.uri = path.map_or_else(Uri::default, Uri::from);
    head.version = Version::HTTP_11;
    forwarded(&mut head.headers, from, trusted, forward);
}

/// Makes a request for a target of HTTP/1.1 one for a target of HTTP/2.
pub(crate) fn to_http2<B>(request: &mut Request<B>) {
    if request.version() == Version::HTTP_2 {
        return;
    }
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let host = request.headers_mut().remove(HOST);
    let authority = host.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    parts.scheme = Some(Scheme::HTTP);
    // A client of HTTP/1.0 need not name one, but a request of HTTP/2 has to.
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
    *request.version_mut() = Version::HTTP_2;
}

/// Takes [`to_http2`] back.
pub(crate) fn to_http1<B>(request: &mut Request<B>) {
    let parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = parts.authority.and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = parts.path_and_query.map_or_else(Uri::default, Uri::from);
    *request.version_mut() = Version::HTTP_11;
}

/// HTTP/2 may cut the cookies into fields of their own; HTTP/1 knows one field only (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Says whose request it is. What the client says of that itself is kept only if it is trusted.
fn forwarded(headers: &mut HeaderMap, from: From, trusted: bool, forward: bool) {
    let mut chain = from.peer.ip().to_canonical().to_string();
    if trusted && headers.contains_key(FORWARDED_FOR) {
        let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        chain = before.chain([&*chain]).collect::<Vec<_>>().join(", ");
    }
    if let Ok(chain) = HeaderValue::try_from(chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if !trusted {
        headers.remove(FORWARDED);
    }
    if forward {
        let own = passing::element(from, headers.get(HOST));
        let before = headers.get_all(FORWARDED).iter().filter_map(|value| value.to_str().ok());
        let whole = before.chain([&*own]).collect::<Vec<_>>().join(", ");
        if let Ok(whole) = HeaderValue::try_from(whole) {
            headers.insert(FORWARDED, whole);
        }
    }
    if !trusted || !headers.contains_key(FORWARDED_PROTO) {
        let proto = if from.secure { "https" } else { "http" };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    }
    if (!trusted || !headers.contains_key(FORWARDED_HOST))
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Returns how long a target promises to keep an idle connection, less a second for the way.
pub(crate) fn keep_alive_hint(headers: &HeaderMap) -> Option<Duration> {
    let hint = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let seconds = hint.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    Some(Duration::from_secs(seconds.trim().parse::<u64>().ok()?.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_found_without_its_port() {
        for (header, wanted) in
            [("shop.test", "shop.test"), ("shop.test.:80", "shop.test"), ("[::1]:8080", "[::1]")]
        {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(header));
            assert_eq!(host_of(&Uri::from_static("/x"), &headers), wanted);
            assert_eq!(host_of(&Uri::from_static("http://abs.test:1/x"), &headers), "abs.test");
        }
    }

    #[test]
    fn what_concerns_one_hop_ends_there() {
        let (mut head, ()) = http::Request::builder()
            .uri("/a?b=c")
            .header(HOST, "shop.test")
            .header(CONNECTION, "x-private, keep-alive")
            .header("x-private", "1")
            .header(TE, "gzip, trailers")
            .header(FORWARDED_FOR, "10.0.0.1")
            .header(FORWARDED_PROTO, "https")
            .header("x-mine", "2")
            .body(())
            .unwrap()
            .into_parts();
        let peer = "127.0.0.1:5".parse().unwrap();
        to_target(&mut head, From { peer, listener: peer, secure: false }, None, false, false);
        let mut names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let wanted = ["host", "te", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-mine"];
        assert_eq!(names, wanted);
        assert_eq!(head.headers[TE], "trailers");
        assert_eq!(head.headers[FORWARDED_FOR], "127.0.0.1");
        assert_eq!(head.headers[FORWARDED_PROTO], "http");
    }

    #[test]
    fn keep_alive_hints_leave_a_second() {
        let mut headers = HeaderMap::new();
        headers.insert(KEEP_ALIVE, HeaderValue::from_static("timeout=5, max=100"));
        assert_eq!(keep_alive_hint(&headers), Some(Duration::from_secs(4)));
    }
}
