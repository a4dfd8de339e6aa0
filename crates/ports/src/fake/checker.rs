//! The fake checker: asks the world how a revision behaves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    Blame, CheckKind, CheckOutcome, CheckResult, Fault, LoadOutcome, LoadReason, LoadResult, file,
};
use tokio::time::{Instant, sleep};

use super::world::{About, Call, World};
use crate::{CheckRequest, Checker, GateRequest, LoadRequest};

/// Asks instances of a [`World`].
pub struct FakeChecker(pub Arc<World>);

#[async_trait]
impl Checker for FakeChecker {
    async fn check(&self, request: &CheckRequest) -> Result<Vec<CheckResult>, Fault> {
        let about = About::new(Call::Check, &request.service, &request.instance.id, None);
        self.0.call(about, (), |_| Ok(())).await?;
        let result =
            |outcome, detail: &str| result(request, CheckKind::Health, "GET /health", (outcome, detail));
        let end = Instant::now() + request.checks.within.duration();
        loop {
            let behavior = self.0.state().behavior(&request.revision);
            let listens = self.0.state().vouch(&request.service, &request.instance.id).is_ok();
            let why = match behavior.unhealthy {
                Some(why) => why,
                None if listens && behavior.exits.is_none() => {
                    return Ok(vec![result(CheckOutcome::Passed, "200")]);
                }
                None => "connection refused".to_string(),
            };
            if Instant::now() >= end {
                let results = vec![result(CheckOutcome::Failed, &why)];
                let what = format!("GET /health: {why} for {}", request.checks.within);
                return Err(Fault::candidate(what).results(results));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn smoke(&self, request: &CheckRequest, _log: &Path) -> Result<Vec<CheckResult>, Fault> {
        let about = About::new(Call::Smoke, &request.service, &request.instance.id, None);
        let asked = request.clone();
        self.0
            .call(about, Vec::new(), move |_| {
                let tried = |test: &file::SmokeTest| {
                    let fails = test.title().contains("false");
                    let said = if fails {
                        (CheckOutcome::Failed, "exit status 1")
                    } else {
                        (CheckOutcome::Passed, "")
                    };
                    result(&asked, CheckKind::Smoke, &test.title(), said)
                };
                let results: Vec<CheckResult> = asked.checks.smoke.iter().map(tried).collect();
                match results.iter().all(CheckResult::passed) {
                    true => Ok(results),
                    false => Err(Fault::candidate("a smoke test failed").results(results)),
                }
            })
            .await
    }

    async fn load(&self, request: &LoadRequest) -> Result<LoadResult, Fault> {
        let about = About::new(Call::Load, &request.service, &request.revision, None);
        let result = |outcome| LoadResult {
            test: request.test.name(),
            outcome,
            reasons: vec![LoadReason { outcome, text: "as the path says".into() }],
            took_ms: 1,
            due: 0,
            missed: 0,
            shares: Vec::new(),
        };
        let fails = request.test.path.as_deref() == Some("/false");
        let (held, broken) = (result(LoadOutcome::Passed), result(LoadOutcome::Failed));
        let lost = held.clone();
        self.0
            .call(about, lost, move |_| match fails {
                false => Ok(held.clone()),
                true => Err(Fault::candidate(format!("load test {}", broken.line())).load(broken.clone())),
            })
            .await
    }

    async fn gate(&self, request: &GateRequest) -> Result<String, Fault> {
        let about = About::new(Call::Gate, &request.service, &request.command, None);
        let failing = request.command.contains("false");
        self.0
            .call(about, String::new(), move |_| {
                if failing {
                    Err(Fault::candidate("exit status 1").fatal())
                } else {
                    Ok("exit status 0".into())
                }
            })
            .await
    }
}

fn result(
    request: &CheckRequest,
    kind: CheckKind,
    check: &str,
    (outcome, detail): (CheckOutcome, &str),
) -> CheckResult {
    CheckResult {
        kind,
        check: check.into(),
        instance: request.instance.id.clone(),
        outcome,
        blame: (outcome != CheckOutcome::Passed).then_some(Blame::Candidate),
        duration_us: 1000,
        tries: 1,
        detail: detail.into(),
        output: Vec::new(),
    }
}
