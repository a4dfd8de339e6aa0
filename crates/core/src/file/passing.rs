//! Whom the proxy believes what a request says of its way.

use ipnet::IpNet;

use super::Route;
use super::validate::Mistake;

/// Reads a network, or a single address.
pub fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)))
}

pub(super) fn mistakes(routes: &[Route]) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (i, Route::Proxy(route)) in routes.iter().enumerate() {
        for (key, networks) in [("trust", &route.trust), ("preview", &route.preview)] {
            for (j, text) in networks.iter().enumerate().filter(|(_, text)| network(text).is_none()) {
                found.push(Mistake {
                    path: format!("route[{i}].proxy.{key}[{j}]"),
                    what: format!("`{}` is not a network", super::tree::short(text)),
                    hint: "give networks or addresses, such as `10.0.0.0/8` or `192.0.2.1`".into(),
                });
            }
        }
        let differs = |Route::Proxy(other): &Route| {
            other.listen == route.listen && other.proxy_protocol != route.proxy_protocol
        };
        if !route.proxy_protocol && routes.iter().any(differs) {
            found.push(Mistake {
                path: format!("route[{i}].proxy"),
                what: format!("{} has `proxy_protocol: true` for another route", route.listen),
                hint: "say it for all routes of the address: it is about the connection".into(),
            });
        }
    }
    found
}
