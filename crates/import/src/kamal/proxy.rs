//! `proxy:` becomes routes and a health check.

use cutover_core::Span;
use cutover_core::file::FileErrors;
use cutover_core::file::foreign::short;

use super::ruby::is_ruby;
use super::seconds;
use crate::compose::{is_host, is_prefix};
use crate::cursor::Cursor;
use crate::draft::{Ask, Check, Route, Tls};
use crate::import::Work;
use crate::quantity;

/// What Kamal's proxy asks, where the file says nothing.
const UP: &str = "/up";
/// Where it finds the service.
const APP_PORT: u16 = 80;

pub(super) fn import(
    work: &mut Work<'_>,
    root: &Cursor<'_>,
    primary: Option<&Cursor<'_>>,
) -> Result<(), FileErrors> {
    let base = root.get("proxy");
    let own = primary.and_then(|role| role.get("proxy"));
    let off =
        |at: &Option<Cursor<'_>>| at.as_ref().and_then(|at| at.text()).is_some_and(|text| text == "false");
    if off(&own) || (own.is_none() && off(&base)) {
        let place = own.or(base).map_or(root.place, |at| at.place);
        let hint =
            "cutover releases what takes requests, with its workers beside it; stay with Kamal for this one";
        return Err(work.file.error(place, "this service takes no requests: its proxy is off", hint));
    }
    // A role's own keys win over those of the file.
    let maps: Vec<Cursor<'_>> = [own, base].into_iter().flatten().filter(|at| at.is_map()).collect();
    let part = |keys: &[&str]| maps.iter().find_map(|at| at.find(keys));
    port(work, part(&["app_port"]));
    let hosts = hosts(work, &[part(&["host"]), part(&["hosts"])]);
    let paths = paths(work, &[part(&["path_prefix"]), part(&["path_prefixes"])]);
    strip(work, part(&["strip_path_prefix"]).as_ref(), &paths);
    let tls = tls(
        work,
        part(&["ssl"]).as_ref(),
        &[part(&["ssl", "certificate_pem"]), part(&["ssl", "private_key_pem"])],
        &hosts,
    );
    let redirect = part(&["ssl_redirect"]);
    if let Some(at) = &redirect {
        work.ledger.took(at);
    }
    let redirects = redirect.and_then(|at| at.text()).is_none_or(|text| text != "false");
    for host in hosts.iter().map(Some).chain(hosts.is_empty().then_some(None)) {
        for path in paths.iter().map(Some).chain(paths.is_empty().then_some(None)) {
            add(work, host, path, tls.as_ref(), redirects);
        }
    }
    assets(work, [primary.and_then(|role| role.get("asset_path")), root.get("asset_path")]);
    more(work, &part);
    health(work, &part);
    Ok(())
}

fn port(work: &mut Work<'_>, at: Option<Cursor<'_>>) {
    match at {
        Some(at) => {
            if let Some(port) = at.text().and_then(quantity::port) {
                work.draft.port = Some(port);
                work.ledger.took(&at);
            }
        }
        None => work.draft.port = work.draft.port.or(Some(APP_PORT)),
    }
}

fn hosts(work: &mut Work<'_>, places: &[Option<Cursor<'_>>]) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for at in places.iter().flatten().flat_map(Cursor::each) {
        let Some(text) = at.text().filter(|text| !is_ruby(text)) else { continue };
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        if let Some(bad) = names.iter().find(|name| !is_host(name)) {
            let what = format!("a route cannot have the host `{}`", short(bad));
            work.ledger.left(&at, what, "name each host by itself, such as shop.example.com");
            continue;
        }
        for name in names {
            if !hosts.iter().any(|known| known == name) {
                hosts.push(name.to_string());
            }
        }
        work.ledger.took(&at);
    }
    hosts
}

fn paths(work: &mut Work<'_>, places: &[Option<Cursor<'_>>]) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    for at in places.iter().flatten().flat_map(Cursor::each) {
        let Some(text) = at.text() else { continue };
        let prefixes = text.split(',').map(|path| path.trim().to_string());
        for path in prefixes.filter(|path| is_prefix(path) && path != "/") {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        work.ledger.took(&at);
    }
    paths
}

/// Kamal cuts the prefix off unless it is told not to.
fn strip(work: &mut Work<'_>, at: Option<&Cursor<'_>>, paths: &[String]) {
    let keeps = at.and_then(|at| at.text()).is_some_and(|text| text == "false");
    if let Some(at) = at {
        match keeps {
            true => work.ledger.took(at),
            false => work.ledger.left(
                at,
                "instances see the whole path, with the prefix",
                "let the service live below it",
            ),
        }
    }
    if !paths.is_empty() && !keeps {
        work.draft.decide("route", "Kamal cut the path's prefix off; here instances see the whole path");
    }
}

