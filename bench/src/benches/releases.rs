//! Whole releases through the command line.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cutover_bench::load::Load;

use super::numbers::Samples;
use super::scratch::{Scratch, said};

pub(super) const HOST: &str = "releases.test";

/// A strategy and how a release file says it.
pub(super) struct Strategy {
    pub(super) name: &'static str,
    key: &'static str,
}

pub(super) const BLUE_GREEN: Strategy = Strategy { name: "blue_green", key: "{blue_green: {}}" };
const CANARY: Strategy =
    Strategy { name: "canary", key: "{canary: {weights: [25%, 50%, 100%], bake: 200ms}}" };
const ROLLING: Strategy =
    Strategy { name: "rolling", key: "{rolling: {max_surge: 1, max_unavailable: 0, bake: 200ms}}" };
pub(super) const STRATEGIES: [Strategy; 3] = [BLUE_GREEN, CANARY, ROLLING];

/// What the releases came to.
#[derive(Default)]
pub(super) struct Releases {
    pub(super) made: usize,
    /// What `cutover deploy` said when it did not end with 0.
    pub(super) wrong: Vec<String>,
    /// Wall time of `cutover deploy` when nothing else was under way.
    pub(super) took: Samples,
    /// The same when the release before still drained: its end is waited for.
    pub(super) took_behind: Samples,
}

/// Writes a release file of the test service.
pub(super) fn write_file(
    scratch: &Scratch,
    listen: SocketAddr,
    version: &str,
    replicas: u32,
    received: &Path,
    strategy: &Strategy,
) -> Result<()> {
    let program = std::env::current_exe()?;
    let text = format!(
        "service: bench\n\
         platform:\n  local:\n    command: [\"{}\", service]\n    replicas: {replicas}\n    stop_grace: 10s\n    \
         env: {{VERSION: {version}, RECEIVED: \"{}\"}}\n\
         route:\n  - proxy: {{listen: \"{listen}\", host: {HOST}}}\n\
         checks: {{health: [{{path: /health}}]}}\n\
         bake: 0s\nkeep_warm: 0s\ndrain: 2s\nstrategy: {}\n",
        program.display(),
        received.display(),
        strategy.key,
    );
    Ok(std::fs::write(scratch.path().join("cutover.yaml"), text)?)
}

/// Makes so many releases one after another, an even number, the versions r1 and r2 by turns; r2 runs before the first.
pub(super) fn make(
    scratch: &Scratch,
    listen: SocketAddr,
    received: &Path,
    strategy: &Strategy,
    count: usize,
    load: &Load,
) -> Result<Releases> {
    let mut releases = Releases::default();
    for number in 0..count {
        let version = if number % 2 == 0 { "r1" } else { "r2" };
        write_file(scratch, listen, version, 2, received, strategy)?;
        let behind = number % 2 == 0;
        if !behind && !scratch.calm(Duration::from_secs(30))? {
            bail!("the tail of release {} does not end", number - 1);
        }
        load.expect_version(None);
        let begun = Instant::now();
        let output = scratch.run(&["deploy"])?;
        let took = if behind { &mut releases.took_behind } else { &mut releases.took };
        took.add(begun.elapsed());
        if output.status.success() {
            releases.made += 1;
            load.expect_version(Some(version));
        } else {
            releases.wrong.push(format!("release {number} ended with {}: {}", output.status, said(&output)));
            if releases.wrong.len() > 5 {
                bail!("too many releases failed:\n{}", releases.wrong.join("\n"));
            }
        }
        std::thread::sleep(Duration::from_millis(50 + fastrand::u64(..200)));
    }
    load.expect_version(None);
    Ok(releases)
}
