//! The conformance suite: the same cases against every edge, fake or real.
//!
//! An edge's tests give a fixture and print what came back; a case that breaks says which promise, and how.

mod platform;
mod processes;
mod router;

use std::time::Duration;

pub use platform::{PlatformFixture, platform_cases};
pub use router::{RouterFixture, router_cases};

use cutover_core::{After, Fault, Fence};

/// How long an edge may take to show what was asked for.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// Gives out fences in rising order.
struct Fences(u64);

impl Fences {
    fn next(&mut self) -> Fence {
        self.0 += 1;
        Fence { epoch: 5, sequence: self.0 }
    }

    /// A fence below all that were given out.
    fn old() -> Fence {
        Fence { epoch: 4, sequence: 1_000_000 }
    }
}

fn check(holds: bool, promise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(promise.to_string()) }
}

fn fine<T>(answer: Result<T, Fault>, doing: &str) -> Result<T, String> {
    answer.map_err(|fault| format!("failed to {doing}: {fault} ({:?})", fault.after))
}

fn fenced<T>(answer: Result<T, Fault>, doing: &str) -> Result<(), String> {
    match answer {
        Err(fault) if fault.after == After::Fenced => Ok(()),
        Err(fault) => {
            Err(format!("{doing} with an old fence is refused as fenced, was: {fault} ({:?})", fault.after))
        }
        Ok(_) => Err(format!("{doing} with an old fence is refused")),
    }
}

/// Looks again and again until `seen` gives something; what it last said otherwise.
async fn eventually<T, F>(promise: &str, mut seen: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match seen().await {
            Ok(value) => return Ok(value),
            Err(last) if tokio::time::Instant::now() >= end => {
                return Err(format!("{promise}, within {} s: {last}", PATIENCE.as_secs()));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
