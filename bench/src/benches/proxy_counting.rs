//! What counting and judging cost: the proxy beside itself, with no judge, and built without counting.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cutover_judge::{Inconclusive, Passed, Verdict};
use cutover_proxy::{Client, JudgeQuestion, ServiceTable, WHOLE};
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
const RELEASE: &str = "bench-1";

/// Enough to keep the proxy busy: what a request costs that has to wake it is mostly the waking.
const CASES: [(&str, usize); 2] = [("16 connections, 64 B", 16), ("64 connections, 64 B", 64)];

/// Microseconds in one case, over the rounds.
#[derive(Default)]
struct Row {
    name: &'static str,
    /// Both: a release is under way.
    on: Samples,
    /// Counting alone.
    counting: Samples,
    off: Samples,
    /// On less off, of the same round.
    more: Samples,
    /// The part of it that is the judge's: on less counting.
    judging: Samples,
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
    let on = start(&counted, target, true).await?;
    let again = start(&counted, target, true).await?;
    let counting = start(&counted, target, false).await?;
    let off = start(&uncounted, target, false).await?;
    let all = [&on, &counting, &off, &again];
    let mut rows = Vec::new();
    for (name, connections) in CASES {
        let mut row = Row { name, ..Row::default() };
        for round in 0..rounds {
            let cost = async |measured: &Measured| {
                let clients =
                    Clients::start(measured.proxy.address, Asking { connections, anew: false }, None);
                proxy_cpu::per_request(name, &measured.proxy, clients, &extent).await
            };
            // Forth and back, so that none is always the first.
            let mut cells = [0.0; 4];
            for at in 0..all.len() {
                let at = if round % 2 == 0 { at } else { all.len() - 1 - at };
                cells[at] = cost(all[at]).await?;
            }
            let [with, counts, without, with_again] = cells;
            let both = f64::midpoint(with, with_again);
            row.on.add_us(with);
            row.counting.add_us(counts);
            row.off.add_us(without);
            row.more.add_us(both - without);
            row.judging.add_us(both - counts);
            row.noise.add_us(with - with_again);
        }
        rows.push(row);
    }
    let seen =
        [(on.counted().await?, true), (counting.counted().await?, true), (off.counted().await?, false)];
    ensure!(
        seen.iter().all(|(counted, should)| (*counted > 0) == *should),
        "two were to count and one not, and they counted {seen:?}"
    );
    // A judge that was done would cost nothing any more.
    for judged in [&on, &again] {
        judged.still_judged().await?;
    }
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

    /// Fails unless the judge has scored the requests of both arms, and has not taken the candidate back.
    async fn still_judged(&self) -> Result<()> {
        let judged = self.client.judge("bench", RELEASE, &JudgeQuestion::default()).await?;
        let (Verdict::Pass(Passed { seen, .. }) | Verdict::Inconclusive(Inconclusive { seen, .. })) =
            &judged.verdict
        else {
            bail!("the candidate, which is as good as stable, was taken back: {}", judged.verdict)
        };
        let [stable, candidate] = [seen.stable.requests, seen.candidate.requests];
        let counted = self.counted().await?;
        ensure!(
            stable.min(candidate) > counted / 3,
            "{counted} were counted, {stable} and {candidate} judged"
        );
        Ok(())
    }
}

/// Starts it with two revisions that have half of the requests each, where it is judged as stable and candidate, with a judge
/// and a guard: every part of counting and judging has its share.
async fn start(program: &Path, target: std::net::SocketAddr, judged: bool) -> Result<Measured> {
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
    client.set("bench", 0, 1, &table(target, judged)?).await?;
    let proxy = Proxy::of(address, pid, process);
    Ok(Measured { proxy, client, _folder: folder })
}

fn table(target: std::net::SocketAddr, judged: bool) -> Result<ServiceTable> {
    let track = |revision: &str, weight_bp: u16| {
        let targets = json!([{ "instance": revision, "address": target, "ready": true }]);
        json!({ "revision": revision, "weight_bp": weight_bp, "targets": targets })
    };
    let guard =
        json!({ "min_requests": 100, "max_error_bp": 5_000, "max_mean_ms": 10_000, "max_p95_ms": 10_000 });
    let terms = json!({
        "alpha_bp": 100, "beta_bp": 100, "margins_ppb": [5_000_000, 20_000_000, 50_000_000], "warm_up_ms": 0
    });
    let candidate = json!({
        "release": RELEASE,
        "revision": "r-2",
        "lease_ms": 3_600_000,
        "fallback": [["r-1", WHOLE]],
        "guard": guard,
        "judge": terms,
    });
    Ok(serde_json::from_value(json!({
        "tracks": [track("r-1", WHOLE / 2), track("r-2", WHOLE / 2)],
        "candidate": if judged { candidate } else { json!(null) },
    }))?)
}

fn tell(rows: &[Row]) -> Outcome {
    println!(
        "\n  {:<24} {:>8} {:>9} {:>8} {:>24} {:>24} {:>26}",
        "µs of CPU per request",
        "judging",
        "counting",
        "neither",
        "more (p25..p75)",
        "of which judging",
        "two that judge differ by"
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
        let [all, judging, noise] = [&row.more, &row.judging, &row.noise].map(middle);
        let counting = row.counting.median();
        println!(
            "  {:<24} {on:>8.2} {counting:>9.2} {off:>8.2} {all:>24} {judging:>24} {noise:>26}",
            row.name
        );
        most = most.max(more);
        let cell = json!({
            "judging_us": tenth(on),
            "counting_us": tenth(counting),
            "without_us": tenth(off),
            "more_us": tenth(more),
            "more_for_judging_us": tenth(row.judging.median()),
            "two_that_judge_differ_by_us": tenth(row.noise.median()),
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
