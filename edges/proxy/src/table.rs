//! Translates between the core's words and the proxy's table.

use std::net::SocketAddr;

use cutover_core::{Compare, Lease, RevisionId, Shift, file};
use cutover_ports::Target;
use cutover_proxy::{
    AccessFormat, AccessLog, AcmeIssuer, Balance, CandidateLease, Guard, HeaderLimit, JudgeTerms, Limits,
    Pace, Passing, PerClient, PinKey, Retries, SEAT_COOKIE, ServiceTable, Sticky, TargetChecks,
    TargetProtocol, TlsRoute, Track, Waiting,
};
use ipnet::IpNet;

/// Makes the table that `shift` asks for, keeping what it does not speak of from `before`.
pub(crate) fn wanted(
    before: Option<&ServiceTable>,
    routes: &[(SocketAddr, Option<String>)],
    shift: &Shift,
    targets: &[Target],
    lease_ms: u64,
    pin_key: &str,
) -> ServiceTable {
    let mut table = before.cloned().unwrap_or_default();
    // Without routes the question is about weights alone.
    if !routes.is_empty() {
        (table.hosts, table.listen) = addresses(routes);
    }
    table.pin_key = Some(PinKey(pin_key.to_string()));
    let mut revisions: Vec<RevisionId> = shift.weights.iter().map(|(revision, _)| revision.clone()).collect();
    for target in targets {
        if !revisions.contains(&target.revision) {
            revisions.push(target.revision.clone());
        }
    }
    revisions.sort();
    table.tracks = revisions
        .iter()
        .map(|revision| Track {
            revision: revision.to_string(),
            weight_bp: shift.weight_of(revision).bp(),
            targets: targets_of(revision, targets),
            protocol: before
                .and_then(|before| before.track(revision.as_str()))
                .map(|track| track.protocol)
                .unwrap_or_default(),
            checks: before
                .and_then(|before| before.track(revision.as_str()))
                .and_then(|track| track.checks.clone()),
        })
        .collect();
    table.candidate = shift.lease.as_ref().map(|lease| CandidateLease {
        release: lease.release.to_string(),
        revision: lease.candidate.to_string(),
        lease_ms,
        fallback: fallback(lease),
        guard: Some(guard(&lease.guard)),
        judge: lease.compare.as_ref().map(terms),
    });
    table
}

/// Returns who has what once the lease is lost.
fn fallback(lease: &Lease) -> Vec<(String, u16)> {
    let others = (lease.fallback.to_string(), lease.retain.rest().bp());
    if lease.retain.is_zero() {
        return vec![others];
    }
    vec![others, (lease.candidate.to_string(), lease.retain.bp())]
}

/// Returns the hosts and listeners of a list of routes; one without a host takes every host of its address.
fn addresses(routes: &[(SocketAddr, Option<String>)]) -> (Vec<String>, Vec<SocketAddr>) {
    let every = routes.iter().any(|(_, host)| host.is_none());
    let hosts =
        if every { vec!["*".into()] } else { routes.iter().filter_map(|(_, host)| host.clone()).collect() };
    let mut listen: Vec<SocketAddr> = Vec::new();
    for (address, _) in routes {
        if !listen.contains(address) {
            listen.push(*address);
        }
    }
    (hosts, listen)
}

