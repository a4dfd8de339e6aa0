//! The benchmarks: each prints a table for people and ends with one JSON line.
//!
//! A number that is not reached is a result, not an error: `holds` says so and the exit code stays 0.

mod backwards;
mod beside;
mod certificate;
mod first_run;
mod haproxy;
mod judge_live;
mod load_generator;
mod nginx;
mod numbers;
mod proxies;
mod proxy_counting;
mod proxy_cpu;
mod proxy_h2;
mod proxy_latency;
mod proxy_memory;
mod proxy_overload;
mod proxy_upgrade;
mod release_time;
mod releases;
mod rises;
mod rollback;
mod scratch;
mod server_idle;
mod services;
mod shifts;
mod switches;
mod told;
mod usage;
mod wire;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

pub(crate) use beside::echo as pipe_echo;
pub(crate) use load_generator::send as load;
pub(crate) use wire::{copy, origin, origin_h2, relay, stall, worker};

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    /// Shifts and whole releases under mixed load: what fails, how fast a shift is acknowledged
    Switches,
    /// How long a release of an instantly ready service takes beyond the service's own start
    ReleaseTime,
    /// From a fresh clone to the end of `cargo demo`
    FirstRun,
    /// What the server takes with a hundred services while nothing happens
    ServerIdle,
    /// How fast the candidate's traffic is gone: by its guard, and by a person
    Rollback,
    /// The judge in the proxy: canaries that fail, and good ones that rise by themselves
    JudgeLive,
    /// Processor time of one proxied request, beside nginx, HAProxy, Caddy, a bare hyper and a relay that copies
    ProxyCpu,
    /// Processor time of counting and judging a request: the proxy beside itself, built without
    ProxyCounting,
    /// HTTP/2 streams and gRPC calls per second of processor time, beside nginx and HAProxy
    ProxyH2,
    /// What a proxied request waits longer, at half of the peers' peak, beside nginx, HAProxy and Caddy
    ProxyLatency,
    /// Three times as many requests as a service can take, beside HAProxy
    ProxyOverload,
    /// What fails while the proxy is put in its own place again and again
    ProxyUpgrade,
    /// Memory with many idle connections, and with many requests that nobody answers
    ProxyMemory,
    /// Processor time of sending a request, beside oha and wrk
    LoadGenerator,
}

/// How a benchmark is run.
pub(crate) struct Setting {
    pub(crate) quick: bool,
    pub(crate) cutover: Option<PathBuf>,
    pub(crate) repository: PathBuf,
}

impl Setting {
    /// Returns the cutover binary to measure.
    fn cutover(&self) -> Result<PathBuf> {
        let own = std::env::current_exe().context("failed to find this program")?;
        let path = self.cutover.clone().unwrap_or_else(|| own.with_file_name("cutover"));
        ensure!(path.exists(), "no cutover at {}; build it, or name one with --cutover", path.display());
        Ok(std::path::absolute(path)?)
    }
}

/// The last line of a benchmark.
#[derive(Debug, Serialize)]
struct Outcome {
    bench: &'static str,
    ours: Value,
    peers: Value,
    /// Ours by the first peer, or by the limit where there is no peer.
    ratio: Option<f64>,
    goal: &'static str,
    holds: bool,
}

/// Runs a benchmark.
pub(crate) fn run(name: Name, setting: &Setting) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = match name {
        Name::Switches => runtime.block_on(switches::run(setting))?,
        Name::ReleaseTime => release_time::run(setting)?,
        Name::FirstRun => first_run::run(setting)?,
        Name::Rollback => rollback::run(setting)?,
        Name::JudgeLive => runtime.block_on(judge_live::run(setting))?,
        Name::ProxyCpu => runtime.block_on(proxy_cpu::run(setting))?,
        Name::ProxyCounting => runtime.block_on(proxy_counting::run(setting))?,
        Name::ProxyH2 => runtime.block_on(proxy_h2::run(setting))?,
        Name::ProxyLatency => runtime.block_on(proxy_latency::run(setting))?,
        Name::ProxyOverload => runtime.block_on(proxy_overload::run(setting))?,
        Name::ProxyUpgrade => runtime.block_on(proxy_upgrade::run(setting))?,
        Name::ProxyMemory => runtime.block_on(proxy_memory::run(setting))?,
        Name::LoadGenerator => load_generator::run(setting)?,
        Name::ServerIdle => runtime.block_on(server_idle::run(setting))?,
    };
    println!("\ngoal: {} — {}", outcome.goal, if outcome.holds { "holds" } else { "NOT reached" });
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
