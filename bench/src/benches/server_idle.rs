//! What the server takes while nothing happens: a hundred services, three hundred instances.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cutover_proxy::{Client, TargetObservation};
use serde_json::{Value, json};

use super::release_time::free_address;
use super::scratch::{Scratch, said, side_by_side};
use super::usage::Usage;
use super::{Outcome, Setting};

const GOAL: &str =
    "server: < 1 % of a core and < 60 MiB of its own (Pss) with 100 services and 300 instances";
const SERVICES: usize = 100;
const REPLICAS: usize = 3;
const CORE_PERCENT: f64 = 1.0;
const MEMORY_MIB: f64 = 60.0;
/// What the releases left to do, journals and pools of threads, is over by then.
const CALM: Duration = Duration::from_secs(12);
/// Each instance is asked by the proxy this often.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// A process over the window.
struct Idle {
    name: &'static str,
    core_percent: f64,
    wakes_per_s: f64,
    at_end: Usage,
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let window = Duration::from_secs(if setting.quick { 10 } else { 60 });
    let scratch = Scratch::new(setting.cutover()?)?;
    let begun = Instant::now();
    release_all(&scratch)?;
    println!(
        "{SERVICES} services with {} instances released in {:.1} s",
        SERVICES * REPLICAS,
        begun.elapsed().as_secs_f64()
    );
    ensure!(scratch.calm(Duration::from_secs(30))?, "the tails of the releases do not end");
    tokio::time::sleep(CALM).await;
    let client = Client::new(scratch.state().join("proxy"));
    let hello = client.hello().await?;
    let server = std::fs::read_to_string(scratch.state().join("server.lock"))?;
    let server = server.trim().parse().context("server.lock names the server's process")?;
    let holder = hello.holder_pid.context("the proxy has a holder")?;
    let processes = [("server", server), ("proxy's holder", holder), ("proxy's worker", hello.worker_pid)];
    let asked_before = asked(&client).await?;
    let before = processes.iter().map(|(_, pid)| Usage::of(*pid)).collect::<Result<Vec<_>>>()?;
    let watched = Instant::now();
    tokio::time::sleep(window).await;
    let seconds = watched.elapsed().as_secs_f64();
    let mut idle = Vec::new();
    for ((name, pid), before) in processes.iter().zip(before) {
        let at_end = Usage::of(*pid)?;
        idle.push(Idle {
            name,
            core_percent: (at_end.cpu_us - before.cpu_us) / seconds / 1e4,
            // A thread that ended meanwhile took its count along.
            wakes_per_s: at_end.wakes.saturating_sub(before.wakes) as f64 / seconds,
            at_end,
        });
    }
    let checks = Checks::between(&asked_before, &asked(&client).await?);
    // Each target once per interval, give or take the ends of the window.
    let least =
        SERVICES as u64 * REPLICAS as u64 * ((seconds / CHECK_EVERY.as_secs_f64()) as u64).max(1) * 9 / 10;
    ensure!(checks.asked >= least, "the proxy asked {} times, at least {least} were due", checks.asked);
    ensure!(checks.down == 0, "{} targets are down by their checks", checks.down);
    let running = running(&scratch)?;
    ensure!(running == SERVICES * REPLICAS, "{running} instances run at the end, not all");
    Ok(tell(&idle, seconds, &checks))
}

/// What the proxy asked over the window.
struct Checks {
    asked: u64,
    down: usize,
}

impl Checks {
    fn between(before: &[TargetObservation], after: &[TargetObservation]) -> Checks {
        let sum = |targets: &[TargetObservation]| targets.iter().map(|target| target.asked).sum::<u64>();
        Checks {
            asked: sum(after).saturating_sub(sum(before)),
            down: after.iter().filter(|target| !target.up).count(),
        }
    }
}

async fn asked(client: &Client) -> Result<Vec<TargetObservation>> {
    let seen = client.observe().await?;
    Ok(seen.services.into_values().flat_map(|service| service.targets).collect())
}

