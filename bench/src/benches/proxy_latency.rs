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
const AS_BUSY: &str = "cutover, less";
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// One way to the service; for each quantile its values over the rounds, in microseconds.
struct Way<'a> {
    name: &'static str,
    address: SocketAddr,
    proxy: Option<&'a Proxy>,
    /// What it is offered, as a share of the rate of all.
    share: f64,
    values: [Samples; 3],
    /// How long the proxy was ready to go on with a request and had no core: the machine's part, not its own.
    waited: Samples,
    /// Its processor time for a request, in microseconds.
    cpu: Samples,
}

impl<'a> Way<'a> {
    fn new(name: &'static str, address: SocketAddr, proxy: Option<&'a Proxy>, share: f64) -> Way<'a> {
        let (values, waited, cpu) = (Default::default(), Samples::default(), Samples::default());
        Way { name, address, proxy, share, values, waited, cpu }
    }

    fn of(proxy: &'a Proxy) -> Way<'a> {
        Way::new(proxy.name, proxy.address, Some(proxy), 1.0)
    }

    fn measure(&mut self, offer: Offer) -> Result<()> {
        let offer = Offer { rate: offer.rate * self.share, ..offer };
        let spent = |way: &Way<'_>| -> Result<[f64; 2]> {
            way.proxy.map_or(Ok([0.0; 2]), |proxy| Ok([proxy.waited_us()?, proxy.cpu_us()?]))
        };
        let before = spent(self)?;
        let answers = Offering::start(self.address, offer).answers();
        let answers = answers.with_context(|| self.name.to_owned())?;
        ensure!(answers.iter().all(|answer| answer.status == 200), "{} answered no 200", self.name);
        let after = spent(self)?;
        let each = |at: usize| (after[at] - before[at]) / answers.len().max(1) as f64;
        self.waited.add_us(each(0));
        self.cpu.add_us(each(1));
        let mut latencies = Samples::default();
        answers.iter().for_each(|answer| latencies.add(answer.latency));
        for (values, (_, quantile)) in self.values.iter_mut().zip(QUANTILES) {
            values.add_us(latencies.quantile(quantile));
        }
        Ok(())
    }
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let (span, rounds) =
        if setting.quick { (Duration::from_secs(2), 3) } else { (Duration::from_secs(10), 7) };
    let folder = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
    let certificate = Certificate::make(folder.path())?;
    let (_origin, _, target) = wire::start(&["origin".into(), "64".into()])?;
    let mut all = vec![
        proxies::cutover(setting, target, &certificate).await?,
        proxies::copy(target)?,
        proxies::hyper(target)?,
    ];
    all.extend(proxies::peers(folder.path(), setting, target, &certificate)?);
    let peak = peak(&all, span / 4)?;
    let offer = Offer { rate: peak / 2.0, span, connections: CONNECTIONS };
    println!("{:.0} requests a second on {CONNECTIONS} connections; a peer's peak is {peak:.0}", offer.rate);
    let mut ways = vec![Way::new("none", target, None, 1.0)];
    ways.extend(all.iter().map(Way::of));
    ways.extend(as_busy(&all, offer)?);
    for _ in 0..rounds {
        // By turns: what else the machine does meets all of them.
        for way in &mut ways {
            way.measure(offer)?;
        }
    }
    Ok(tell(&ways, offer.rate))
}

/// Returns cutover once more, offered so much less that it takes as much of the processors as HAProxy does. What is left
/// between the two then does not come from how much a request costs.
fn as_busy(all: &[Proxy], offer: Offer) -> Result<Option<Way<'_>>> {
    let cost = |name: &str| -> Result<Option<(&Proxy, f64)>> {
        let Some(proxy) = all.iter().find(|proxy| proxy.name == name) else { return Ok(None) };
        let mut way = Way::of(proxy);
        way.measure(offer)?;
        Ok(Some((proxy, way.cpu.median())))
    };
    let both = cost("cutover")?.zip(cost("haproxy")?);
    Ok(both.map(|((proxy, own), (_, peer))| Way { name: AS_BUSY, share: peer / own, ..Way::of(proxy) }))
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
    println!("\n  {:<14} {:>30} {:>36}", "µs", "latency", "added");
    let heads = QUANTILES.map(|(name, _)| format!("{name:>10}")).concat();
    println!(
        "  {:<14} {heads}      {heads} {:>14} {:>10} {:>8}",
        "proxy", "waits for core", "processor", "rate"
    );
    let mut added = Vec::new();
    for way in ways {
        let own = medians(way);
        let more = [0, 1, 2].map(|at| own[at] - direct[at]);
        let cells = |values: [f64; 3]| values.map(|us| format!("{us:>10.0}")).concat();
        let (waited, cpu) = (way.waited.median(), way.cpu.median());
        let rate = rate * way.share;
        println!(
            "  {:<14} {}      {} {waited:>14.1} {cpu:>10.1} {rate:>8.0}",
            way.name,
            cells(own),
            cells(more)
        );
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
        .filter(|(name, _)| !["none", "cutover", AS_BUSY].contains(name))
        .map(|(name, more)| ((*name).to_owned(), shown(*more)))
        .collect();
    let both = of("cutover").zip(of("haproxy"));
    Outcome {
        bench: "proxy-latency",
        ours: json!({ "requests_per_second": rate.round(), "added_us": of("cutover").map(shown), "machine_busy": busy, "added_us_as_busy_as_haproxy": of(AS_BUSY).map(shown) }),
        peers: Value::Object(peers),
        ratio: both.map(|(own, peer)| (own[1] / peer[1] * 100.0).round() / 100.0),
        goal: GOAL,
        holds: both.is_some_and(|(own, peer)| own.iter().zip(peer).all(|(own, peer)| *own <= peer)),
    }
}
