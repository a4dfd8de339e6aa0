//! Releases as a canary makes them, straight on the proxy: the candidate's weight rises while clients keep their seats and
//! copies of safe requests go to it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cutover_bench::load::Load;
use cutover_proxy::{Arm, CandidateLease, Client, PinKey, SEAT_COOKIE, ServiceTable, Sticky, WHOLE};

use super::services::Revision;
use super::shifts::Routed;

const WEIGHTS_BP: [u16; 5] = [1_000, 2_500, 5_000, 7_500, WHOLE];
/// Share of the safe requests to stable that the candidate gets a copy of.
const MIRROR_BP: u16 = 2_000;
/// At each weight so many requests are sent at least, and for so long: every client with a seat has asked again.
const REQUESTS: u64 = 60;
const PAUSE: Duration = Duration::from_millis(150);
const WINDOW: Duration = Duration::from_millis(1_200);
const PATIENCE: Duration = Duration::from_secs(20);

/// What the releases came to.
#[derive(Default)]
pub(super) struct Rises {
    pub(super) made: usize,
    /// Copies that the candidates got, those whose status was compared to stable's, and those that differed.
    pub(super) copies: u64,
    pub(super) compared: u64,
    pub(super) differ: u64,
    /// Requests that drains cut.
    pub(super) cut: u64,
}

/// Makes so many of them, the revisions by turns; the first one has all traffic before.
pub(super) async fn make(
    proxy: &Client,
    routed: &Routed,
    revisions: &[Revision; 2],
    count: usize,
    load: &Load,
) -> Result<Rises> {
    let mut rises = Rises::default();
    for number in 0..count {
        let (from, to) = (number % 2, 1 - number % 2);
        load.expect_version(None);
        for weight_bp in WEIGHTS_BP {
            let table = table(routed, revisions, number, to, weight_bp);
            proxy.set(routed.name, generation(proxy, routed).await?, 1, &table).await?;
            further(load).await?;
        }
        count_copies(proxy, routed, &mut rises, number).await?;
        // Promoted: it is stable, and nobody has a seat any more.
        let table = routed.table(revisions, to);
        proxy.set(routed.name, generation(proxy, routed).await?, 1, &table).await?;
        load.expect_version(Some(revisions[to].version));
        rises.cut += proxy.drain(routed.name, revisions[from].version, WINDOW).await?.cut;
        further(load).await?;
        rises.made += 1;
    }
    load.expect_version(None);
    Ok(rises)
}

async fn generation(proxy: &Client, routed: &Routed) -> Result<u64> {
    let seen = proxy.observe_service(routed.name).await?;
    Ok(seen.services.get(routed.name).context("the service is routed")?.table.generation)
}

/// Waits until the load has got on.
async fn further(load: &Load) -> Result<()> {
    let (begun, sent) = (Instant::now(), load.report().sent());
    tokio::time::sleep(PAUSE).await;
    while load.report().sent() < sent + REQUESTS {
        ensure!(begun.elapsed() < PATIENCE, "the load does not get on:\n{}", load.report());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn count_copies(proxy: &Client, routed: &Routed, rises: &mut Rises, number: usize) -> Result<()> {
    let seen = proxy.observe_service(routed.name).await?;
    let service = seen.services.get(routed.name).context("the service is routed")?;
    let own = release(number);
    let of = |arm: &&cutover_proxy::ArmObservation| {
        arm.arm == Arm::Mirrored && arm.release.as_deref() == Some(own.as_str())
    };
    for arm in service.arms.iter().filter(of) {
        rises.copies += arm.counts.claimed;
        rises.compared += arm.counts.mirror_compared;
        rises.differ += arm.counts.mirror_differs;
    }
    Ok(())
}

fn release(number: usize) -> String {
    format!("rise-{number}")
}

fn table(
    routed: &Routed,
    revisions: &[Revision; 2],
    number: usize,
    to: usize,
    weight_bp: u16,
) -> ServiceTable {
    let mut table = routed.table(revisions, 1 - to);
    table.tracks[to].weight_bp = weight_bp;
    table.tracks[1 - to].weight_bp = WHOLE - weight_bp;
    ServiceTable {
        candidate: Some(CandidateLease {
            release: release(number),
            revision: revisions[to].version.into(),
            lease_ms: 60_000,
            fallback: vec![(revisions[1 - to].version.into(), WHOLE)],
            guard: None,
            judge: None,
        }),
        pin_key: Some(PinKey("0123456789abcdef0123456789abcdef".into())),
        sticky: Some(Sticky::Cookie { name: SEAT_COOKIE.into() }),
        mirror_bp: MIRROR_BP,
        ..table
    }
}
