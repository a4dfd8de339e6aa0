//! Streams of HTTP/2 and calls of gRPC: how many a proxy passes on with a second of processor time. h2load sends them.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use cutover_proxy::TargetProtocol;
use serde_json::{Map, Value, json};
use tokio::process::Command;

use super::numbers::Samples;
use super::proxies::{self, Proxy};
use super::scratch::Scratch;
use super::wire::origin_h2::{CALL, check_call, message};
use super::{Outcome, Setting, wire};

const GOAL: &str = "HTTP/2 streams and unary gRPC calls per CPU second: >= the better of nginx and HAProxy, in the middle \
                    over the cases";

struct Case {
    name: &'static str,
    /// Bytes of the answer; of a call, of its message.
    bytes: u32,
    call: bool,
    connections: u32,
    streams: u32,
}

const fn case(name: &'static str, bytes: u32, connections: u32, streams: u32) -> Case {
    Case { name, bytes, call: false, connections, streams }
}

const fn call(name: &'static str, bytes: u32, connections: u32, streams: u32) -> Case {
    Case { call: true, ..case(name, bytes, connections, streams) }
}

/// To targets of HTTP/1.1, which all peers know; calls go to targets of HTTP/2.
const CASES: [Case; 6] = [
    case("64 B, 1 connection x 100 streams", 64, 1, 100),
    case("64 B, 64 connections x 4 streams", 64, 64, 4),
    case("16 KiB, 8 connections x 32 streams", 16 << 10, 8, 32),
    call("gRPC 64 B, 1 connection x 100 streams", 64, 1, 100),
    call("gRPC 64 B, 64 connections x 4 streams", 64, 64, 4),
    call("gRPC 16 KiB, 8 connections x 32 streams", 16 << 10, 8, 32),
];

/// Requests per CPU second in one case: by proxy, the median over the rounds.
struct Row {
    name: &'static str,
    rate: Vec<(&'static str, f64)>,
}

impl Row {
    fn of(&self, name: &str) -> Option<f64> {
        self.rate.iter().find(|(proxy, _)| *proxy == name).map(|(_, rate)| *rate)
    }

    /// Ours by the better of nginx and HAProxy.
    fn by_peers(&self) -> Option<f64> {
        let peer = ["nginx", "haproxy"].iter().filter_map(|name| self.of(name)).max_by(f64::total_cmp)?;
        Some(self.of("cutover")? / peer)
    }
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let (requests, rounds) = if setting.quick { (4_000, 2) } else { (60_000, 5) };
    let folder = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
    let (_origin, _, target) = wire::start(&["origin-h2".into()])?;
    let mut all = vec![cutover(setting, target).await?];
    let wanted = [("nginx", "nginx-h2.conf"), ("haproxy", "haproxy-h2.cfg")];
    let words = [("@TARGET@", target.to_string())];
    all.extend(proxies::configured(&wanted, folder.path(), setting, &words)?);
    for proxy in &all {
        check_call(proxy.address).await.with_context(|| proxy.name.to_owned())?;
    }
    let mut rows = Vec::new();
    for case in &CASES {
        let mut samples = vec![Samples::default(); all.len()];
        // By turns: what else the machine does meets all of them.
        for _ in 0..rounds {
            for (proxy, samples) in all.iter().zip(&mut samples) {
                let before = proxy.cpu_us()?;
                load(case, proxy, requests, folder.path()).await?;
                samples.add_us(f64::from(requests) / ((proxy.cpu_us()? - before) / 1e6));
            }
        }
        let rate = all.iter().zip(&samples).map(|(proxy, samples)| (proxy.name, samples.median()));
        rows.push(Row { name: case.name, rate: rate.collect() });
    }
    Ok(tell(&rows))
}

/// Starts cutover with the calls as a service of their own, whose targets speak HTTP/2.
async fn cutover(setting: &Setting, target: std::net::SocketAddr) -> Result<Proxy> {
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let (client, address) = scratch.start_proxy().await?;
    let (plain, mut calls) = (proxies::service(target)?, proxies::service(target)?);
    calls.paths = vec!["/bench.Bench".into()];
    calls.tracks.iter_mut().for_each(|track| track.protocol = TargetProtocol::H2c);
    client.set("plain", 0, 1, &plain).await?;
    client.set("calls", 0, 1, &calls).await?;
    proxies::started(scratch, &client, address, None).await
}

/// Sends so many requests and waits for the answers; one that is not a 200 is an error.
async fn load(case: &Case, proxy: &Proxy, requests: u32, folder: &Path) -> Result<()> {
    let what = || format!("{} through {}", case.name, proxy.name);
    let mut command = Command::new("h2load");
    command.args(["-t1", &format!("-n{requests}"), &format!("-c{}", case.connections)]);
    command.arg(format!("-m{}", case.streams));
    let mut path = format!("/{}", case.bytes);
    if case.call {
        let file = folder.join("message");
        std::fs::write(&file, message(case.bytes))?;
        command.arg("-d").arg(file).args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        path = CALL.to_owned();
    }
    command.arg(format!("http://{}{path}", proxy.address)).stdin(Stdio::null()).kill_on_drop(true);
    let output = match command.output().await {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("h2load is missing; install nghttp2-client")
        }
        Err(error) => return Err(error).with_context(what),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let whole = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
    ensure!(output.status.success() && said.contains(&whole), "{}:\n{said}", what());
    Ok(())
}

fn tell(rows: &[Row]) -> Outcome {
    let names: Vec<&str> =
        rows.first().map(|row| row.rate.iter().map(|(name, _)| *name).collect()).unwrap_or_default();
    let heads: String = names.iter().map(|name| format!(" {name:>9}")).collect();
    println!("\n  {:<42}{heads} {:>9}", "requests per CPU second", "by peers");
    let shown = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    let mut ratios = Samples::default();
    for row in rows {
        let cells: String = row.rate.iter().map(|(_, rate)| format!(" {rate:>9.0}")).collect();
        println!("  {:<42}{cells} {:>9}", row.name, shown(row.by_peers()));
        row.by_peers().into_iter().for_each(|ratio| ratios.add_us(ratio));
    }
    let ratio = rows.iter().any(|row| row.by_peers().is_some()).then(|| ratios.median());
    println!("  {:<42}{:>width$}", "in the middle", shown(ratio), width = 10 * names.len() + 10);
    let of = |name: &str| -> Value {
        let cells = rows.iter().filter_map(|row| Some((row.name.to_owned(), json!(row.of(name)?.round()))));
        Value::Object(cells.collect())
    };
    let peers: Map<String, Value> =
        names.iter().filter(|name| **name != "cutover").map(|name| ((*name).to_owned(), of(name))).collect();
    Outcome {
        bench: "proxy-h2",
        ours: json!({ "requests_per_cpu_second": of("cutover") }),
        peers: Value::Object(peers),
        ratio: ratio.map(|ratio| (ratio * 100.0).round() / 100.0),
        goal: GOAL,
        holds: ratio.is_some_and(|ratio| ratio >= 1.0),
    }
}
