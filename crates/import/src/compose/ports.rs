//! Published ports become routes: the service keeps its port in the container, and the proxy listens outside.

use cutover_core::file::foreign::short;

use super::traefik::Wanted;
use crate::cursor::Cursor;
use crate::draft::Route;
use crate::import::Work;
use crate::probe::Probe;
use crate::quantity;

/// A published port, short or long form.
#[derive(Debug, PartialEq, Eq)]
struct Port {
    ip: Option<String>,
    /// The first one outside; none where the engine chooses.
    outside: Option<u16>,
    /// The first one in the container.
    inside: u16,
    /// How many there are.
    count: u16,
    udp: bool,
}

pub(super) fn import(work: &mut Work<'_>, service: &Cursor<'_>, wanted: &Wanted, probe: Option<&Probe>) {
    let listed = service.get("ports").map(|at| at.each()).unwrap_or_default();
    let mut ports = Vec::new();
    for at in listed {
        match read(work, &at) {
            Some(port) if port.udp => {
                work.ledger.left(&at, "the proxy takes HTTP over TCP", "keep what speaks UDP with compose");
            }
            Some(port) => ports.push((at, port)),
            None => {
                let what = format!("{} is not a port", at.node.noun());
                work.ledger.left(
                    &at,
                    what,
                    "write the route by hand: `route: [{proxy: {listen: \"0.0.0.0:8080\"}}]`",
                );
            }
        }
    }
    let exposed = service.get("expose").map(|at| at.each()).unwrap_or_default();
    let exposed = exposed.first().and_then(|at| quantity::port(at.text()?.split('/').next()?));
    let probed = probe.and_then(Probe::port);
    let inside = |port: u16| ports.iter().any(|(_, known)| known.inside == port);
    let chosen = (wanted.port)
        .or(probed.filter(|port| inside(*port)))
        .or(ports.first().map(|(_, port)| port.inside))
        .or(work.draft.port)
        .or(exposed)
        .or(probed);
    work.draft.port = chosen;
    for (at, port) in &ports {
        publish(work, at, port, chosen.unwrap_or(port.inside), wanted);
    }
    if let Some(at) = service.get("expose") {
        expose(work, &at, chosen);
    }
    routes(work, wanted);
    if chosen.is_none() {
        let what = "the port that the service listens on in its container; without it the one that the image EXPOSEs, else 8080";
        work.draft.decide("port", what);
    }
}

fn publish(work: &mut Work<'_>, at: &Cursor<'_>, port: &Port, chosen: u16, wanted: &Wanted) {
    if port.inside != chosen {
        let what = format!("requests are routed to one port of an instance, and that is {chosen}");
        let next = format!(
            "import the file again without port {} if it is not HTTP, or serve both on one port",
            port.inside
        );
        return work.ledger.left(at, what, next);
    }
    if !wanted.hosts.is_empty() {
        let what = format!("the route is made from the labels, to the container's port {chosen}");
        return work.ledger.differs(at, what, "");
    }
    let Some(outside) = port.outside else {
        add(work, "127.0.0.1:8080".into());
        work.draft.decide("route", "the address that your users call; compose let the engine choose a port");
        let what = "the engine chose a port; a route needs one that stays";
        return work.ledger.differs(at, what, "look at `route:`");
    };
    let ip = port.ip.clone().unwrap_or_else(|| "0.0.0.0".into());
    let address = if ip.contains(':') { format!("[{ip}]:{outside}") } else { format!("{ip}:{outside}") };
    if address.parse::<std::net::SocketAddr>().is_err() {
        let what = format!("`{}` is not an address", short(&address));
        return work.ledger.left(at, what, "write the route by hand");
    }
    add(work, address);
    if port.count > 1 {
        let what = format!("of a range only its first port is routed, to port {chosen} of the container");
        return work.ledger.differs(at, what, "add a route for each that you need");
    }
    if outside == 443 {
        let what = "requests come to the proxy, which speaks TLS only where the route says so";
        let next = "give the route `tls: {acme: {}}` with its host, or `tls: {cert: …, key: …}`, or it passes plain HTTP";
        return work.ledger.differs(at, what, next);
    }
    work.ledger.took(at);
}

