//! One service on the proxy: its table by turns with and without a candidate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cutover_judge::{History, StepPlan};
use cutover_proxy::{
    CandidateLease, Client, ErrorKind, JudgeQuestion, JudgeTerms, Judged, ServiceTable, Target,
    TargetProtocol, Track, WHOLE,
};
use tokio::sync::Semaphore;

use super::arms::{ArmServer, ArmServers};
use super::clients::Users;

/// Nobody renews the lease: a run is shorter.
const LEASE_MS: u64 = 600_000;

/// A service with its users.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) users: Arc<Users>,
    pub(super) stable: Arc<ArmServer>,
    pub(super) candidate: Arc<ArmServer>,
    proxy: Client,
    /// A place among those who talk to the proxy.
    turns: Arc<Semaphore>,
}

/// The admin socket serves 64 callers at once, and hangs up on more.
const CALLERS: usize = 8;

/// Makes services with this rate of requests; `name` tells them from others.
pub(super) fn make(
    proxy: &Client,
    servers: &ArmServers,
    from: usize,
    count: usize,
    rate: f64,
) -> Vec<Service> {
    let turns = Arc::new(Semaphore::new(CALLERS));
    let service = |at: usize| {
        let name = format!("judged-{at}");
        let users = Users::new(format!("{name}.test"), rate);
        let (stable, candidate) = (servers.all[2 * at].clone(), servers.all[2 * at + 1].clone());
        Service { name, users, stable, candidate, proxy: proxy.clone(), turns: turns.clone() }
    };
    (from..from + count).map(service).collect()
}

impl Service {
    /// Gives the candidate of a release a share; without a release stable has all.
    pub(super) async fn route(&self, release: Option<(&str, u16, &JudgeTerms)>) -> Result<()> {
        let track = |revision: &str, weight_bp: u16, arm: &ArmServer| Track {
            revision: revision.into(),
            weight_bp,
            targets: vec![Target { instance: revision.into(), address: arm.address, ready: true }],
            protocol: TargetProtocol::Http1,
            checks: None,
        };
        let weight_bp = release.map_or(0, |(_, weight_bp, _)| weight_bp);
        let table = ServiceTable {
            hosts: vec![self.users.host.clone()],
            tracks: vec![
                track("stable", WHOLE - weight_bp, &self.stable),
                track("candidate", weight_bp, &self.candidate),
            ],
            candidate: release.map(|(release, _, terms)| CandidateLease {
                release: release.into(),
                revision: "candidate".into(),
                lease_ms: LEASE_MS,
                fallback: vec![("stable".into(), WHOLE)],
                guard: None,
                judge: Some(terms.clone()),
            }),
            ..ServiceTable::default()
        };
        let _turn = self.turns.acquire().await?;
        self.proxy.set(&self.name, self.generation().await?, 1, &table).await?;
        Ok(())
    }

    async fn generation(&self) -> Result<u64> {
        match self.proxy.observe_service(&self.name).await {
            Ok(seen) => Ok(seen.services.get(&self.name).map_or(0, |service| service.table.generation)),
            Err(error) if *error.kind() == ErrorKind::UnknownService => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the candidate's weight in force.
    pub(super) async fn weight_bp(&self) -> Result<u16> {
        let _turn = self.turns.acquire().await?;
        let seen = self.proxy.observe_service(&self.name).await?;
        let service = seen.services.get(&self.name).context("the service is routed")?;
        Ok(service.effective.get("candidate").copied().unwrap_or(0))
    }

    /// Asks as the engine does, with its shortest time at one weight.
    pub(super) async fn judge(&self, release: &str, margin_ppb: u64, latency: bool) -> Result<Judged> {
        let question =
            JudgeQuestion { margin_ppb, latency, floor_ms: 2_000, epochs_from: None, close: false };
        let _turn = self.turns.acquire().await?;
        Ok(self.proxy.judge(&self.name, release, &question).await?)
    }

    /// Waits until its users have sent so much more.
    pub(super) async fn further(&self, requests: u64) -> Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let (begun, goal) = (Instant::now(), self.users.sent.load(Relaxed) + requests);
        while self.users.sent.load(Relaxed) < goal {
            ensure!(begun.elapsed() < Duration::from_secs(60), "the users of {} do not get on", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// Returns what a canary by these weights has to prove, as the engine plans it.
pub(super) fn plan(weights_bp: &[u16]) -> (Vec<StepPlan>, JudgeTerms) {
    let steps = cutover_judge::plan(weights_bp, true, &History::default(), 0);
    let mut margins_ppb: Vec<u64> = steps.iter().map(|step| step.margin_ppb).collect();
    margins_ppb.sort_unstable();
    margins_ppb.dedup();
    // The release file's own: 10 s.
    (steps, JudgeTerms { alpha_bp: 100, beta_bp: 100, margins_ppb, warm_up_ms: 10_000, watch_ms: 60_000 })
}
