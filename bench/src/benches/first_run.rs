//! What a newcomer waits for: from a fresh clone to the end of `cargo demo`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Outcome, Setting};

const GOAL_S: f64 = 240.0;

pub(super) fn run(setting: &Setting) -> Result<Outcome> {
    if setting.quick {
        println!("--quick changes nothing here: a build cannot be shorter than it is");
    }
    let scratch = tempfile::Builder::new().prefix("cutover-first-run-").tempdir()?;
    let (clone, target) = (scratch.path().join("cutover"), scratch.path().join("target"));
    let begun = Instant::now();
    let cloned = Command::new("git")
        .args(["clone", "--quiet"])
        .arg(fs::canonicalize(&setting.repository)?)
        .arg(&clone)
        .status()
        .context("failed to run git")?;
    ensure!(cloned.success(), "git clone ended with {cloned}");
    let clone_s = begun.elapsed().as_secs_f64();
    let cpu_before = children_cpu()?;
    // The whole output is shown: whoever waits wants to see what for.
    let demo = Command::new("cargo")
        .arg("demo")
        .current_dir(&clone)
        .env("CARGO_TARGET_DIR", &target)
        .stdin(Stdio::null())
        .status()
        .context("failed to run cargo")?;
    let whole_s = begun.elapsed().as_secs_f64();
    ensure!(demo.success(), "cargo demo ended with {demo}");
    let cpu_s = (children_cpu()? - cpu_before).as_secs_f64();
    // What cargo made last is the program; the demo's own time begins there.
    let built = fs::metadata(target.join("demo/cutover"))?.modified()?;
    let demo_s = built.elapsed().unwrap_or_default().as_secs_f64();
    let crates = crates(&target.join("demo/.fingerprint"))?;
    let cores = std::thread::available_parallelism()?.get();
    println!("\nfresh clone to the end of `cargo demo` on {cores} cores, crates' sources downloaded before");
    println!("  clone               {clone_s:>8.1} s");
    println!("  build               {:>8.1} s   {crates} crates", whole_s - clone_s - demo_s);
    println!("  demo                {demo_s:>8.1} s");
    println!("  whole               {whole_s:>8.1} s   of {GOAL_S} s");
    println!("  user CPU            {cpu_s:>8.1} s");
    let tenth = |s: f64| (s * 10.0).round() / 10.0;
    Ok(Outcome {
        bench: "first-run",
        ours: json!({
            "seconds": tenth(whole_s),
            "build_seconds": tenth(whole_s - clone_s - demo_s),
            "demo_seconds": tenth(demo_s),
            "user_cpu_seconds": tenth(cpu_s),
            "crates": crates,
            "cores": cores,
        }),
        peers: json!({}),
        ratio: Some((whole_s / GOAL_S * 100.0).round() / 100.0),
        goal: "fresh clone to finished `cargo demo` on 2 cores <= 240 s",
        holds: whole_s <= GOAL_S,
    })
}

/// Counts the crates that cargo compiled, build scripts apart.
fn crates(fingerprints: &Path) -> Result<usize> {
    let mut crates = BTreeSet::new();
    for entry in fs::read_dir(fingerprints)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_crate = fs::read_dir(entry.path())?.flatten().any(|file| {
            ["lib-", "bin-"].iter().any(|kind| file.file_name().to_string_lossy().starts_with(kind))
        });
        if is_crate {
            crates.insert(name);
        }
    }
    Ok(crates.len())
}

/// Returns the user CPU time of all children that have ended, theirs included.
fn children_cpu() -> Result<Duration> {
    let stat =
        fs::read_to_string("/proc/self/stat").context("failed to read the CPU time of the children")?;
    // After the command's name, which may hold anything but ends at the last bracket: state is field 3, cutime 16.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        rest.split_whitespace().nth(13).and_then(|ticks| ticks.parse().ok()).context("no cutime")?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}
