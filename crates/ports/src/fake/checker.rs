//! The fake checker: asks the world how a revision behaves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::Fault;
use tokio::time::{Instant, sleep};

use super::world::{About, Call, World};
use crate::{CheckRequest, Checker, GateRequest};

/// Asks instances of a [`World`].
pub struct FakeChecker(pub Arc<World>);

#[async_trait]
impl Checker for FakeChecker {
    async fn check(&self, request: &CheckRequest) -> Result<String, Fault> {
        let about = About::new(Call::Check, &request.service, &request.instance.id, None);
        self.0.call(about, "passed".to_string(), |_| Ok(String::new())).await?;
        let end = Instant::now() + request.checks.within.duration();
        loop {
            let behavior = self.0.state().behavior(&request.revision);
            let listens = self.0.state().vouch(&request.service, &request.instance.id).is_ok();
            let why = match behavior.unhealthy {
                Some(why) => why,
                None if listens && behavior.exits.is_none() => return Ok("GET /health passed".to_string()),
                None => "connection refused".to_string(),
            };
            if Instant::now() >= end {
                return Err(Fault::candidate(format!("GET /health: {why} for {}", request.checks.within)));
            }
            sleep(Duration::from_millis(50)).await;
        }
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
