//! Promise 1 in numbers: shifts and whole releases under mixed load, and nginx reloading under the same load.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cutover_bench::load::{Load, Mix, Options, Pace, Report};
use cutover_proxy::Client;

use super::beside::Sampler;
use super::nginx::Nginx;
use super::numbers::Samples;
use super::releases::{self, STRATEGIES, Strategy};
use super::rises::{self, Rises};
use super::scratch::Scratch;
use super::services::Revision;
use super::shifts::{self, RISES, Routed, SHIFTS, STREAMS, Shifts};
use super::told::{Beside, OfStrategy, Told};
use super::{Outcome, Setting};

pub(super) const MIX: Mix = Mix {
    get_kept: 4,
    get_new: 2,
    post: 4,
    slow_upload: 2,
    slow_download: 2,
    websocket: 4,
    http2: 0,
    grpc: 0,
    sticky: 0,
};

pub(super) const STREAM_MIX: Mix = Mix {
    get_kept: 2,
    get_new: 0,
    post: 2,
    slow_upload: 1,
    slow_download: 1,
    websocket: 2,
    http2: 4,
    grpc: 8,
    sticky: 0,
};
const RISE_MIX: Mix = Mix { get_new: 2, http2: 2, grpc: 2, sticky: 16, ..STREAM_MIX };

/// How much of everything.
struct Extent {
    rate: f64,
    shifts: usize,
    requests_over_shifts: u64,
    /// Of each strategy; an even number.
    releases: usize,
    requests_over_releases: u64,
    reloads: usize,
    /// Shifts under streams of HTTP/2 and calls of gRPC.
    stream_shifts: usize,
    /// Releases whose weight rises, an even number.
    rises: usize,
}

const FULL: Extent = Extent {
    rate: 2_500.0,
    shifts: 900,
    requests_over_shifts: 800_000,
    releases: 34,
    requests_over_releases: 200_000,
    reloads: 60,
    stream_shifts: 300,
    rises: 40,
};
const QUICK: Extent = Extent {
    rate: 1_000.0,
    shifts: 60,
    requests_over_shifts: 18_000,
    releases: 2,
    requests_over_releases: 4_500,
    reloads: 8,
    stream_shifts: 20,
    rises: 4,
};

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let extent = if setting.quick { QUICK } else { FULL };
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let received = scratch.path().join("received.txt");
    std::fs::write(&received, "")?;
    let (client, listen) = scratch.start_proxy().await?;
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
    let mut releases = Vec::new();
    for strategy in &STRATEGIES {
        let begun = Instant::now();
        let done = over_releases(&scratch, listen, strategy, &extent, &received)?;
        println!(
            "{} {} releases in {:.1} s",
            done.releases.made,
            strategy.name,
            begun.elapsed().as_secs_f64()
        );
        releases.push(done);
    }
    let streams = over_streams(&client, listen, &revisions, &extent, &received).await?;
    let rises = over_rises(&client, listen, &revisions, &extent, &received).await?;
    let nginx = over_reloads(&scratch, setting, &revisions, &extent, &received)?;
    Ok(Told { shifts, over_shifts, streams, rises, releases, beside, nginx }.outcome())
}

async fn over_shifts(
    client: &Client,
    listen: SocketAddr,
    revisions: &[Revision; 2],
    extent: &Extent,
    received: &Path,
) -> Result<(Shifts, Report)> {
    let load = routed(client, listen, &SHIFTS, revisions, MIX, extent).await?;
    let shifts = shifts::make(client, &SHIFTS, revisions, extent.shifts, &load).await?;
    Ok((shifts, end_load(load, extent.requests_over_shifts, received)?))
}

/// The same to targets of HTTP/2, under streams and calls.
async fn over_streams(
    client: &Client,
    listen: SocketAddr,
    revisions: &[Revision; 2],
    extent: &Extent,
    received: &Path,
) -> Result<(Shifts, Report)> {
    let load = routed(client, listen, &STREAMS, revisions, STREAM_MIX, extent).await?;
    let shifts = shifts::make(client, &STREAMS, revisions, extent.stream_shifts, &load).await?;
    Ok((shifts, end_load(load, 0, received)?))
}

/// The weight rises step by step, under clients with seats, and with copies for the candidate.
async fn over_rises(
    client: &Client,
    listen: SocketAddr,
    revisions: &[Revision; 2],
    extent: &Extent,
    received: &Path,
) -> Result<(Rises, Report)> {
    let load = routed(client, listen, &RISES, revisions, RISE_MIX, extent).await?;
    let rises = rises::make(client, &RISES, revisions, extent.rises, &load).await?;
    Ok((rises, end_load(load, 0, received)?))
}

/// Routes a service to the first revision, and starts its load.
async fn routed(
    client: &Client,
    listen: SocketAddr,
    routed: &Routed,
    revisions: &[Revision; 2],
    mix: Mix,
    extent: &Extent,
) -> Result<Load> {
    shifts::open(client, routed, revisions).await?;
    start_load(listen, routed.host, mix, extent)
}

fn over_releases(
    scratch: &Scratch,
    listen: SocketAddr,
    strategy: &'static Strategy,
    extent: &Extent,
    received: &Path,
) -> Result<OfStrategy> {
    releases::write_file(scratch, listen, "r2", 2, received, strategy)?;
    scratch.succeed(&["deploy"])?;
    let load = start_load(listen, releases::HOST, MIX, extent)?;
    let releases = releases::make(scratch, listen, received, strategy, extent.releases, &load)?;
    let enough = extent.requests_over_releases / STRATEGIES.len() as u64;
    Ok(OfStrategy { name: strategy.name, releases, report: end_load(load, enough, received)? })
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
    let load = start_load(nginx.address, SHIFTS.host, MIX, extent)?;
    let took = nginx.reloads(revisions, extent.reloads, Duration::from_millis(700), &load)?;
    Ok(Some((took, end_load(load, 0, received)?)))
}

fn start_load(address: SocketAddr, host: &str, mix: Mix, extent: &Extent) -> Result<Load> {
    let mut options = Options::new(address, host).mix(mix).pace(Pace::PerSecond(extent.rate));
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
