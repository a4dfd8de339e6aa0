//! The tests' own service: this test binary, run again as the service of the load library. Its load, and what must be
//! there when all is calm again.

use std::fs;
use std::time::Duration;

use cutover_bench::load::{Load, Mix, Options, Pace, Report};
use serde_json::Value;

use crate::harness::{PATIENCE, Scratch, wait};

/// Not a test of anything by itself: the entry point when an instance runs this binary.
#[test]
fn entry() {
    if std::env::var_os("E2E_SERVICE").is_some() {
        std::process::exit(i32::from(cutover_bench::service::run().unwrap_or(1)));
    }
}

/// The service at a version; the other fields are what differs from a plain one of two instances.
pub(crate) struct Shop<'a> {
    pub(crate) version: &'a str,
    pub(crate) replicas: u32,
    /// More keys of `platform.local`, each with a comma in front.
    pub(crate) local: &'a str,
    /// More variables, each with a comma in front.
    pub(crate) env: &'a str,
    /// A script that runs before the service does, in the same process.
    pub(crate) before: &'a str,
    /// More lines of the file.
    pub(crate) more: &'a str,
}

impl Default for Shop<'_> {
    fn default() -> Self {
        Shop { version: "v1", replicas: 2, local: "", env: "", before: "", more: "" }
    }
}

impl Shop<'_> {
    /// Writes the release file.
    pub(crate) fn file(&self, scratch: &Scratch) {
        let exe = std::env::current_exe().unwrap();
        let received = scratch.path().join("received.txt");
        fs::OpenOptions::new().create(true).append(true).open(&received).unwrap();
        let Shop { version, replicas, local, env, before, more } = self;
        let program = if before.is_empty() {
            format!("'{}'", exe.display())
        } else {
            format!("sh, -c, '{before}; exec \"$0\" \"$@\"', '{}'", exe.display())
        };
        let local = format!(
            "command: [{program}, '--exact', 'service::entry', '--nocapture'], replicas: {replicas}, \
             stop_grace: 10s, env: {{E2E_SERVICE: '1', VERSION: {version}, RECEIVED: '{}', TROUBLE: '{}'{env}}}{local}",
            received.display(),
            trouble_file(scratch, version).display()
        );
        scratch.file(
            &local,
            &format!("checks: {{health: [{{path: /health, interval: 100ms}}], within: 30s}}\n{more}"),
        );
    }
}

/// Writes the release file of two plain instances at `version`.
pub(crate) fn file(scratch: &Scratch, version: &str, env: &str, more: &str) {
    Shop { version, env, more, ..Shop::default() }.file(scratch);
}

fn trouble_file(scratch: &Scratch, version: &str) -> std::path::PathBuf {
    scratch.path().join(format!("trouble-{version}"))
}

/// Orders trouble of all instances of `version`, from their next request on.
pub(crate) fn trouble(scratch: &Scratch, version: &str, order: &str) {
    fs::write(trouble_file(scratch, version), order).unwrap();
}

/// Starts a mixed load, and waits until it runs.
pub(crate) fn load(scratch: &Scratch) -> Load {
    let options =
        Options::new(scratch.address, "shop.localhost").mix(Mix::small()).pace(Pace::PerSecond(150.0));
    let load = Load::start(options);
    assert!(load.wait_for(60, Duration::from_secs(30)), "the load does not get going: {}", load.report());
    load
}

/// Waits until so many more requests were answered.
pub(crate) fn more(load: &Load, requests: u64) {
    let sent = load.report().sent();
    assert!(load.wait_for(sent + requests, Duration::from_secs(60)), "the load stands still");
}

/// Stops the load, and checks its POSTs.
pub(crate) fn finish(scratch: &Scratch, load: Load) -> Report {
    let mut report = load.stop();
    report.check_received(&[scratch.path().join("received.txt")]).unwrap();
    println!("{report}");
    report
}

/// Returns what `status` says of the service; none while no server can be asked.
pub(crate) fn status(scratch: &Scratch) -> Option<Value> {
    // A server may die with the very question.
    let said = scratch.run(&["status", "--output", "json"]);
    (said.code == 0).then(|| said.json()["services"][0].clone())
}

/// Waits until the release under way bakes with that much traffic.
pub(crate) fn bakes_at(scratch: &Scratch, weight: &str) {
    wait(&format!("the bake at {weight}"), || {
        let status = status(scratch)?;
        let current = &status["service"]["current"];
        let tracks = status["router"]["tracks"].as_array()?;
        let mine = tracks.iter().find(|track| track["revision"] == current["candidate"])?;
        (current["step"] == "bake" && mine["weight"] == weight).then_some(())
    });
}

/// Nothing is under way, nothing is left of anything but stable: all its instances, all traffic. Returns stable.
pub(crate) fn settled(scratch: &Scratch, replicas: usize) -> String {
    let begun = std::time::Instant::now();
    loop {
        let now = status(scratch);
        match now.as_ref().and_then(|service| calm(service, replicas)) {
            Some(stable) => return stable,
            None => assert!(begun.elapsed() < PATIENCE, "neither finished nor back: {now:#?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn calm(service: &Value, replicas: usize) -> Option<String> {
    let quiet = service["service"]["current"].is_null()
        && service["service"]["tails"].as_array().is_some_and(Vec::is_empty);
    let tracks = service["router"]["tracks"].as_array()?;
    let revisions = service["revisions"].as_array()?;
    let one = tracks.len() == 1 && tracks[0]["weight"] == "100%" && revisions.len() == 1;
    let running = |revision: &Value| {
        let instances = revision["instances"].as_array();
        instances.map_or(0, |all| all.iter().filter(|one| one["state"] == "running").count())
    };
    let whole = one && running(&revisions[0]) == replicas;
    let stable = service["service"]["stable"].as_str()?;
    (quiet && whole && tracks[0]["revision"] == stable && revisions[0]["revision"] == stable)
        .then(|| stable.to_string())
}

/// The instances that really run, by what the kernel says, not by what cutover believes.
pub(crate) fn instances(scratch: &Scratch) -> usize {
    scratch.processes().iter().filter(|(_, command)| command.contains("service::entry")).count()
}

/// The processes of the instances at `version`.
pub(crate) fn pids(scratch: &Scratch, version: &str) -> Vec<i32> {
    let mark = format!("VERSION={version}");
    let of_version = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let all = scratch.processes().into_iter();
    all.filter(|(pid, command)| command.contains("service::entry") && of_version(*pid))
        .map(|(pid, _)| pid)
        .collect()
}

/// Waits until all is calm, and makes sure that no process is left over. Returns stable.
pub(crate) fn whole(scratch: &Scratch, replicas: usize) -> String {
    let stable = settled(scratch, replicas);
    assert_eq!(instances(scratch), replicas, "orphans beside {stable}: {:?}", scratch.processes());
    stable
}
