//! What a proxy adds to the latency of a request, at half of what its peers can take.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::certificate::Certificate;
use super::numbers::Samples;
use super::proxies::{self, Proxy};
use super::wire::clients::{Asking, Clients};
use super::wire::open_loop::{Offer, Offering};
use super::{Outcome, Setting, wire};

const GOAL: &str = "at half of the peers' peak, open loop: added p50, p99 and p99.9 <= HAProxy's";
const CONNECTIONS: usize = 64;
/// Above this p99 without a proxy the machine is too busy for the rest to mean anything.
const BUSY_US: f64 = 2_000.0;
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// One way to the service; for each quantile its values over the rounds, in microseconds.
struct Way<'a> {
    name: &'static str,
    address: SocketAddr,
    proxy: Option<&'a Proxy>,
    values: [Samples; 3],
    /// How long the proxy was ready to go on with a request and had no core: the machine's part, not its own.
    waited: Samples,
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let (span, rounds) =
        if setting.quick { (Duration::from_secs(2), 3) } else { (Duration::from_secs(10), 7) };
    let folder = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
    let certificate = Certificate::make(folder.path())?;
    let (_origin, _, target) = wire::start(&["origin".into(), "64".into()])?;
    let mut all = vec![proxies::cutover(setting, target, &certificate).await?, proxies::copy(target)?];
    all.extend(proxies::peers(folder.path(), setting, target, &certificate)?);
    let peak = peak(&all, span / 4)?;
    let offer = Offer { rate: peak / 2.0, span, connections: CONNECTIONS };
    println!("{:.0} requests a second on {CONNECTIONS} connections; a peer's peak is {peak:.0}", offer.rate);
    let way = |name, address, proxy| {
        let (values, waited) = (Default::default(), Samples::default());
        Way { name, address, proxy, values, waited }
    };
    let mut ways = vec![way("none", target, None)];
    ways.extend(all.iter().map(|proxy| way(proxy.name, proxy.address, Some(proxy))));
    for _ in 0..rounds {
        // By turns: what else the machine does meets all of them.
        for way in &mut ways {
            let waited = |way: &Way<'_>| way.proxy.map_or(Ok(0.0), Proxy::waited_us);
            let before = waited(way)?;
            let answers = Offering::start(way.address, offer).answers();
            let answers = answers.with_context(|| way.name.to_owned())?;
            ensure!(answers.iter().all(|answer| answer.status == 200), "{} answered no 200", way.name);
            way.waited.add_us((waited(way)? - before) / answers.len().max(1) as f64);
            let mut latencies = Samples::default();
            answers.iter().for_each(|answer| latencies.add(answer.latency));
            for (values, (_, quantile)) in way.values.iter_mut().zip(QUANTILES) {
                values.add_us(latencies.quantile(quantile));
            }
        }
    }
    Ok(tell(&ways, offer.rate))
}

/// Returns the lower of the peers' peaks, each the median of what it answered by turns: a moment in which the machine had
/// nothing else to do is no measure for the rest of the run.
fn peak(all: &[Proxy], span: Duration) -> Result<f64> {
    let mut peers: Vec<(&Proxy, Samples)> = all
        .iter()
        .filter(|proxy| ["nginx", "haproxy"].contains(&proxy.name))
        .map(|proxy| (proxy, Samples::default()))
        .collect();
    ensure!(!peers.is_empty(), "neither nginx nor haproxy is installed: there is nothing to go by");
    for _ in 0..5 {
        for (peer, rates) in &mut peers {
            rates.add_us(rate_of(peer.address, span).with_context(|| peer.name.to_owned())?);
        }
    }
    Ok(peers.iter().map(|(_, rates)| rates.median()).fold(f64::INFINITY, f64::min))
}

/// Returns how many requests a second a proxy answers when it is asked for as many as it can.
fn rate_of(address: SocketAddr, span: Duration) -> Result<f64> {
    let clients = Clients::start(address, Asking { connections: CONNECTIONS, anew: false }, None);
    std::thread::sleep(span / 4);
    let from = clients.done();
    std::thread::sleep(span);
    let done = clients.done() - from;
    clients.stop()?;
    Ok(done as f64 / span.as_secs_f64())
}

fn tell(ways: &[Way<'_>], rate: f64) -> Outcome {
    let medians = |way: &Way<'_>| way.values.each_ref().map(Samples::median);
    let direct = ways.first().map(medians).unwrap_or_default();
    println!("\n  {:<12} {:>30} {:>36}", "µs", "latency", "added");
    let heads = QUANTILES.map(|(name, _)| format!("{name:>10}")).concat();
    println!("  {:<12} {heads}      {heads} {:>14}", "proxy", "waits for core");
    let mut added = Vec::new();
    for way in ways {
        let own = medians(way);
        let more = [0, 1, 2].map(|at| own[at] - direct[at]);
        let cells = |values: [f64; 3]| values.map(|us| format!("{us:>10.0}")).concat();
        let waited = way.waited.median();
        println!("  {:<12} {}      {} {waited:>14.1}", way.name, cells(own), cells(more));
        added.push((way.name, more));
    }
    // Then the clients and the target got no turn on the processor in time, and quantiles say more of the machine.
    let busy = direct[1] > BUSY_US;
    if busy {
        println!("  the machine has other work: without a proxy p99 was {:.0} µs", direct[1]);
    }
    let of = |name: &str| added.iter().find(|(known, _)| *known == name).map(|(_, more)| *more);
    let shown = |more: [f64; 3]| {
        let cells = QUANTILES.iter().zip(more).map(|((name, _), us)| ((*name).to_owned(), json!(us.round())));
        Value::Object(cells.collect())
    };
    let peers: Map<String, Value> = added
        .iter()
        .filter(|(name, _)| !["none", "cutover"].contains(name))
        .map(|(name, more)| ((*name).to_owned(), shown(*more)))
        .collect();
    let both = of("cutover").zip(of("haproxy"));
    Outcome {
        bench: "proxy-latency",
        ours: json!({ "requests_per_second": rate.round(), "added_us": of("cutover").map(shown), "machine_busy": busy }),
        peers: Value::Object(peers),
        ratio: both.map(|(own, peer)| (own[1] / peer[1] * 100.0).round() / 100.0),
        goal: GOAL,
        holds: both.is_some_and(|(own, peer)| own.iter().zip(peer).all(|(own, peer)| *own <= peer)),
    }
}
