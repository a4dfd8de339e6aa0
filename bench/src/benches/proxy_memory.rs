//! What the proxy has in memory: with clients that are there and say nothing, and with a service that answers slowly.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::certificate::Certificate;
use super::proxies::{self, Proxy};
use super::{Outcome, Setting, wire};

const GOAL: &str =
    "10,000 idle keep-alive connections in <= 150 MB; 5,000 requests at once to a slow service in <= 300 MB";
const IDLE_MIB: f64 = 143.0;
const SLOW_MIB: f64 = 286.0;
const IDLE: usize = 10_000;
const BUSY: usize = 5_000;
const REQUEST: &[u8] = b"GET /some/path HTTP/1.1\r\nhost: bench.test\r\n\r\n";
/// Longer than the benchmark: nothing is answered while it looks.
const SLOW: Duration = Duration::from_secs(600);

/// One proxy's memory in MiB.
struct Row {
    name: &'static str,
    at_rest: f64,
    idle: f64,
    slow: f64,
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    // HAProxy wants two descriptors for each connection that it may have, and does not start with fewer.
    let most = usize::try_from(more_files()?).unwrap_or(IDLE).saturating_sub(2_000) / 2;
    let (idle, busy) = if setting.quick { (1_000, 500) } else { (IDLE.min(most), BUSY.min(most)) };
    if idle < IDLE {
        println!(
            "{idle} idle connections and {busy} requests instead of {IDLE} and {BUSY}: the limits shrink with them"
        );
    }
    let folder = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
    let mut rows = Vec::new();
    let (_quick, _, origin) = wire::start(&["origin".into(), "64".into()])?;
    let (_slow, _, slow) = wire::start(&["stall".into(), SLOW.as_secs().to_string()])?;
    let quick_ones = all(setting, &folder.path().join("quick"), origin).await?;
    let slow_ones = all(setting, &folder.path().join("slow"), slow).await?;
    for (proxy, stalled) in quick_ones.iter().zip(&slow_ones) {
        let at_rest = proxy.pss_mib()?;
        let kept = connect(proxy.address, idle, true).await.with_context(|| proxy.name.to_owned())?;
        settle().await;
        let held = proxy.pss_mib()?;
        drop(kept);
        let asked = connect(stalled.address, busy, false).await.with_context(|| proxy.name.to_owned())?;
        settle().await;
        let slow = stalled.pss_mib()?;
        drop(asked);
        rows.push(Row { name: proxy.name, at_rest, idle: held, slow });
    }
    Ok(tell(&rows, idle, busy))
}

async fn all(setting: &Setting, folder: &std::path::Path, target: SocketAddr) -> Result<Vec<Proxy>> {
    std::fs::create_dir_all(folder)?;
    let certificate = Certificate::make(folder)?;
    let mut all = vec![proxies::cutover(setting, target, &certificate).await?];
    all.extend(proxies::peers(folder, setting, target, &certificate)?);
    Ok(all)
}

/// Each connection takes a descriptor here, and up to two in a proxy that starts from here. Returns how many there may be.
fn more_files() -> Result<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("failed to raise the limit of open files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// What was just sent is where it will stay.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

/// Opens connections and asks on each; reads the answer where one is to come.
async fn connect(address: SocketAddr, count: usize, answered: bool) -> Result<Vec<TcpStream>> {
    let begun = Instant::now();
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = TcpStream::connect(address).await.with_context(|| format!("connection {number}"))?;
        stream.write_all(REQUEST).await?;
        if answered {
            let mut answer = vec![0; 4096];
            let read = stream.read(&mut answer).await?;
            ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "connection {number} got a wrong answer");
        }
        open.push(stream);
        ensure!(begun.elapsed() < Duration::from_secs(120), "{count} connections take too long");
    }
    Ok(open)
}

fn tell(rows: &[Row], idle: usize, busy: usize) -> Outcome {
    println!(
        "\n  {:<10} {:>10} {:>24} {:>32}",
        "Pss MiB",
        "at rest",
        format!("{idle} idle connections"),
        format!("{busy} requests unanswered")
    );
    for row in rows {
        println!("  {:<10} {:>10.1} {:>24.1} {:>32.1}", row.name, row.at_rest, row.idle, row.slow);
    }
    let (most_idle, most_slow) = (IDLE_MIB * idle as f64 / IDLE as f64, SLOW_MIB * busy as f64 / BUSY as f64);
    let round = |mib: f64| (mib * 10.0).round() / 10.0;
    let cells = |row: &Row| json!({"at_rest_mib": round(row.at_rest), "idle_mib": round(row.idle), "slow_mib": round(row.slow)});
    let own = rows.iter().find(|row| row.name == "cutover");
    let peers: Map<String, Value> = rows
        .iter()
        .filter(|row| row.name != "cutover")
        .map(|row| (row.name.to_owned(), cells(row)))
        .collect();
    Outcome {
        bench: "proxy-memory",
        ours: json!({"idle_connections": idle, "requests_at_once": busy, "memory": own.map(cells)}),
        peers: Value::Object(peers),
        ratio: own.map(|own| (own.idle / most_idle * 100.0).round() / 100.0),
        goal: GOAL,
        holds: own.is_some_and(|own| own.idle <= most_idle && own.slow <= most_slow),
    }
}
