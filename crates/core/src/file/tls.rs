//! HTTPS: certificates of a route, and the redirect to it.

use serde::{Deserialize, Serialize};

use super::validate::Mistake;
use super::{ProxyRoute, Route};
use crate::units::Span;

/// Certificate of a route: from files (`cert` and `key`), or from an authority (`acme`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteTls {
    /// The file of the certificate chain in PEM, the server's own first; an absolute path. The proxy reads it again whenever
    /// it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// The file of its private key in PEM, not encrypted; an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Lets the proxy ask an authority for the certificate, and renew it. The authority looks at `http://HOST/` on port 80,
    /// which must reach a plain listener of this proxy. Who writes this agrees to the authority's terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<RouteAcme>,
    /// For how long browsers shall speak HTTPS only (`Strict-Transport-Security`), such as `365d`; they are not told
    /// without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Span>,
}

/// The authority that signs a certificate (ACME, RFC 8555, with HTTP-01); `{}` is Let's Encrypt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteAcme {
    /// An address that the authority may write to when something is wrong with a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The authority's directory, by https.
    #[serde(default = "lets_encrypt")]
    pub directory: String,
    /// The file of root certificates in PEM that a private authority is known by, such as step-ca's; an absolute path.
    /// Without it what this machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

fn lets_encrypt() -> String {
    "https://acme-v02.api.letsencrypt.org/directory".to_owned()
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
            certificate_mistakes(route, tls, &mut say);
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

fn certificate_mistakes(route: &ProxyRoute, tls: &RouteTls, say: &mut impl FnMut(&str, String, &str)) {
    let root = tls.acme.as_ref().and_then(|acme| acme.root.as_ref());
    for (key, path) in
        [(".tls.cert", tls.cert.as_ref()), (".tls.key", tls.key.as_ref()), (".tls.acme.root", root)]
    {
        if path.is_some_and(|path| !path.starts_with('/')) {
            let hint = "it reads the file for as long as it runs, wherever the release file lies";
            say(key, "the proxy needs an absolute path".into(), hint);
        }
    }
    let Some(acme) = &tls.acme else {
        if tls.cert.is_none() || tls.key.is_none() {
            let hint = "give `cert` and `key`, or `acme: {}` for one of Let's Encrypt";
            say(".tls", "there is no certificate to speak HTTPS with".into(), hint);
        }
        return;
    };
    if tls.cert.is_some() || tls.key.is_some() {
        let what = "the certificate comes from files or from an authority, not from both".to_owned();
        say(".tls.acme", what, "remove `acme`, or `cert` and `key`");
    }
    if !route.host.as_deref().is_some_and(is_signed_for) {
        let what = "an authority signs for a host, which this route does not name".to_owned();
        say(".tls.acme", what, "give the route its `host`, such as `host: shop.example.com`");
    }
    if !acme.directory.starts_with("https://") {
        let what = "an authority is asked by https".to_owned();
        say(
            ".tls.acme.directory",
            what,
            "give the address of its directory, such as https://ca.internal/acme/acme/directory",
        );
    }
    if acme.email.as_ref().is_some_and(|email| !is_address(email)) {
        say(".tls.acme.email", "this is no mail address".into(), "such as `email: ops@example.com`");
    }
}

/// Tells whether it is a name and no address of the network: those have no HTTP-01 with most authorities.
fn is_signed_for(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_err()
}

fn is_address(email: &str) -> bool {
    let plain = email.bytes().all(|byte| byte.is_ascii_graphic() && !b",:<>\"".contains(&byte));
    plain && email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
}
