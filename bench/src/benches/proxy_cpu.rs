//! What one proxied request costs: processor time of each proxy in the same run, round by round.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use super::certificate::Certificate;
use super::numbers::Samples;
use super::proxies::{self, Proxy};
use super::wire::clients::{Asking, Clients};
use super::{Outcome, Setting, wire};

const GOAL: &str = "CPU per proxied request, all counting on: <= 1.0 x the better of nginx and HAProxy (first <= 1.15 x), \
                    <= 1.2 x copying bytes, in the middle over the cases";
const OF_PEERS: f64 = 1.0;
const OF_COPY: f64 = 1.2;

/// What the clients do.
struct Case {
    name: &'static str,
    body: usize,
    asking: Asking,
    tls: bool,
}

const fn case(name: &'static str, body: usize, connections: usize, anew: bool) -> Case {
    Case { name, body, asking: Asking { connections, anew }, tls: false }
}

const fn tls(name: &'static str, body: usize, connections: usize, anew: bool) -> Case {
    Case { tls: true, ..case(name, body, connections, anew) }
}

const CASES: [Case; 11] = [
    case("1 connection, 64 B", 64, 1, false),
    case("64 connections, 64 B", 64, 64, false),
    case("1,024 connections, 64 B", 64, 1024, false),
    case("1 connection, 16 KiB", 16 << 10, 1, false),
    case("64 connections, 16 KiB", 16 << 10, 64, false),
    case("1,024 connections, 16 KiB", 16 << 10, 1024, false),
    case("64 clients, a connection each time, 64 B", 64, 64, true),
    tls("TLS, 64 connections, 64 B", 64, 64, false),
    tls("TLS, 1,024 connections, 64 B", 64, 1024, false),
    tls("TLS, 64 connections, 16 KiB", 16 << 10, 64, false),
    tls("TLS, 64 clients, a connection each time", 64, 64, true),
];

/// How long and how often each is measured.
pub(super) struct Extent {
    pub(super) warm_up: u64,
    pub(super) window: Duration,
    pub(super) rounds: usize,
}

/// Microseconds of one request in one case: by proxy, the median over the rounds.
struct Row {
    name: &'static str,
    us: Vec<(&'static str, f64)>,
}

impl Row {
    fn of(&self, name: &str) -> Option<f64> {
        self.us.iter().find(|(proxy, _)| *proxy == name).map(|(_, us)| *us)
    }

    /// Ours by the cheaper of nginx and HAProxy.
    fn by_peers(&self) -> Option<f64> {
        let peer = ["nginx", "haproxy"].iter().filter_map(|name| self.of(name)).min_by(f64::total_cmp)?;
        Some(self.of("cutover")? / peer)
    }

    fn by_copy(&self) -> Option<f64> {
        Some(self.of("cutover")? / self.of("copy")?)
    }

    /// What the library alone takes, by the copy and by nginx; no part of a goal.
    fn hyper_by_copy(&self) -> Option<f64> {
        Some(self.of("hyper")? / self.of("copy")?)
    }