fn add(work: &mut Work<'_>, listen: String) {
    let route = Route { listen, ..Route::default() };
    if !work.draft.routes.contains(&route) {
        work.draft.routes.push(route);
    }
}

fn expose(work: &mut Work<'_>, at: &Cursor<'_>, chosen: Option<u16>) {
    for item in at.each() {
        let port = item.text().and_then(|text| quantity::port(text.split('/').next()?));
        match port {
            Some(port) if Some(port) == chosen => work.ledger.took(&item),
            Some(_) => {
                let what =
                    "services of one network reach every port of an instance; requests are routed to one";
                work.ledger.differs(&item, what, "");
            }
            None => {
                let what = "of a range of ports none is the service's own";
                work.ledger.left(&item, what, "set `platform.docker.port`");
            }
        }
    }
}

/// The routes of labels; and at least one, so that the file is complete.
fn routes(work: &mut Work<'_>, wanted: &Wanted) {
    for host in &wanted.hosts {
        let (host, path) = (Some(host.clone()), wanted.path.clone());
        work.draft.routes.push(Route { listen: "127.0.0.1:8080".into(), host, path, ..Route::default() });
    }
    if !wanted.hosts.is_empty() {
        work.draft.decide(
            "route",
            "Traefik holds port 80: let it pass these hosts to 127.0.0.1:8080, or stop it and listen on \"0.0.0.0:80\"",
        );
    }
    if work.draft.routes.is_empty() {
        work.draft.routes.push(Route { listen: "127.0.0.1:8080".into(), ..Route::default() });
        work.draft.decide("route", "the address that your users call; the compose file publishes none");
    }
}

fn read(work: &mut Work<'_>, at: &Cursor<'_>) -> Option<Port> {
    if at.text().is_some() {
        return short_form(&work.value(at, "route")?);
    }
    let mut part = |key: &str| at.get(key).and_then(|at| work.value(&at, "route"));
    let (target, published) = (part("target")?, part("published"));
    let ip = part("host_ip").filter(|ip| !ip.is_empty());
    let udp = part("protocol").is_some_and(|protocol| protocol != "tcp");
    let outside = match published.as_deref() {
        None | Some("") => None,
        Some(text) => Some(range(text)?.0),
    };
    Some(Port { ip, outside, inside: quantity::port(&target)?, count: 1, udp })
}

/// `[[IP:]OUTSIDE:]INSIDE[/PROTOCOL]`, each of them a port or a range.
fn short_form(text: &str) -> Option<Port> {
    let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (front, inside) = match text.rsplit_once(':') {
        Some((front, inside)) => (Some(front), inside),
        None => (None, text),
    };
    let (ip, outside) = match front.map(|front| front.rsplit_once(':').unwrap_or(("", front))) {
        Some((ip, outside)) => (ip.trim_matches(['[', ']']), outside),
        None => ("", ""),
    };
    let ip = Some(ip.to_string()).filter(|ip| !ip.is_empty());
    let (inside, count) = range(inside)?;
    let outside = if outside.is_empty() { None } else { Some(range(outside)?.0) };
    Some(Port { ip, outside, inside, count, udp: protocol != "tcp" })
}

/// The first of a range, and how many it has.
fn range(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (quantity::port(from)?, quantity::port(to)?);
    (from <= to).then(|| (from, (to - from).saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_every_form() {
        for (text, ip, outside, inside, count, udp) in [
            ("80", None, None, 80, 1, false),
            ("8080:80", None, Some(8080), 80, 1, false),
            ("127.0.0.1:8080:80/tcp", Some("127.0.0.1"), Some(8080), 80, 1, false),
            ("127.0.0.1::80", Some("127.0.0.1"), None, 80, 1, false),
            ("[::1]:8080:80", Some("::1"), Some(8080), 80, 1, false),
            ("3000-3005:4000-4005", None, Some(3000), 4000, 6, false),
            ("53:53/udp", None, Some(53), 53, 1, true),
        ] {
            let port = Port { ip: ip.map(str::to_string), outside, inside, count, udp };
            assert_eq!(short_form(text), Some(port), "{text}");
        }
        for bad in ["", "web", "0", "70000", "80:", "9-3", "a:b:c"] {
            assert_eq!(short_form(bad), None, "{bad}");
        }
    }
}
