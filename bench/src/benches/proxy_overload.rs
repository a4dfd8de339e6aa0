//! Three times as many requests as a service can take: what is refused, how soon, and how long the others wait.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cutover_proxy::Waiting;
use serde_json::{Map, Value, json};

use super::numbers::{Samples, Spread};
use super::proxies::{self, Proxy};
use super::scratch::Scratch;
use super::wire::clients::{Asking, Clients};
use super::wire::open_loop::{Answer, Offer, Offering};
use super::{Outcome, Setting, wire};

const GOAL: &str = "3 x what the target can take: >= 90 % of that served, p99 <= the longest wait + 100 ms; every other \
                    request refused with 503 and Retry-After, p99 <= 50 ms; <= 32 MiB more memory";
/// What the target works on at once, and for how long.
const AT_ONCE: u32 = 20;
const WORK: Duration = Duration::from_millis(20);
/// Who may wait for it, and for how long.
const QUEUE: u32 = 100;
const WAIT: Duration = Duration::from_millis(500);
const SERVED_SHARE: f64 = 0.9;
const SLACK: Duration = Duration::from_millis(100);
const REFUSED_US: f64 = 50_000.0;
const MORE_MIB: f64 = 32.0;

struct Row {
    name: &'static str,
    served: Samples,
    refused: Samples,
    /// Refused by a 503 that says when to come again.
    told: usize,
    /// Any other status.
    other: usize,
    at_rest_mib: f64,
    most_mib: f64,
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let span = Duration::from_secs(if setting.quick { 8 } else { 60 });
    let folder = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
    let role = ["worker".into(), AT_ONCE.to_string(), WORK.as_millis().to_string()];
    let capacity = capacity(&role)?;
    let offer = Offer { rate: 3.0 * capacity, span, connections: 1_000 };
    println!(
        "{:.0} requests a second to a target that can take {capacity:.0}; {QUEUE} may wait, for {} ms at most",
        offer.rate,
        WAIT.as_millis()
    );
    let mut rows = Vec::new();
    // Each with a target of its own, so that none inherits what another one left in it.
    {
        let (_target, _, target) = wire::start(&role)?;
        rows.push(over(&cutover(setting, target).await?, offer).await?);
    }
    let (_target, _, target) = wire::start(&role)?;
    let words = [
        ("@TARGET@", target.to_string()),
        ("@AT_ONCE@", AT_ONCE.to_string()),
        ("@QUEUE@", QUEUE.to_string()),
        ("@WAIT_MS@", WAIT.as_millis().to_string()),
    ];
    let peers = proxies::configured(&[("haproxy", "haproxy-overload.cfg")], folder.path(), setting, &words)?;
    for peer in &peers {
        rows.push(over(peer, offer).await?);
    }
    Ok(tell(&rows, capacity * span.as_secs_f64()))
}

/// Returns how many requests a second the target answers with all its places taken: timers make the work a bit longer.
fn capacity(role: &[String]) -> Result<f64> {
    let (_target, _, target) = wire::start(role)?;
    let clients = Clients::start(target, Asking { connections: AT_ONCE as usize, anew: false }, None);
    std::thread::sleep(WORK * 5);
    let (begun, from) = (Instant::now(), clients.done());
    std::thread::sleep(WORK * 50);
    let rate = (clients.done() - from) as f64 / begun.elapsed().as_secs_f64();
    clients.stop()?;
    Ok(rate)
}

async fn cutover(setting: &Setting, target: SocketAddr) -> Result<Proxy> {
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let (client, address) = scratch.start_proxy().await?;
    let mut service = proxies::service(target)?;
    service.limits.per_target = Some(AT_ONCE);
    let wait_ms = u64::try_from(WAIT.as_millis())?;
    service.limits.queue = Some(Waiting { limit: QUEUE, wait_ms });
    client.set("bench", 0, 1, &service).await?;
    proxies::started(scratch, &client, address, None).await
}

/// Offers the requests, and looks at the proxy's memory meanwhile.
async fn over(proxy: &Proxy, offer: Offer) -> Result<Row> {
    let at_rest_mib = proxy.pss_mib()?;
    let offering = Offering::start(proxy.address, offer);
    let mut most_mib = at_rest_mib;
    while !offering.is_over() {
        most_mib = most_mib.max(proxy.pss_mib()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answers = offering.answers().with_context(|| proxy.name.to_owned())?;
    let of = |wanted: fn(&Answer) -> bool| {
        let mut samples = Samples::default();
        answers.iter().filter(|answer| wanted(answer)).for_each(|answer| samples.add(answer.latency));
        samples
    };
    let (served, refused) = (of(|answer| answer.status == 200), of(|answer| answer.status == 503));
    let told = answers.iter().filter(|answer| answer.status == 503 && answer.retry_after).count();
    let other = answers.len() - served.spread().count - refused.spread().count;
    Ok(Row { name: proxy.name, served, refused, told, other, at_rest_mib, most_mib })
}

impl Row {
    fn reaches(&self, most: f64) -> bool {
        let (served, refused) = (self.served.spread(), self.refused.spread());
        served.count as f64 >= SERVED_SHARE * most
            && served.p99_us <= (WAIT + WORK + SLACK).as_secs_f64() * 1e6
            && refused.p99_us <= REFUSED_US
            && self.told == refused.count
            && self.other == 0
            && self.most_mib - self.at_rest_mib <= MORE_MIB
    }

    fn json(&self) -> Value {
        let mib = |mib: f64| (mib * 10.0).round() / 10.0;
        json!({
            "served": self.served.spread(),
            "refused": self.refused.spread(),
            "refused_with_retry_after": self.told,
            "other": self.other,
            "at_rest_mib": mib(self.at_rest_mib),
            "most_mib": mib(self.most_mib),
        })
    }
}

fn tell(rows: &[Row], most: f64) -> Outcome {
    println!("\n{}", Spread::head("latency from the time that a request was due"));
    for row in rows {
        println!("{}", row.served.spread().row(&format!("{}: served", row.name)));
        println!("{}", row.refused.spread().row(&format!("{}: refused", row.name)));
    }
    println!(
        "\n  {:<10} {:>8} {:>8} {:>8} {:>18} {:>8} {:>12} {:>10}",
        "proxy", "served", "of most", "refused", "with Retry-After", "other", "rest MiB", "most MiB"
    );
    for row in rows {
        let (served, refused) = (row.served.spread().count, row.refused.spread().count);
        println!(
            "  {:<10} {served:>8} {:>7.0}% {refused:>8} {:>18} {:>8} {:>12.1} {:>10.1}",
            row.name,
            served as f64 / most * 100.0,
            row.told,
            row.other,
            row.at_rest_mib,
            row.most_mib
        );
    }
    let own = rows.iter().find(|row| row.name == "cutover");
    let peers: Map<String, Value> = rows
        .iter()
        .filter(|row| row.name != "cutover")
        .map(|row| (row.name.to_owned(), row.json()))
        .collect();
    let peer = rows.iter().find(|row| row.name == "haproxy");
    let p99 = |row: &Row| row.served.quantile(0.99);
    Outcome {
        bench: "proxy-overload",
        ours: own.map(Row::json).unwrap_or_default(),
        peers: Value::Object(peers),
        ratio: own.zip(peer).map(|(own, peer)| (p99(own) / p99(peer) * 100.0).round() / 100.0),
        goal: GOAL,
        holds: own.is_some_and(|own| own.reaches(most)),
    }
}