/// Returns the prefixes of assets of all routes: they lead to the same revisions.
pub(crate) fn assets(routes: &[file::Route]) -> Vec<String> {
    let mut prefixes: Vec<String> = Vec::new();
    for file::Route::Proxy(route) in routes {
        prefixes.extend(route.assets.iter().cloned());
    }
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

/// Lets the candidate, and what is new in the table, be spoken to as the routes say; revisions that were there before may
/// speak something else.
pub(crate) fn speak(
    table: &mut ServiceTable,
    before: Option<&ServiceTable>,
    candidate: Option<&RevisionId>,
    routes: &[file::Route],
) {
    let protocol = match file::TargetProtocol::of(routes) {
        file::TargetProtocol::Http1 => TargetProtocol::Http1,
        file::TargetProtocol::H2c => TargetProtocol::H2c,
    };
    for track in &mut table.tracks {
        let known = before.is_some_and(|before| before.track(&track.revision).is_some());
        if !known || candidate.is_some_and(|candidate| candidate.as_str() == track.revision) {
            track.protocol = protocol;
        }
    }
}

/// Lets the proxy ask every target what the routes say, all of which say the same. The question of a revision's own health
/// checks is asked of its own targets only: the one before may not know the path.
pub(crate) fn check(tracks: &mut [Track], routes: &[file::Route]) {
    let Some(checks) = routes.iter().find_map(|file::Route::Proxy(route)| route.checks.as_ref()) else {
        return;
    };
    for track in tracks {
        let own = track.checks.take().filter(|_| checks.of_revision);
        let mut asked = TargetChecks {
            path: checks.path.clone(),
            status: (checks.expect.status.from, checks.expect.status.to),
            body: checks.expect.body.clone(),
            interval_ms: checks.interval.ms(),
            timeout_ms: checks.timeout.ms(),
            fall: checks.fall,
            rise: checks.rise,
        };
        if let Some(own) = own {
            (asked.path, asked.status, asked.body) = (own.path, own.status, own.body);
        }
        track.checks = (asked.interval_ms > 0).then_some(asked);
    }
}

/// Returns the listeners that speak TLS, and those that redirect to them; `bound` are the addresses of `routes`.
pub(crate) fn https(
    bound: &[(SocketAddr, Option<String>)],
    routes: &[file::Route],
) -> (Vec<TlsRoute>, Vec<SocketAddr>) {
    let (mut tls, mut redirect) = (Vec::new(), Vec::new());
    for ((listen, host), file::Route::Proxy(route)) in bound.iter().zip(routes) {
        if let Some(said) = &route.tls {
            tls.push(TlsRoute {
                listen: *listen,
                host: host.clone(),
                cert: said.cert.clone().unwrap_or_default(),
                key: said.key.clone().unwrap_or_default(),
                acme: said.acme.as_ref().map(issuer),
                hsts_s: said.hsts.map(|span| span.ms() / 1_000),
            });
        }
        if route.redirect.is_some() && !redirect.contains(listen) {
            redirect.push(*listen);
        }
    }
    (tls, redirect)
}

fn issuer(said: &file::RouteAcme) -> AcmeIssuer {
    AcmeIssuer { directory: said.directory.clone(), email: said.email.clone(), root: said.root.clone() }
}

/// Returns what the routes want to be said of requests; `bound` are their addresses.
pub(crate) fn passing(bound: &[(SocketAddr, Option<String>)], routes: &[file::Route]) -> Passing {
    let mut passing = Passing::default();
    for ((listen, _), file::Route::Proxy(route)) in bound.iter().zip(routes) {
        passing.forwarded |= route.forwarded;
        passing.request_id |= route.request_id;
        if route.proxy_protocol && !passing.proxy_protocol.contains(listen) {
            passing.proxy_protocol.push(*listen);
        }
        for network in route.trust.iter().filter_map(|text| file::network(text)) {
            if !passing.trust.contains(&network) {
                passing.trust.push(network);
            }
        }
    }
    passing
}

/// Returns how the routes want requests spread, all of which say the same.
pub(crate) fn balance(routes: &[file::Route]) -> Balance {
    let said = routes.iter().find_map(|file::Route::Proxy(route)| route.balance);
    let said = said.unwrap_or_default();
    Balance { eject_after: said.eject_after, slow_start_ms: said.slow_start.ms() }
}

/// Returns how many requests may be sent twice, as all routes say.
pub(crate) fn retries(routes: &[file::Route]) -> Retries {
    let said = routes.iter().find_map(|file::Route::Proxy(route)| route.retries);
    let said = said.unwrap_or_default();
    Retries { budget_bp: said.budget.bp(), floor: said.floor }
}

/// Returns what is logged of requests, as all routes say.
pub(crate) fn access_log(routes: &[file::Route]) -> Option<AccessLog> {
    let said = routes.iter().find_map(|file::Route::Proxy(route)| route.access_log)?;
    let format = match said.format {
        file::AccessLogFormat::Json => AccessFormat::Json,
        file::AccessLogFormat::Combined => AccessFormat::Combined,
    };
    Some(AccessLog { format, sample_bp: said.sample.bp(), query: said.query, size: said.size.bytes() })
}

/// Returns what the service takes at most, as all routes say.
pub(crate) fn limits(routes: &[file::Route]) -> Limits {
    let said = routes.iter().find_map(|file::Route::Proxy(route)| route.limits.clone());
    let said = said.unwrap_or_default();
    let waiting = |queue: file::RouteQueue| Waiting { limit: queue.limit, wait_ms: queue.wait.ms() };
    let headers =
        |headers: file::RouteHeaders| HeaderLimit { count: headers.count, bytes: headers.size.bytes() };
    let client = |client: file::RoutePerClient| PerClient {
        rate: client.rate,
        burst: client.burst,
        at_once: client.at_once,
        connections: client.connections,
    };
    let pace = |said: file::RoutePace| Pace { bytes: said.least.bytes(), within_ms: said.within.ms() };
    Limits {
        per_target: said.per_target,
        queue: said.queue.map(waiting),
        body: said.body.map(|body| body.bytes()),
        headers: said.headers.map(headers),
        per_client: said.per_client.map(client),
        upload: said.upload.map(pace),
        download: said.download.map(pace),
        closes: said.closes,
    }
}

/// Returns the prefixes of all routes; one without takes every path.
pub(crate) fn paths(routes: &[file::Route]) -> Vec<String> {
    let mut paths = Vec::new();
    for file::Route::Proxy(route) in routes {
        match &route.path {
            None => return Vec::new(),
            Some(path) if !paths.contains(path) => paths.push(path.clone()),
            Some(_) => {}
        }
    }
    paths
}

/// Returns the share of requests that the candidate gets a copy of; all routes say the same.
pub(crate) fn mirror(routes: &[file::Route]) -> u16 {
    routes.iter().find_map(|file::Route::Proxy(route)| route.mirror).map_or(0, |share| share.bp())
}

/// Returns who sees the candidate first, on whatever route.
pub(crate) fn preview(routes: &[file::Route]) -> Vec<IpNet> {
    let networks = routes.iter().flat_map(|file::Route::Proxy(route)| &route.preview);
    networks.filter_map(|text| file::network(text)).collect()
}

/// Returns how clients stay with their revision; all routes say the same.
pub(crate) fn sticky(routes: &[file::Route]) -> Option<Sticky> {
    let said = routes.iter().find_map(|file::Route::Proxy(route)| route.sticky.as_ref())?;
    Some(match said.by {
        file::StickyBy::Cookie => {
            Sticky::Cookie { name: said.name.clone().unwrap_or_else(|| SEAT_COOKIE.to_owned()) }
        }
        file::StickyBy::Header => Sticky::Header { name: said.name.clone().unwrap_or_default() },
    })
}

/// Returns the proxy's targets of one revision.
pub(crate) fn targets_of(revision: &RevisionId, targets: &[Target]) -> Vec<cutover_proxy::Target> {
    targets
        .iter()
        .filter(|target| &target.revision == revision)
        .map(|target| cutover_proxy::Target {
            instance: target.instance.to_string(),
            address: target.address,
            ready: true,
        })
        .collect()
}

/// One release in a hundred is judged wrong, either way.
fn terms(compare: &Compare) -> JudgeTerms {
    JudgeTerms {
        alpha_bp: 100,
        beta_bp: 100,
        margins_ppb: compare.margins_ppb.clone(),
        warm_up_ms: compare.warm_up.ms(),
        watch_ms: compare.watch.ms(),
    }
}

fn guard(guard: &file::Guard) -> Guard {
    Guard {
        min_requests: guard.min_requests,
        max_error_bp: Some(guard.success.rest().bp()),
        max_mean_ms: guard.mean.map(|span| span.ms()),
        max_p95_ms: guard.p95.map(|span| span.ms()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(protocol: &str) -> Vec<file::Route> {
        let text = format!(r#"[{{"proxy": {{"listen": "127.0.0.1:1", "target_protocol": "{protocol}"}}}}]"#);
        serde_json::from_str(&text).expect("a list of routes")
    }

    #[test]
    fn a_revision_keeps_its_protocol_while_the_candidate_speaks_another() {
        let track = |revision: &str| Track {
            revision: revision.into(),
            weight_bp: 0,
            targets: Vec::new(),
            protocol: TargetProtocol::Http1,
            checks: None,
        };
        let before = ServiceTable { tracks: vec![track("v1")], ..ServiceTable::default() };
        let mut table = ServiceTable { tracks: vec![track("v1"), track("v2")], ..ServiceTable::default() };
        let protocols = |table: &ServiceTable| {
            table.tracks.iter().map(|track| track.protocol == TargetProtocol::H2c).collect::<Vec<_>>()
        };
        speak(&mut table, Some(&before), Some(&RevisionId::new("v2")), &routes("h2c"));
        assert_eq!(protocols(&table), [false, true]);
        // Stable on its own, and again after the proxy has lost its table.
        speak(&mut table, Some(&before), None, &routes("h2c"));
        assert_eq!(protocols(&table), [false, true]);
        speak(&mut table, None, None, &routes("h2c"));
        assert_eq!(protocols(&table), [true, true]);
    }

    fn track(revision: &str, path: Option<&str>) -> Track {
        let checks = path.map(|path| TargetChecks {
            path: Some(path.into()),
            status: (200, 399),
            body: None,
            interval_ms: 1,
            timeout_ms: 1,
            fall: 1,
            rise: 1,
        });
        Track {
            revision: revision.into(),
            weight_bp: 0,
            targets: Vec::new(),
            checks,
            protocol: TargetProtocol::Http1,
        }
    }

    fn asked(route: &str, of_revision: bool) -> Vec<(Option<String>, u64)> {
        let mut checks: file::RouteChecks = serde_json::from_str(route).expect("checks of a route");
        checks.of_revision = of_revision;
        let route: file::Route =
            serde_json::from_str(r#"{"proxy": {"listen": "127.0.0.1:1"}}"#).expect("a route");
        let file::Route::Proxy(mut proxy) = route;
        proxy.checks = Some(checks);
        let mut tracks = [track("v1", Some("/old")), track("v2", None)];
        check(&mut tracks, &[file::Route::Proxy(proxy)]);
        let asked = tracks.into_iter().filter_map(|track| track.checks);
        asked.map(|checks| (checks.path, checks.interval_ms)).collect()
    }

    #[test]
    fn what_the_routes_say_reaches_the_table() {
        let text = r#"{"proxy": {"listen": "127.0.0.1:1", "balance": {"eject_after": 5, "slow_start": "10s"},
            "retries": {"budget": "5%", "floor": 1},
            "limits": {"per_target": 7, "queue": {"limit": 8, "wait": "9s"}, "body": "1Ki", "headers": {"count": 2},
                "per_client": {"rate": 3, "at_once": 4, "connections": 5}, "upload": {"least": "2Ki"},
                "download": {"within": "3s"}, "closes": 9},
            "access_log": {"format": "combined", "sample": "10%"}}}"#;
        let routes: Vec<file::Route> = vec![serde_json::from_str(text).expect("a route")];
        assert_eq!(balance(&routes), Balance { eject_after: 5, slow_start_ms: 10_000 });
        assert_eq!(retries(&routes), Retries { budget_bp: 500, floor: 1 });
        let wanted = Limits {
            per_target: Some(7),
            queue: Some(Waiting { limit: 8, wait_ms: 9_000 }),
            body: Some(1024),
            headers: Some(HeaderLimit { count: 2, bytes: 32 << 10 }),
            per_client: Some(PerClient { rate: Some(3), burst: 20, at_once: Some(4), connections: Some(5) }),
            upload: Some(Pace { bytes: 2048, within_ms: 30_000 }),
            download: Some(Pace { bytes: 1024, within_ms: 3_000 }),
            closes: Some(9),
        };
        assert_eq!(limits(&routes), wanted);
        let log =
            AccessLog { format: AccessFormat::Combined, sample_bp: 1_000, query: false, size: 64 << 20 };
        assert_eq!(access_log(&routes), Some(log));
        assert_eq!(access_log(&[]), None);
        assert_eq!(limits(&[]), Limits::default(), "nothing is limited unless it is said");
    }

    #[test]
    fn the_question_of_a_revision_stays_with_it_and_that_of_a_route_is_everyones() {
        let path = |path: &str| Some(path.to_owned());
        assert_eq!(asked(r#"{"path": "/new"}"#, true), [(path("/old"), 10_000), (path("/new"), 10_000)]);
        assert_eq!(asked(r#"{"path": "/new"}"#, false), [(path("/new"), 10_000), (path("/new"), 10_000)]);
        assert_eq!(asked(r#"{"path": "/new", "interval": "0s"}"#, false), [], "0s: no checks");
    }

    #[test]
    fn https_of_the_routes_reaches_the_table() {
        let text = r#"[{"proxy": {"listen": "127.0.0.1:1", "host": "a.test", "redirect": "https"}},
            {"proxy": {"listen": "127.0.0.1:2", "host": "a.test",
                       "tls": {"cert": "/c", "key": "/k", "hsts": "1d"}}}]"#;
        let routes: Vec<file::Route> = serde_json::from_str(text).expect("a list of routes");
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let host = Some("a.test".to_owned());
        let bound = [(address("127.0.0.1:11"), host.clone()), (address("127.0.0.1:12"), host.clone())];
        let (listen, cert, key) = (bound[1].0, "/c".to_owned(), "/k".to_owned());
        let wanted = TlsRoute { listen, host, cert, key, acme: None, hsts_s: Some(86_400) };
        assert_eq!(https(&bound, &routes), (vec![wanted], vec![bound[0].0]));
    }

    #[test]
    fn who_signs_reaches_the_table() {
        let signed = |tls: &str| {
            let text =
                format!(r#"[{{"proxy": {{"listen": "127.0.0.1:1", "host": "a.test", "tls": {tls}}}}}]"#);
            let routes: Vec<file::Route> = serde_json::from_str(&text).expect("a list of routes");
            let bound = [("127.0.0.1:1".parse().expect("an address"), Some("a.test".to_owned()))];
            let (tls, _) = https(&bound, &routes);
            assert_eq!((&*tls[0].cert, &*tls[0].key), ("", ""));
            tls[0].acme.clone()
        };
        let directory = "https://acme-v02.api.letsencrypt.org/directory".to_owned();
        assert_eq!(signed(r#"{"acme": {}}"#), Some(AcmeIssuer { directory, email: None, root: None }));
        let own = r#"{"acme": {"directory": "https://ca.test/d", "email": "ops@a.test", "root": "/ca.pem"}}"#;
        let (email, root) = (Some("ops@a.test".to_owned()), Some("/ca.pem".to_owned()));
        assert_eq!(signed(own), Some(AcmeIssuer { directory: "https://ca.test/d".into(), email, root }));
    }

    #[test]
    fn whom_the_routes_trust_reaches_the_table() {
        let text = r#"[{"proxy": {"listen": "127.0.0.1:1", "trust": ["10.0.0.0/8", "192.0.2.1"], "request_id": true}},
            {"proxy": {"listen": "127.0.0.1:2", "trust": ["10.0.0.0/8"], "proxy_protocol": true}}]"#;
        let routes: Vec<file::Route> = serde_json::from_str(text).expect("a list of routes");
        let address = |text: &str| (text.parse::<SocketAddr>().expect("an address"), None);
        let bound = [address("127.0.0.1:11"), address("127.0.0.1:12")];
        let passing = passing(&bound, &routes);
        let trust: Vec<String> = passing.trust.iter().map(ToString::to_string).collect();
        assert_eq!(trust, ["10.0.0.0/8", "192.0.2.1/32"]);
        assert_eq!((passing.forwarded, passing.request_id), (false, true));
        assert_eq!(passing.proxy_protocol, [bound[1].0]);
    }
}
