//! HTTPS: certificates of a route, and the redirect to it.

use serde::{Deserialize, Serialize};

use super::validate::Mistake;
use super::{ProxyRoute, Route};
use crate::units::Span;

/// Certificate of a route. The proxy reads the files, and reads them again whenever they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteTls {
    /// The file of the certificate chain in PEM, the server's own first; an absolute path.
    pub cert: String,
    /// The file of its private key in PEM, not encrypted; an absolute path.
    pub key: String,
    /// For how long browsers shall speak HTTPS only (`Strict-Transport-Security`), such as `365d`; they are not told
    /// without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Span>,
}

/// Where all requests of a route are sent instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Redirect {
    /// To the same host and path of the route with `tls`.
    Https,
}

pub(super) fn mistakes(routes: &[Route]) -> Vec<Mistake> {
    let mut found = Vec::new();
    let proxies: Vec<&ProxyRoute> = routes.iter().map(|Route::Proxy(route)| route).collect();
    let speaks = |address| proxies.iter().any(|other| other.listen == address && other.tls.is_some());
    for (i, route) in proxies.iter().enumerate() {
        let mut say = |key: &str, what: String, hint: &str| {
            found.push(Mistake { path: format!("route[{i}].proxy{key}"), what, hint: hint.into() });
        };
        if let Some(tls) = &route.tls {
            for (key, path) in [(".tls.cert", &tls.cert), (".tls.key", &tls.key)] {
                if !path.starts_with('/') {
                    let what = "the proxy needs an absolute path".to_owned();
                    say(
                        key,
                        what,
                        "it reads the file for as long as it runs, wherever the release file lies",
                    );
                }
            }
        } else if speaks(route.listen) {
            let what = format!("{} speaks TLS for another route", route.listen);
            say("", what, "give this route its `tls`, or another address");
        }
        if route.redirect.is_none() {
            continue;
        }
        if route.tls.is_some() {
            say(".redirect", "this route speaks HTTPS already".into(), "remove `redirect`");
        } else if !proxies.iter().any(|other| other.tls.is_some()) {
            say(".redirect", "no route speaks HTTPS".into(), "give another route `tls: {cert: …, key: …}`");
        }
    }
    found
}
