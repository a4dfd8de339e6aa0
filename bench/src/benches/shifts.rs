//! Shifts made straight on the proxy: observe, set, acknowledgement, drain of the old revision.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cutover_bench::load::Load;
use cutover_proxy::{
    Client, DrainReply, ErrorKind, Observation, ProxyError, ServiceTable, Target, TargetProtocol, Track,
    WHOLE,
};
use tokio::task::JoinSet;

use super::certificate;
use super::numbers::Samples;
use super::services::Revision;

/// A service whose traffic is moved, and how its targets are spoken to.
pub(super) struct Routed {
    pub(super) name: &'static str,
    pub(super) host: &'static str,
    protocol: TargetProtocol,
}

pub(super) const SHIFTS: Routed =
    Routed { name: "shifts", host: "shifts.test", protocol: TargetProtocol::Http1 };
pub(super) const STREAMS: Routed =
    Routed { name: "streams", host: "streams.test", protocol: TargetProtocol::H2c };
/// The one with a certificate.
pub(super) const SECURE: Routed =
    Routed { name: "secure", host: certificate::HOST, protocol: TargetProtocol::H2c };
pub(super) const RISES: Routed = Routed { name: "rises", host: "rises.test", protocol: TargetProtocol::H2c };
/// Slow requests last a sixth of it, so that a drain in time cuts none; WebSockets leave in its second half.
const WINDOW: Duration = Duration::from_millis(1_200);
/// Of so many shifts one waits for its drain; the others give the drained revision its weight back in the middle of it.
const WAITS: usize = 3;

/// What the shifts came to.
#[derive(Default)]
pub(super) struct Shifts {
    pub(super) made: usize,
    /// Receipt of the request until the last thread's acknowledgement, as the proxy says.
    pub(super) acknowledged: Samples,
    /// Part of it spent on the disk.
    pub(super) persisted: Samples,
    /// The rest of it: telling every thread, and hearing from each.
    pub(super) beyond_disk: Samples,
    /// The whole call, as its client sees it.
    pub(super) called: Samples,
    /// Requests claimed for the old revision after the acknowledgement.
    pub(super) claimed_after: u64,
    pub(super) drains: usize,
    pub(super) drains_finished: usize,
    /// Requests that a drain cut.
    pub(super) cut: u64,
    pub(super) websockets_closed: u64,
    /// How long the drains took that were waited for.
    pub(super) drained: Samples,
}

/// Routes the service to the first revision.
pub(super) async fn open(proxy: &Client, routed: &Routed, revisions: &[Revision; 2]) -> Result<()> {
    proxy.set(routed.name, 0, 1, &routed.table(revisions, 0)).await?;
    Ok(())
}

/// Makes so many shifts from one revision to the other and back.
pub(super) async fn make(
    proxy: &Client,
    routed: &Routed,
    revisions: &[Revision; 2],
    count: usize,
    load: &Load,
) -> Result<Shifts> {
    let mut shifts = Shifts::default();
    let mut drains: JoinSet<Result<DrainReply, ProxyError>> = JoinSet::new();
    let worker = proxy.hello().await?.worker_pid;
    for number in 0..count {
        let (from, to) = (number % 2, 1 - number % 2);
        let seen = proxy.observe_service(routed.name).await?;
        ensure!(seen.worker_pid == worker, "the proxy's worker was replaced: its counters began anew");
        let generation = seen.services.get(routed.name).context("the service is routed")?.table.generation;
        load.expect_version(None);
        let begun = Instant::now();
        let reply = proxy.set(routed.name, generation, 1, &routed.table(revisions, to)).await?;
        shifts.called.add(begun.elapsed());
        load.expect_version(Some(revisions[to].version));
        let at_once = claimed(routed, &proxy.observe_service(routed.name).await?, revisions[from].version);
        ensure!(reply.changed, "shift {number} changed nothing");
        shifts.made += 1;
        shifts.acknowledged.add(Duration::from_nanos(reply.acknowledged_ns));
        shifts.persisted.add(Duration::from_nanos(reply.persisted_ns));
        let beyond_disk = reply.acknowledged_ns.saturating_sub(reply.persisted_ns);
        shifts.beyond_disk.add(Duration::from_nanos(beyond_disk));
        let (client, name, version) = (proxy.clone(), routed.name, revisions[from].version);
        let drain = async move { client.drain(name, version, WINDOW).await };
        shifts.drains += 1;
        if number % WAITS == 0 {
            let begun = Instant::now();
            shifts.count(drain.await?);
            shifts.drained.add(begun.elapsed());
        } else {
            drains.spawn(drain);
            tokio::time::sleep(Duration::from_millis(20 + fastrand::u64(..80))).await;
        }
        while let Some(done) = drains.try_join_next() {
            shifts.count_cancelled(done?)?;
        }
        let later = claimed(routed, &proxy.observe_service(routed.name).await?, revisions[from].version);
        shifts.claimed_after += later - at_once;
    }
    load.expect_version(None);
    while let Some(done) = drains.join_next().await {
        shifts.count_cancelled(done?)?;
    }
    Ok(shifts)
}

impl Shifts {
    fn count(&mut self, reply: DrainReply) {
        self.drains_finished += 1;
        self.cut += reply.cut;
        self.websockets_closed += reply.websockets_closed;
    }

    /// Counts a drain whose revision may have got its weight back meanwhile.
    fn count_cancelled(&mut self, done: Result<DrainReply, ProxyError>) -> Result<()> {
        match done {
            Ok(reply) => self.count(reply),
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::StillWeighted) => {}
            Err(error) => return Err(error).context("a drain failed"),
        }
        Ok(())
    }
}

/// Returns how many requests were given to a revision, by whatever arm.
fn claimed(routed: &Routed, seen: &Observation, revision: &str) -> u64 {
    let arms = seen.services.get(routed.name).map(|service| service.arms.as_slice()).unwrap_or_default();
    arms.iter().filter(|arm| arm.revision == revision).map(|arm| arm.counts.claimed).sum()
}

impl Routed {
    /// Returns the table in which one of the revisions has all traffic.
    pub(super) fn table(&self, revisions: &[Revision; 2], active: usize) -> ServiceTable {
        let track = |(index, revision): (usize, &Revision)| Track {
            revision: revision.version.into(),
            weight_bp: if index == active { WHOLE } else { 0 },
            targets: targets(revision),
            protocol: self.protocol,
            checks: None,
        };
        let tracks = revisions.iter().enumerate().map(track).collect();
        ServiceTable { hosts: vec![self.host.into()], tracks, ..ServiceTable::default() }
    }
}

fn targets(revision: &Revision) -> Vec<Target> {
    let target = |(index, address): (usize, &std::net::SocketAddr)| Target {
        instance: format!("{}-{index}", revision.version),
        address: *address,
        ready: true,
    };
    revision.addresses.iter().enumerate().map(target).collect()
}
