//! What is said of a request beside the service's own words: who sent it, how, and under which id.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::forward::From;

/// Names a request in the logs of everybody who has part in it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id of somebody else is replaced.
const MAX_ID: usize = 128;

/// What a service wants to be said of its requests, and whom it believes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passing {
    /// Networks whose `Forwarded`, `X-Forwarded-*` and `X-Request-Id` are kept; those of all others are replaced.
    #[serde(default)]
    pub trust: Vec<IpNet>,
    /// Say `Forwarded` (RFC 7239) beside `X-Forwarded-*`.
    #[serde(default)]
    pub forwarded: bool,
    /// Give each request an `X-Request-Id`, and return it.
    #[serde(default)]
    pub request_id: bool,
    /// Listeners whose connections begin with a PROXY protocol header (version 1 or 2).
    #[serde(default)]
    pub proxy_protocol: Vec<SocketAddr>,
}

impl Passing {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Tells whether what `peer` says of a request's way is believed.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        !self.trust.is_empty() && {
            let peer = peer.to_canonical();
            self.trust.iter().any(|network| network.contains(&peer))
        }
    }
}

/// What a response says beside the service's own words.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) hsts: Option<HeaderValue>,
    pub(crate) request_id: Option<HeaderValue>,
    /// The cookie that lets the client stay with its revision.
    pub(crate) seat: Option<HeaderValue>,
}

impl Told {
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        // What the service itself says stands.
        if let Some(hsts) = self.hsts {
            headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(hsts);
        }
        if let Some(id) = self.request_id {
            headers.entry(REQUEST_ID).or_insert(id);
        }
        if let Some(seat) = self.seat {
            headers.append(SET_COOKIE, seat);
        }
    }
}

/// Gives a request its id: the one that somebody trusted gave it, or a new one.
pub(crate) fn identify(headers: &mut HeaderMap, trusted: bool) -> HeaderValue {
    let usable = |id: &&HeaderValue| {
        let id = id.as_bytes();
        !id.is_empty() && id.len() <= MAX_ID && id.iter().all(u8::is_ascii_graphic)
    };
    if let Some(id) = headers.get(REQUEST_ID).filter(|_| trusted).filter(usable) {
        return id.clone();
    }
    let id = HeaderValue::try_from(format!("{:032x}", fastrand::u128(..))).expect("hex digits are visible");
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// Returns the element of `Forwarded` for the hop to us.
pub(crate) fn element(from: From, host: Option<&HeaderValue>) -> String {
    let peer = match from.peer.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    };
    let proto = if from.secure { "https" } else { "http" };
    let host = host.and_then(|host| host.to_str().ok()).filter(|host| !host.contains(['"', '\\']));
    match host {
        Some(host) => format!("for={peer};host=\"{host}\";proto={proto}"),
        None => format!("for={peer};proto={proto}"),
    }
}
