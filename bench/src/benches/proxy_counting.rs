//! What counting and judging cost: the proxy beside itself, built without them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cutover_proxy::{Client, ServiceTable, WHOLE};
use serde_json::json;
use tempfile::TempDir;

use super::numbers::Samples;
use super::proxies::Proxy;
use super::proxy_cpu::{self, Extent};
use super::scratch::Running;
use super::wire::clients::{Asking, Clients};
use super::{Outcome, Setting, wire};

const GOAL: &str = "CPU per request with counting and judging: <= 1 µs more than without";
const MOST_US: f64 = 1.0;

/// Enough to keep the proxy busy: what a request costs that has to wake it is mostly the waking.
const CASES: [(&str, usize); 2] = [("16 connections, 64 B", 16), ("64 connections, 64 B", 64)];

/// Microseconds in one case, over the rounds.
struct Row {
    name: &'static str,
    on: Samples,
    off: Samples,
    /// On less off, of the same round.
    more: Samples,
    /// On less on of a second proxy: what means nothing.
    noise: Samples,
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let (extent, rounds) = match setting.quick {
        true => (Extent { warm_up: 200, window: Duration::from_millis(200), rounds: 1 }, 30),
        false => (Extent { warm_up: 2_000, window: Duration::from_secs(1), rounds: 1 }, 100),
    };
    let own = std::env::current_exe().context("failed to find this program")?;
    let beside = |name: &str| own.with_file_name(name);
    let (counted, uncounted) = (beside("cutover-proxy-test"), beside("cutover-proxy-uncounted"));
    let (_origin, _, target) = wire::start(&["origin".into(), "64".into()])?;
    let (on, again, off) =
        (start(&counted, target).await?, start(&counted, target).await?, start(&uncounted, target).await?);
    let mut rows = Vec::new();
    for (name, connections) in CASES {
        let mut row = Row {
            name,
            on: Samples::default(),
            off: Samples::default(),
            more: Samples::default(),
            noise: Samples::default(),
        };
        for round in 0..rounds {
            let cost = async |measured: &Measured| {
                let clients =
                    Clients::start(measured.proxy.address, Asking { connections, anew: false }, None);
                proxy_cpu::per_request(name, &measured.proxy, clients, &extent).await
            };
            // Forth and back, so that none is always the first.
            let mut cells = [0.0; 3];
            let order = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
            for at in order {
                cells[at] = cost([&on, &off, &again][at]).await?;
            }
            let [with, without, with_again] = cells;
            row.on.add_us(with);
            row.off.add_us(without);
            row.more.add_us(f64::midpoint(with, with_again) - without);
            row.noise.add_us(with - with_again);
        }
        rows.push(row);
    }
    let seen = [(on.counted().await?, true), (off.counted().await?, false)];
    ensure!(
        seen.iter().all(|(counted, should)| (*counted > 0) == *should),
        "the one was to count and the other not, and they counted {seen:?}"
    );
    Ok(tell(&rows))
}

/// A proxy of the tests' program, which has no other parts than the proxy.
struct Measured {
    proxy: Proxy,
    client: Client,
    _folder: TempDir,
}

impl Measured {
    async fn counted(&self) -> Result<u64> {
        let seen = self.client.observe_service("bench").await?;
        let service = seen.services.get("bench").context("the service is routed")?;
        Ok(service.arms.iter().map(|arm| arm.counts.claimed).sum())
    }
}

/// Starts it with a candidate that has half of the requests and a guard: every part of counting and judging has its share.
async fn start(program: &Path, target: std::net::SocketAddr) -> Result<Measured> {
    let folder = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
    let mut command = Command::new(program);
    command.arg("holder").arg(folder.path()).args(["1000", "127.0.0.1:0"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().with_context(|| format!("failed to start {}", program.display()))?;
    let pid = child.id();
    let mut process = Running::new(child);
    let begun = Instant::now();
    let (client, address) = loop {
        if let Ok(client) = Client::connect(folder.path()).await
            && let Some(listen) = client.hello().await?.listeners.first().copied()
        {
            break (client, listen);
        }
        if let Some(status) = process.ended() {
            bail!("{} ended with {status}", program.display());
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "the proxy does not answer after 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    client.set("bench", 0, 1, &table(target)?).await?;
    let proxy = Proxy::of(address, pid, process);
    Ok(Measured { proxy, client, _folder: folder })
}

fn table(target: std::net::SocketAddr) -> Result<ServiceTable> {
    let track = |revision: &str, weight_bp: u16| {
        let targets = json!([{ "instance": revision, "address": target, "ready": true }]);
        json!({ "revision": revision, "weight_bp": weight_bp, "targets": targets })
    };
    let guard =
        json!({ "min_requests": 100, "max_error_bp": 5_000, "max_mean_ms": 10_000, "max_p95_ms": 10_000 });
    Ok(serde_json::from_value(json!({
        "tracks": [track("r-1", WHOLE / 2), track("r-2", WHOLE / 2)],
        "candidate": {
            "release": "bench-1",
            "revision": "r-2",
            "lease_ms": 3_600_000,
            "fallback": [["r-1", WHOLE]],
            "guard": guard,
        },
    }))?)
}

fn tell(rows: &[Row]) -> Outcome {
    println!(
        "\n  {:<24} {:>10} {:>10} {:>26} {:>30}",
        "µs of CPU per request", "counting", "without", "more, median (p25..p75)", "two that count differ by"
    );
    let mut most = f64::NEG_INFINITY;
    let mut cells = serde_json::Map::new();
    let tenth = |us: f64| (us * 100.0).round() / 100.0;
    for row in rows {
        let (on, off, more) = (row.on.median(), row.off.median(), row.more.median());
        let middle = |samples: &Samples| {
            let (low, high) = (samples.quantile(0.25), samples.quantile(0.75));
            format!("{:.2} ({low:.2}..{high:.2})", samples.median())
        };
        let spreads = [middle(&row.more), middle(&row.noise)];
        println!("  {:<24} {on:>10.2} {off:>10.2} {:>26} {:>30}", row.name, spreads[0], spreads[1]);
        most = most.max(more);
        let cell = json!({
            "counting_us": tenth(on),
            "without_us": tenth(off),
            "more_us": tenth(more),
            "two_that_count_differ_by_us": tenth(row.noise.median()),
        });
        cells.insert(row.name.to_owned(), cell);
    }
    Outcome {
        bench: "proxy-counting",
        ours: cells.into(),
        peers: json!({}),
        ratio: Some(tenth(most / MOST_US)),
        goal: GOAL,
        holds: most <= MOST_US,
    }
}