    fn hyper_by_nginx(&self) -> Option<f64> {
        Some(self.of("hyper")? / self.of("nginx")?)
    }
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let extent = match setting.quick {
        true => Extent { warm_up: 200, window: Duration::from_millis(250), rounds: 2 },
        false => Extent { warm_up: 2_000, window: Duration::from_secs(2), rounds: 5 },
    };
    let scratch = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
    let certificate = Certificate::make(scratch.path())?;
    let mut rows = Vec::new();
    for body in [64, 16 << 10] {
        let (_origin, _, target) = wire::start(&["origin".into(), body.to_string()])?;
        let own = proxies::cutover(setting, target, &certificate).await?;
        let mut proxies = vec![own, proxies::copy(target)?, proxies::hyper(target)?];
        proxies.extend(proxies::peers(
            &scratch.path().join(body.to_string()),
            setting,
            target,
            &certificate,
        )?);
        for case in CASES.iter().filter(|case| case.body == body) {
            rows.push(measure(case, &proxies, &certificate, &extent).await?);
        }
    }
    Ok(tell(&rows))
}

async fn measure(case: &Case, all: &[Proxy], certificate: &Certificate, extent: &Extent) -> Result<Row> {
    let trust = case.tls.then(|| certificate.trust()).transpose()?;
    // The relays know no TLS.
    let reached = |proxy: &Proxy| if case.tls { proxy.secure } else { Some(proxy.address) };
    let proxies: Vec<(&Proxy, SocketAddr)> =
        all.iter().filter_map(|proxy| Some((proxy, reached(proxy)?))).collect();
    let mut samples = vec![Samples::default(); proxies.len()];
    // By turns: what else the machine does meets all of them.
    for _ in 0..extent.rounds {
        for ((proxy, address), samples) in proxies.iter().zip(&mut samples) {
            let clients = Clients::start(*address, case.asking, trust.clone());
            samples.add_us(per_request(case.name, proxy, clients, extent).await?);
        }
    }
    let us = proxies.iter().zip(&samples).map(|((proxy, _), samples)| (proxy.name, samples.median()));
    Ok(Row { name: case.name, us: us.collect() })
}

/// Returns microseconds of processor time per request.
pub(super) async fn per_request(case: &str, proxy: &Proxy, clients: Clients, extent: &Extent) -> Result<f64> {
    let begun = Instant::now();
    while clients.done() < extent.warm_up && !clients.gave_up() && begun.elapsed() < extent.window * 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (before, from) = (proxy.cpu_us()?, clients.done());
    tokio::time::sleep(extent.window).await;
    let (after, to) = (proxy.cpu_us()?, clients.done());
    clients.stop().map_err(|error| error.context(format!("{case} through {}", proxy.name)))?;
    ensure!(to > from, "{} answered nothing in {:?}: {case}", proxy.name, extent.window);
    Ok((after - before) / (to - from) as f64)
}

fn tell(rows: &[Row]) -> Outcome {
    let names: Vec<&str> =
        rows.first().map(|row| row.us.iter().map(|(name, _)| *name).collect()).unwrap_or_default();
    let heads: String = names.iter().map(|name| format!(" {name:>9}")).collect();
    println!("\n  {:<42}{heads} {:>9} {:>9}", "µs of CPU per request", "by peers", "by copy");
    let shown = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    for row in rows {
        let cell = |us: Option<f64>| us.map_or("-".into(), |us| format!("{us:.1}"));
        let cells: String = names.iter().map(|name| format!(" {:>9}", cell(row.of(name)))).collect();
        println!("  {:<42}{cells} {:>9} {:>9}", row.name, shown(row.by_peers()), shown(row.by_copy()));
    }
    let middle = |ratio: fn(&Row) -> Option<f64>| {
        let mut ratios = Samples::default();
        let known: Vec<f64> = rows.iter().filter_map(ratio).collect();
        known.iter().for_each(|ratio| ratios.add_us(*ratio));
        (!known.is_empty()).then(|| (ratios.median() * 100.0).round() / 100.0)
    };
    let (by_peers, by_copy) = (middle(Row::by_peers), middle(Row::by_copy));
    println!(
        "  {:<42}{:>width$} {:>9}",
        "in the middle",
        shown(by_peers),
        shown(by_copy),
        width = 10 * names.len() + 10
    );
    let (hyper_by_copy, hyper_by_nginx) = (middle(Row::hyper_by_copy), middle(Row::hyper_by_nginx));
    println!(
        "  a bare hyper, in the middle: {} x the copy, {} x nginx",
        shown(hyper_by_copy),
        shown(hyper_by_nginx)
    );
    let of = |name: &str| -> Value {
        let cells = rows
            .iter()
            .filter_map(|row| Some((row.name.to_owned(), json!((row.of(name)? * 10.0).round() / 10.0))));
        Value::Object(cells.collect())
    };
    let mut peers: Map<String, Value> =
        names.iter().filter(|name| **name != "cutover").map(|name| ((*name).to_owned(), of(name))).collect();
    peers.insert("hyper_by_copy".into(), json!(hyper_by_copy));
    peers.insert("hyper_by_nginx".into(), json!(hyper_by_nginx));
    Outcome {
        bench: "proxy-cpu",
        ours: json!({ "us_per_request": of("cutover"), "by_copy": by_copy }),
        peers: Value::Object(peers),
        ratio: by_peers,
        goal: GOAL,
        holds: by_peers.is_some_and(|ratio| ratio <= OF_PEERS)
            && by_copy.is_some_and(|ratio| ratio <= OF_COPY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_hyper_is_shown_and_is_no_part_of_the_goal() {
        let us = vec![
            ("cutover", 30.0),
            ("copy", 20.0),
            ("hyper", 10.0),
            ("nginx", 40.0),
            ("haproxy", 25.0),
            ("caddy", 5.0),
        ];
        let outcome = tell(&[Row { name: "a case", us }]);
        assert_eq!((outcome.ratio, &outcome.ours["by_copy"]), (Some(1.2), &json!(1.5)));
        assert_eq!(outcome.peers["hyper"], json!({ "a case": 10.0 }));
        assert_eq!(
            (&outcome.peers["hyper_by_copy"], &outcome.peers["hyper_by_nginx"]),
            (&json!(0.5), &json!(0.25))
        );
    }
}
