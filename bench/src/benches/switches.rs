//! Promise 1 in numbers: shifts and whole releases under mixed load, and nginx reloading under the same load.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cutover_bench::load::{Kind, Load, Mix, Options, Pace, Report};
use cutover_proxy::Client;
use serde_json::{Value, json};

use super::beside::Sampler;
use super::nginx::Nginx;
use super::numbers::{Samples, Spread};
use super::releases::{self, Releases};
use super::scratch::{Running, Scratch};
use super::services::Revision;
use super::shifts::{self, Shifts};
use super::{Outcome, Setting};

const GOAL: &str = "0 requests failed; 0 claimed for the old revision, or answered by it, after a shift's \
                    acknowledgement; acknowledgement p99 <= 5 ms as the client sees it";
const ACKNOWLEDGED_US: f64 = 5_000.0;
const MIX: Mix = Mix { get_kept: 4, get_new: 2, post: 4, slow_upload: 2, slow_download: 2, websocket: 4 };

/// How much of everything.
struct Extent {
    rate: f64,
    shifts: usize,
    requests_over_shifts: u64,
    releases: usize,
    requests_over_releases: u64,
    reloads: usize,
}

const FULL: Extent = Extent {
    rate: 2_500.0,
    shifts: 900,
    requests_over_shifts: 800_000,
    releases: 100,
    requests_over_releases: 200_000,
    reloads: 60,
};
const QUICK: Extent = Extent {
    rate: 1_000.0,
    shifts: 60,
    requests_over_shifts: 24_000,
    releases: 5,
    requests_over_releases: 6_000,
    reloads: 8,
};

/// What was measured beside the shifts, under the same load.
struct Beside {
    pipe: Samples,
    disk: Samples,
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let extent = if setting.quick { QUICK } else { FULL };
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let received = scratch.path().join("received.txt");
    std::fs::write(&received, "")?;
    let (client, listen) = start_proxy(&mut scratch).await?;
    println!(
        "cutover on {listen}: mixed load of {} GETs and POSTs a second, {} slow transfers and {} WebSockets at a time",
        extent.rate,
        MIX.slow_upload + MIX.slow_download,
        MIX.websocket
    );
    let revisions = [Revision::start("s1", 2, &received)?, Revision::start("s2", 2, &received)?];
    let (pipe, disk) = (Sampler::pipe()?, Sampler::disk(scratch.path())?);
    let begun = Instant::now();
    let (shifts, over_shifts) = over_shifts(&client, listen, &revisions, &extent, &received).await?;
    println!("{} shifts in {:.1} s", shifts.made, begun.elapsed().as_secs_f64());
    let beside = Beside { pipe: pipe.stop()?, disk: disk.stop()? };
    let begun = Instant::now();
    let (releases, over_releases) = over_releases(&scratch, listen, &extent, &received)?;
    println!("{} releases in {:.1} s", releases.made, begun.elapsed().as_secs_f64());
    let nginx = over_reloads(&scratch, setting, &revisions, &extent, &received)?;
    Ok(tell(&shifts, &over_shifts, &releases, &over_releases, &beside, nginx))
}

