//! Labels that Traefik reads: the route that they mean.

use crate::cursor::Cursor;
use crate::import::Work;
use crate::quantity;

/// The route that labels ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) hosts: Vec<String>,
    pub(super) path: Option<String>,
    pub(super) port: Option<u16>,
}

pub(super) fn import(work: &mut Work<'_>, service: &Cursor<'_>) -> Wanted {
    let mut wanted = Wanted::default();
    let places = [service.get("labels"), service.find(&["deploy", "labels"])];
    for pair in places.into_iter().flatten().flat_map(|at| at.pairs()) {
        if !pair.key.starts_with("traefik.") {
            continue;
        }
        let value = pair.value.map(|value| work.variables.fill(value).text).unwrap_or_default();
        if pair.key.ends_with(".rule") {
            rule(work, &pair.at, &value, &mut wanted);
        } else if pair.key.ends_with(".loadbalancer.server.port") {
            wanted.port = quantity::port(&value).or(wanted.port);
            work.ledger.became(&pair.at, "platform.docker.port", "Traefik's port is the container's", "");
        } else if pair.key.contains(".tls") {
            let what = "Traefik speaks TLS for this host as long as it stands in front";
            work.ledger.left(
                &pair.at,
                what,
                "without Traefik give the route `tls: {acme: {}}`, and one on port 80 `redirect: https`",
            );
        } else if pair.key.contains(".middlewares") {
            let what = "the proxy has no such middleware by this name";
            work.ledger.left(&pair.at, what, "look what the route can do itself: docs/proxy.md");
        } else {
            let what = "Traefik does not see instances by their labels: two revisions run side by side";
            work.ledger.became(
                &pair.at,
                "route",
                what,
                "let Traefik pass the host to the proxy's address, or take its place",
            );
        }
    }
    wanted
}

/// `Host(`a.example`) && PathPrefix(`/api`)`.
fn rule(work: &mut Work<'_>, at: &Cursor<'_>, rule: &str, wanted: &mut Wanted) {
    let hosts: Vec<String> = arguments(rule, "Host(").into_iter().filter(|host| is_host(host)).collect();
    let paths = arguments(rule, "PathPrefix(");
    let plain = !rule.contains(['!', '*']) && !rule.contains("Regexp") && !rule.contains("Headers");
    if hosts.is_empty() || !plain {
        let what = "this rule is more than host and path prefix";
        return work.ledger.left(at, what, "write the route by hand: host: shop.example.com, path: /api");
    }
    for host in hosts {
        if !wanted.hosts.contains(&host) {
            wanted.hosts.push(host);
        }
    }
    wanted.path = paths.into_iter().find(|path| is_prefix(path)).or(wanted.path.take());
    work.ledger.became(
        at,
        "route.proxy.host",
        "the host is the route's; where it listens is for you to say",
        "look at `route:`",
    );
}

/// What stands in backquotes or quotes behind a function's name.
fn arguments(rule: &str, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in rule.match_indices(name) {
        let rest = &rule[at + name.len()..];
        let inside = &rest[..rest.find(')').unwrap_or(rest.len())];
        let parts = inside.split(',').map(|part| part.trim().trim_matches(['`', '"', '\'']).to_string());
        found.extend(parts.filter(|part| !part.is_empty()));
    }
    found
}

/// Tells whether a route can have this host.
pub(crate) fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// Tells whether a route can have this path.
pub(crate) fn is_prefix(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains("//")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>".contains(&byte))
}
