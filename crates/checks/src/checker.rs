//! Asks all checks of an instance at once.

use async_trait::async_trait;
use cutover_core::{Fault, file};
use cutover_ports::{CheckRequest, Checker, GateRequest};
use futures_util::future::try_join_all;

use crate::tries::{self, Failed, Try};
use crate::{command, gate, http, tcp};

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
    async fn check(&self, request: &CheckRequest) -> Result<String, Fault> {
        let fallback = [file::Check { tcp: true, ..file::Check::default() }];
        let checks = if request.checks.health.is_empty() { &fallback[..] } else { &request.checks.health };
        let within = request.checks.within.duration();
        let asked =
            checks.iter().map(|check| tries::until_passed(check, within, move || ask(request, check)));
        let (mut passed, mut failed) = (Vec::new(), Vec::new());
        for (check, outcome) in checks.iter().zip(try_join_all(asked).await?) {
            match outcome {
                Ok(after) => passed.push(format!("{} passed in {}", check.name(), tries::seconds(after))),
                Err(failure) => failed.push((check.name(), failure)),
            }
        }
        if failed.is_empty() { Ok(passed.join("; ")) } else { Err(fault(request, failed)) }
    }

    /// # Cancel safety
    /// Dropped, it kills the command with its process group.
    async fn gate(&self, request: &GateRequest) -> Result<String, Fault> {
        gate::run(request).await
    }
}

async fn ask(request: &CheckRequest, check: &file::Check) -> Try {
    match (&check.path, &check.run) {
        (Some(path), _) => http::get(request, path, &check.expect).await,
        (None, Some(run)) => command::run(request, run).await,
        (None, None) => tcp::connect(request.instance.address).await.map(drop),
    }
}

fn fault(request: &CheckRequest, failed: Vec<(String, Failed)>) -> Fault {
    let address = request.instance.address;
    let texts: Vec<String> =
        failed.iter().map(|(name, failure)| format!("{name} on {address}: {failure}")).collect();
    Fault::candidate(texts.join("; ")).lines(failed.into_iter().flat_map(|(_, failure)| failure.lines))
}