/// The certificate that the file asks for; of its parts, `[certificate, key]` are names of secrets.
fn tls(
    work: &mut Work<'_>,
    ssl: Option<&Cursor<'_>>,
    parts: &[Option<Cursor<'_>>],
    hosts: &[String],
) -> Option<Tls> {
    let ssl = ssl?;
    if ssl.is_map() {
        for at in parts.iter().flatten() {
            work.ledger.took(at);
        }
        let name = hosts.first().map_or("shop", String::as_str);
        let file = |end: &str| format!("/etc/cutover/{name}.{end}");
        work.draft.decide("route", "the files of the certificate and its key, which Kamal took from secrets");
        return Some(Tls::Files { cert: file("pem"), key: file("key") });
    }
    if !ssl.truth() {
        work.ledger.took(ssl);
        return None;
    }
    if hosts.is_empty() {
        work.ledger.left(
            ssl,
            "an authority signs for a host, and none is named",
            "give the route its `host` and `tls: {acme: {}}`",
        );
        return None;
    }
    work.ledger.took(ssl);
    Some(Tls::Acme)
}

fn add(
    work: &mut Work<'_>,
    host: Option<&String>,
    path: Option<&String>,
    tls: Option<&Tls>,
    redirects: bool,
) {
    let plain = Route {
        listen: "0.0.0.0:80".into(),
        host: host.cloned(),
        path: path.cloned(),
        redirect: tls.is_some() && redirects,
        ..Route::default()
    };
    if let Some(tls) = tls {
        let tls = Some(tls.clone());
        work.draft.routes.push(Route { listen: "0.0.0.0:443".into(), tls, redirect: false, ..plain.clone() });
    }
    work.draft.routes.push(plain);
}

/// A folder of the container becomes the paths by which it is asked for: what follows `public`.
fn assets(work: &mut Work<'_>, places: [Option<Cursor<'_>>; 2]) {
    let Some(at) = places.into_iter().flatten().next() else { return };
    let Some(text) = at.text().filter(|text| !is_ruby(text)) else { return };
    let folder = text.split(':').next().unwrap_or(text).trim_matches('/');
    let below = folder
        .rsplit_once("public/")
        .map_or_else(|| folder.rsplit('/').next().unwrap_or(folder), |(_, below)| below);
    let prefix = format!("/{below}/");
    let plain = below.bytes().all(|byte| byte.is_ascii_graphic() && !b"%?#\\".contains(&byte));
    if below.is_empty()
        || below == "public"
        || !plain
        || below.split('/').any(|name| matches!(name, "" | "." | ".."))
    {
        let what = "the paths of these files are not known";
        return work.ledger.left(&at, what, "name them in the route: assets: [/assets/]");
    }
    for route in work.draft.routes.iter_mut().filter(|route| !route.redirect) {
        route.assets = vec![prefix.clone()];
    }
    let what = format!(
        "files below {prefix} that one revision does not have are asked of the other; none are copied"
    );
    work.ledger.differs(&at, what, "check that this is the path by which pages ask for them");
}

fn more<'a>(work: &mut Work<'_>, part: &impl Fn(&[&str]) -> Option<Cursor<'a>>) {
    if let Some(at) = part(&["buffering", "max_request_body"])
        && let Some(size) = at.text().and_then(quantity::size).filter(|size| size.bytes() > 0)
    {
        if let Some(route) = work.draft.routes.iter_mut().find(|route| !route.redirect) {
            route.body = Some(size);
        }
        work.ledger.took(&at);
    }
    if let Some(at) = part(&["logging"]) {
        if let Some(route) = work.draft.routes.iter_mut().find(|route| !route.redirect) {
            route.access_log = true;
        }
        work.ledger.took(&at);
    }
    if let Some(at) = part(&["forward_headers"]) {
        match at.truth() {
            true => {
                work.draft.decide("route", "name your load balancer's network: trust: [10.0.0.0/8]");
                let what =
                    "`X-Forwarded-*` is kept only from networks that the route trusts; it trusts none yet";
                work.ledger.differs(&at, what, "name your load balancer: trust: [10.0.0.0/8]");
            }
            false => work.ledger.differs(&at, "what clients say of themselves is always replaced", ""),
        }
    }
}

fn health<'a>(work: &mut Work<'_>, part: &impl Fn(&[&str]) -> Option<Cursor<'a>>) {
    let span = |work: &mut Work<'_>, key: &str| {
        let at = part(&["healthcheck", key])?;
        let span = seconds(&at)?;
        work.ledger.took(&at);
        Some(span)
    };
    let (interval, timeout) = (span(work, "interval"), span(work, "timeout"));
    let at = part(&["healthcheck", "path"]);
    let good =
        |path: &&str| path.starts_with('/') && !path.contains(|c: char| c.is_whitespace() || c.is_control());
    let path = at.as_ref().and_then(|at| at.text()).filter(good).filter(|text| !is_ruby(text));
    if let (Some(at), Some(_)) = (&at, path) {
        work.ledger.took(at);
    }
    let ask = Ask::Http(path.unwrap_or(UP).to_string());
    // Kamal wants a success, waits five seconds, and asks every second.
    let timeout = timeout.or(Some(Span::from_secs(5)));
    work.draft.health.push(Check { ask, interval, timeout, status: Some("200-299") });
}