/// Releases every service, a few at a time.
fn release_all(scratch: &Scratch) -> Result<()> {
    let listen = free_address()?;
    let program = std::env::current_exe()?;
    let mut files = Vec::new();
    for number in 1..=SERVICES {
        let name = format!("idle-{number:03}");
        let text = format!(
            "service: {name}\n\
             platform:\n  local:\n    command: [\"{}\", service]\n    replicas: {REPLICAS}\n    stop_grace: 10s\n    \
             env: {{VERSION: \"1\"}}\n\
             route:\n  - proxy: {{listen: \"{listen}\", host: {name}.test, checks: {{interval: {}s}}}}\n\
             checks: {{health: [{{path: /health}}]}}\n\
             bake: 0s\nkeep_warm: 0s\ndrain: 2s\n",
            program.display(),
            CHECK_EVERY.as_secs(),
        );
        let path = scratch.path().join(format!("{name}.yaml"));
        std::fs::write(&path, text)?;
        files.push(path);
    }
    // The first starts server and proxy.
    let deploy = |file: &PathBuf| {
        let output = scratch.run(&["deploy", "-f", &file.display().to_string()])?;
        match output.status.success() {
            true => Ok(()),
            false => bail!("{} ended with {}: {}", file.display(), output.status, said(&output)),
        }
    };
    deploy(&files[0])?;
    let failed: Mutex<Vec<anyhow::Error>> = Mutex::default();
    side_by_side(&files[1..], |file| {
        if let Err(error) = deploy(file) {
            failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(error);
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.pop().map_or(Ok(()), |error| {
        Err(error.context(format!("{} services were not released", failed.len() + 1)))
    })
}

/// Counts the instances that run.
fn running(scratch: &Scratch) -> Result<usize> {
    let status = scratch.status()?;
    let services = status["services"].as_array().context("the status lists services")?;
    let revisions = services.iter().filter_map(|service| service["revisions"].as_array()).flatten();
    let instances = revisions.filter_map(|revision| revision["instances"].as_array()).flatten();
    Ok(instances.filter(|instance| instance["state"] == "running").count())
}

fn tell(idle: &[Idle], seconds: f64, checks: &Checks) -> Outcome {
    println!(
        "\n  {:<16} {:>12} {:>12} {:>9} {:>9} {:>9}",
        format!("{seconds:.0} s idle"),
        "% of a core",
        "wake-ups/s",
        "Pss MiB",
        "Rss MiB",
        "threads"
    );
    for one in idle {
        let at = &one.at_end;
        println!(
            "  {:<16} {:>12.2} {:>12.1} {:>9.1} {:>9.1} {:>9}",
            one.name, one.core_percent, one.wakes_per_s, at.pss_mib, at.rss_mib, at.threads
        );
    }
    println!("  meanwhile the proxy asked {} times: each instance every {CHECK_EVERY:?}", checks.asked);
    let [server, rest @ ..] = idle else { unreachable!("the server is measured first") };
    let numbers = |one: &Idle| -> Value {
        let round = |number: f64| (number * 100.0).round() / 100.0;
        json!({
            "core_percent": round(one.core_percent),
            "wakes_per_s": round(one.wakes_per_s),
            "pss_mib": round(one.at_end.pss_mib),
            "rss_mib": round(one.at_end.rss_mib),
            "threads": one.at_end.threads,
        })
    };
    let proxy = rest.iter().map(|one| (one.name.to_owned(), numbers(one))).collect();
    Outcome {
        bench: "server-idle",
        ours: json!({
            "services": SERVICES,
            "instances": SERVICES * REPLICAS,
            "seconds": seconds.round(),
            "server": numbers(server),
            "proxy": Value::Object(proxy),
            "checks_by_the_proxy": checks.asked,
        }),
        peers: json!({}),
        // By the limit: there is no peer.
        ratio: Some((server.core_percent / CORE_PERCENT * 100.0).round() / 100.0),
        goal: GOAL,
        holds: server.core_percent < CORE_PERCENT && server.at_end.pss_mib < MEMORY_MIB,
    }
}