/// Starts holder and worker as a newcomer's `cutover proxy` does, on a port that the system chooses.
async fn start_proxy(scratch: &mut Scratch) -> Result<(Client, SocketAddr)> {
    let mut command = scratch.command(&["proxy", "--listen", "127.0.0.1:0"]);
    let child = command.stdout(Stdio::null()).spawn().context("failed to start cutover proxy")?;
    let mut process = Running::new(child);
    let begun = Instant::now();
    loop {
        if let Ok(client) = Client::connect(scratch.state().join("proxy")).await
            && let Some(listen) = client.hello().await?.listeners.first().copied()
        {
            scratch.adopt(process);
            return Ok((client, listen));
        }
        if let Some(status) = process.ended() {
            bail!("cutover proxy ended with {status}");
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "cutover proxy does not answer after 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn over_shifts(
    client: &Client,
    listen: SocketAddr,
    revisions: &[Revision; 2],
    extent: &Extent,
    received: &Path,
) -> Result<(Shifts, Report)> {
    shifts::open(client, revisions).await?;
    let load = start_load(listen, shifts::HOST, extent)?;
    let shifts = shifts::make(client, revisions, extent.shifts, &load).await?;
    Ok((shifts, end_load(load, extent.requests_over_shifts, received)?))
}

fn over_releases(
    scratch: &Scratch,
    listen: SocketAddr,
    extent: &Extent,
    received: &Path,
) -> Result<(Releases, Report)> {
    releases::write_file(scratch, listen, "r2", 2, received)?;
    scratch.succeed(&["deploy"])?;
    let load = start_load(listen, releases::HOST, extent)?;
    let releases = releases::make(scratch, listen, received, extent.releases, &load)?;
    Ok((releases, end_load(load, extent.requests_over_releases, received)?))
}

fn over_reloads(
    scratch: &Scratch,
    setting: &Setting,
    revisions: &[Revision; 2],
    extent: &Extent,
    received: &Path,
) -> Result<Option<(Samples, Report)>> {
    let Some(nginx) = Nginx::start(scratch.path(), &setting.repository, &revisions[0])? else {
        return Ok(None);
    };
    let load = start_load(nginx.address, shifts::HOST, extent)?;
    let took = nginx.reloads(revisions, extent.reloads, Duration::from_millis(700), &load)?;
    Ok(Some((took, end_load(load, 0, received)?)))
}

fn start_load(address: SocketAddr, host: &str, extent: &Extent) -> Result<Load> {
    let mut options = Options::new(address, host).mix(MIX).pace(Pace::PerSecond(extent.rate));
    options.slow = Duration::from_millis(200);
    options.websocket_life = Duration::from_secs(2);
    let load = Load::start(options);
    ensure!(load.wait_for(100, Duration::from_secs(20)), "the load does not get going:\n{}", load.report());
    Ok(load)
}

/// Stops a load once it has sent enough.
fn end_load(load: Load, requests: u64, received: &Path) -> Result<Report> {
    let sent = load.report().sent();
    let missing = requests.saturating_sub(sent);
    let most = Duration::from_secs(60 + missing / 100);
    ensure!(
        load.wait_for(requests, most),
        "{sent} of {requests} requests were sent, the rest not in {most:?}"
    );
    let mut report = load.stop();
    report.check_received(&[received])?;
    Ok(report)
}

fn tell(
    shifts: &Shifts,
    over_shifts: &Report,
    releases: &Releases,
    over_releases: &Report,
    beside: &Beside,
    nginx: Option<(Samples, Report)>,
) -> Outcome {
    println!("\n{:<16} {:>20} {:>20} {:>20}", "requests/failed", "shifts", "releases", "nginx -s reload");
    let cell = |report: Option<&Report>, kind: Option<Kind>| {
        report.map_or("-".to_owned(), |report| match kind {
            Some(kind) => format!("{}/{}", report.kind(kind).sent, report.kind(kind).failed),
            None => format!("{}/{}", report.sent(), report.failed()),
        })
    };
    let reloads = nginx.as_ref().map(|(_, report)| report);
    for kind in Kind::ALL.map(Some).into_iter().chain([None]) {
        let name = kind.map_or("all", Kind::name);
        let cells = [Some(over_shifts), Some(over_releases), reloads].map(|report| cell(report, kind));
        println!("{name:<16} {:>20} {:>20} {:>20}", cells[0], cells[1], cells[2]);
    }
    let stale = |report: &Report| report.kinds.values().map(|kind| kind.stale).sum::<u64>();
    println!(
        "failed: refused, reset, truncated, wrong status or body, WebSocket cut without close frame, POST not exactly once"
    );
    for (name, report) in
        [("shifts", Some(over_shifts)), ("releases", Some(over_releases)), ("nginx", reloads)]
    {
        let Some(report) = report else { continue };
        println!(
            "{name:<9} {:.0} requests/s; WebSockets: {} messages, asked to leave {:?}; POSTs {:?}; strays {}",
            report.sent() as f64 * 1_000.0 / report.ran_ms.max(1) as f64,
            report.messages,
            report.closed,
            report.receipts.unwrap_or_default(),
            report.strays,
        );
        for (kind, counts) in &report.kinds {
            for failure in counts.failures.iter().take(5) {
                println!(
                    "          {} +{} ms, after {} ms: {}",
                    kind.name(),
                    failure.at_ms,
                    failure.took_ms,
                    failure.text
                );
            }
        }
        for text in report.stray_texts.iter().take(3) {
            println!("          {text}");
        }
    }
    releases.wrong.iter().for_each(|text| println!("          {text}"));
    println!("\n{}", Spread::head(&format!("{} shifts, {} releases", shifts.made, releases.made)));
    let called = shifts.called.spread();
    println!("{}", called.row("shift, as its client sees it"));
    println!("{}", shifts.acknowledged.spread().row("  receipt to last acknowledgement"));
    println!("{}", shifts.persisted.spread().row("  of which writing the table to disk"));
    println!("{}", shifts.beyond_disk.spread().row("  of which until every thread has it"));
    println!("{}", beside.pipe.spread().row("peer: a byte through a pipe and back"));
    println!("{}", beside.disk.spread().row("limit: a bare file of that size made durable"));
    if let Some((took, _)) = &nginx {
        println!("{}", took.spread().row("peer: nginx -s reload returns"));
    }
    println!("{}", shifts.drained.spread().row("drain of the old revision (window 1.2 s)"));
    println!("{}", releases.took.spread().row("cutover deploy, 2 instances"));
    println!("{}", releases.took_behind.spread().row("  behind the drain of the release before"));
    println!(
        "claimed for the old revision after the acknowledgement: {}; drains {}, of which run to their end {}, requests \
         they cut {}, WebSockets they closed {}",
        shifts.claimed_after, shifts.drains, shifts.drains_finished, shifts.cut, shifts.websockets_closed
    );
    let failed = over_shifts.failed() + over_releases.failed();
    let strays = over_shifts.strays + over_releases.strays;
    let holds = failed == 0
        && shifts.claimed_after == 0
        && strays == 0
        && releases.wrong.is_empty()
        && called.p99_us <= ACKNOWLEDGED_US;
    let by_kind = |report: &Report| -> Value {
        let kinds = report.kinds.iter().map(|(kind, counts)| {
            (
                kind.name().to_owned(),
                json!({"sent": counts.sent, "failed": counts.failed, "stale": counts.stale}),
            )
        });
        Value::Object(kinds.collect())
    };
    let pipe = beside.pipe.spread();
    Outcome {
        bench: "switches",
        ours: json!({
            "requests": over_shifts.sent() + over_releases.sent(),
            "failed": failed,
            "shifts": shifts.made,
            "releases": releases.made,
            "releases_failed": releases.wrong.len(),
            "claimed_after": shifts.claimed_after,
            "answered_by_old_after": strays,
            "cut_by_drains": shifts.cut,
            "shift_called": called,
            "shift_acknowledged": shifts.acknowledged.spread(),
            "shift_persisted": shifts.persisted.spread(),
            "shift_beyond_disk": shifts.beyond_disk.spread(),
            "deploy": releases.took.spread(),
            "deploy_behind_a_drain": releases.took_behind.spread(),
            "over_shifts": by_kind(over_shifts),
            "over_releases": by_kind(over_releases),
        }),
        peers: json!({
            "pipe_round_trip": pipe,
            "durable_file": beside.disk.spread(),
            "nginx_reload": nginx.map(|(took, report)| json!({
                "reloads": took.spread().count,
                "requests": report.sent(),
                "failed": report.failed(),
                "stale": stale(&report),
                "answered_by_old_after": report.strays,
                "reload": took.spread(),
                "kinds": by_kind(&report),
            })),
        }),
        ratio: (pipe.p99_us > 0.0).then(|| (called.p99_us / pipe.p99_us * 100.0).round() / 100.0),
        goal: GOAL,
        holds,
    }
}
