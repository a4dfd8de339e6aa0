//! Asks all health checks of an instance at once.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{Blame, CheckKind, CheckOutcome, CheckResult, Fault, LoadResult, file};
use cutover_ports::{CheckRequest, Checker, GateRequest, LoadRequest};
use futures_util::future::join_all;
use tokio::sync::watch;

use crate::tries::{self, End, Tried, Try};
use crate::{command, gate, grpc, http, load, reach, smoke};

/// Asks instances over the network, and by commands on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkChecker;

impl NetworkChecker {
    /// Makes a checker; it holds nothing.
    pub fn new() -> Self {
        NetworkChecker
    }
}

#[async_trait]
impl Checker for NetworkChecker {
    /// # Cancel safety
    /// Dropped, it leaves nothing behind: connections close, and commands are killed with their process group.
    async fn check(&self, request: &CheckRequest) -> Result<Vec<CheckResult>, Fault> {
        let fallback = [file::Check { tcp: true, ..file::Check::default() }];
        let checks = if request.checks.health.is_empty() { &fallback[..] } else { &request.checks.health };
        let within = request.checks.within.duration();
        let (cut, uncut) = watch::channel(false);
        let asked = checks.iter().map(|check| {
            let (uncut, cut) = (uncut.clone(), &cut);
            async move {
                let tried = tries::until_passed(check, within, uncut, move || ask(request, check)).await;
                if let End::CannotRun(_) = tried.end {
                    // The release is refused for it: the others say what they can, and nobody waits for more.
                    cut.send_replace(true);
                }
                tried
            }
        });
        let ended = join_all(asked).await;
        let results: Vec<CheckResult> =
            checks.iter().zip(&ended).map(|(check, tried)| result(request, check, tried)).collect();
        if results.iter().all(CheckResult::passed) {
            return Ok(results);
        }
        Err(fault(request, checks, ended).results(results))
    }

    /// # Cancel safety
    /// As for `check`.
    async fn smoke(&self, request: &CheckRequest, log: &Path) -> Result<Vec<CheckResult>, Fault> {
        smoke::all(request, log).await
    }

    /// # Cancel safety
    /// Dropped, it stops at once, and closes its connections.
    async fn load(&self, request: &LoadRequest) -> Result<LoadResult, Fault> {
        load::run(request).await
    }

    /// # Cancel safety
    /// Dropped, it kills the command with its process group.
    async fn gate(&self, request: &GateRequest) -> Result<String, Fault> {
        gate::run(request).await
    }
}

async fn ask(request: &CheckRequest, check: &file::Check) -> Try {
    match (&check.path, &check.grpc, &check.run) {
        (Some(path), ..) => http::get(request, path, check.through, &check.expect).await,
        (None, Some(service), _) => grpc::health(request, service, check.through).await,
        (None, None, Some(run)) => command::run(request, run).await,
        (None, None, None) => reach::connect(request.instance.address).await.map(|_| "connected".into()),
    }
}

/// Returns microseconds.
pub(crate) fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn result(request: &CheckRequest, check: &file::Check, tried: &Tried) -> CheckResult {
    let (outcome, blame, detail, output) = match &tried.end {
        End::Passed(answer) => (CheckOutcome::Passed, None, answer.clone(), Vec::new()),
        End::Missed(failed) => {
            (failed.outcome, Some(Blame::Candidate), failed.detail(), failed.lines.clone())
        }
        End::CannotRun(fault) => {
            (CheckOutcome::Error, Some(fault.blame), fault.what.clone(), fault.lines.clone())
        }
    };
    CheckResult {
        kind: CheckKind::Health,
        check: check.name(),
        instance: request.instance.id.clone(),
        outcome,
        blame,
        duration_us: us(tried.took),
        tries: tried.tries,
        detail,
        output,
    }
}

/// A check that cannot run comes first: what the others came to in their one try says little of the candidate.
fn fault(request: &CheckRequest, checks: &[file::Check], ended: Vec<Tried>) -> Fault {
    let address = request.instance.address;
    let (mut texts, mut lines) = (Vec::new(), Vec::new());
    for (check, tried) in checks.iter().zip(ended) {
        match tried.end {
            End::Passed(_) => {}
            End::CannotRun(fault) => return fault,
            End::Missed(failed) => {
                texts.push(format!("{} on {address}: {failed}", check.name()));
                lines.extend(failed.lines);
            }
        }
    }
    Fault::candidate(texts.join("; ")).lines(lines)
}
