//! The way back: a candidate that fails under its guard, and `cutover rollback` while the predecessor is warm.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cutover_bench::load::{Load, Mix, Options, Pace, Report};
use serde_json::{Value, json};

use super::backwards::{Backs, Trips};
use super::haproxy::HaProxy;
use super::nginx::Nginx;
use super::numbers::Spread;
use super::release_time::free_address;
use super::releases::HOST;
use super::scratch::{Scratch, said};
use super::services::Revision;
use super::{Outcome, Setting};

const GOAL: &str = "0 requests assigned to the candidate after the outcome that decides, or after `cutover rollback` \
                    returned; 0 requests failed by the way back";
/// So many failures decide: `guard.min_requests` of cutover, `error-limit` of HAProxy.
const DECIDES: u64 = 20;
const RATE: f64 = 600.0;
const MIX: Mix = Mix {
    get_kept: 6,
    get_new: 2,
    post: 0,
    slow_upload: 0,
    slow_download: 0,
    websocket: 0,
    http2: 0,
    grpc: 0,
    sticky: 0,
};
const ROLLED_BACK: i32 = 4;
/// Requests over both revisions before a way back begins.
const BEFORE: Duration = Duration::from_millis(150);

struct Extent {
    trips: usize,
    rollbacks: usize,
    peers: usize,
}

const FULL: Extent = Extent { trips: 25, rollbacks: 40, peers: 60 };
const QUICK: Extent = Extent { trips: 4, rollbacks: 6, peers: 8 };

/// What one side came to.
struct Side {
    name: &'static str,
    trips: Option<Trips>,
    backs: Backs,
    sent: u64,
    failed: u64,
}

pub(super) fn run(setting: &Setting) -> Result<Outcome> {
    let extent = if setting.quick { QUICK } else { FULL };
    let scratch = Scratch::new(setting.cutover()?)?;
    let listen = free_address()?;
    write(&scratch, listen, "v0", "")?;
    scratch.succeed(&["deploy"])?;
    println!(
        "cutover on {listen}: {RATE} requests a second, {} trips and {} rollbacks",
        extent.trips, extent.rollbacks
    );
    let mut sides = vec![ours(&scratch, listen, &extent)?];
    let received = scratch.path().join("received.txt");
    let stable = Revision::start("stable", 1, &received)?;
    let good = Revision::start("good", 1, &received)?;
    let bad = Revision::start_with("bad", 1, &received, &[("FAIL_AFTER", "0")])?;
    let servers = [&stable, &good, &bad].map(|revision| revision.addresses[0]);
    let haproxy = || HaProxy::start(scratch.path(), &setting.repository, servers, DECIDES);
    sides.extend(haproxys(haproxy, &extent)?);
    if let Some(nginx) = Nginx::start(scratch.path(), &setting.repository, &good)? {
        sides.push(nginxs(&nginx, &[&stable, &good], extent.peers)?);
    }
    Ok(tell(&sides))
}

/// Writes a release file of the test service; a version of its own is a revision of its own.
fn write(scratch: &Scratch, listen: SocketAddr, version: &str, more: &str) -> Result<()> {
    let program = std::env::current_exe()?;
    let fails = if version.starts_with("bad") { ", FAIL_AFTER: \"0\"" } else { "" };
    let text = format!(
        "service: bench\n\
         platform:\n  local:\n    command: [\"{}\", service]\n    stop_grace: 10s\n    \
         env: {{VERSION: {version}{fails}}}\n\
         route:\n  - proxy: {{listen: \"{listen}\", host: {HOST}}}\n\
         checks: {{health: [{{path: /health}}]}}\n\
         keep_warm: 10m\ndrain: 2s\n{more}",
        program.display(),
    );
    Ok(std::fs::write(scratch.path().join("cutover.yaml"), text)?)
}

fn ours(scratch: &Scratch, listen: SocketAddr, extent: &Extent) -> Result<Side> {
    let load = start_load(listen)?;
    let (mut tripped, mut rolled) = (Vec::new(), Vec::new());
    for number in 0..extent.trips {
        let version = format!("bad{number}");
        let more = format!(
            "bake: 20s\nguard: {{success: 99%, min_requests: {DECIDES}}}\nstrategy: {{canary: {{weights: [25%, 100%], bake: 20s}}}}\n"
        );
        write(scratch, listen, &version, &more)?;
        let output = scratch.run(&["deploy"])?;
        let end = load.now_us();
        ensure!(
            output.status.code() == Some(ROLLED_BACK),
            "a bad candidate ended with {}: {}",
            output.status,
            said(&output)
        );
        tripped.push((version, end));
    }
    for number in 0..extent.rollbacks {
        let version = format!("good{number}");
        write(scratch, listen, &version, "bake: 0s\n")?;
        scratch.succeed(&["deploy"])?;
        std::thread::sleep(BEFORE);
        let begin = load.now_us();
        scratch.succeed(&["rollback"])?;
        rolled.push((version, begin, load.now_us()));
        std::thread::sleep(BEFORE);
    }
    let report = load.stop();
    let mut trips = Trips::default();
    for (version, end) in tripped {
        trips.add(&report.timeline, &version, DECIDES, Some(end)).with_context(|| version.clone())?;
    }
    let mut backs = Backs::default();
    for (version, begin, end) in rolled {
        backs.add(&report.timeline, &version, begin, end, u64::MAX);
    }
    Ok(side("cutover", Some(trips), backs, &report))
}

/// None: it is not installed.
fn haproxys(start: impl Fn() -> Result<Option<HaProxy>>, extent: &Extent) -> Result<Option<Side>> {
    let (mut trips, mut backs) = (Trips::default(), Backs::default());
    let (mut sent, mut failed) = (0, 0);
    for _ in 0..extent.trips {
        // Each trip has an HAProxy of its own: the last one counts on with what was in flight when it tripped.
        let Some(haproxy) = start()? else { return Ok(None) };
        let load = start_load(haproxy.address)?;
        // A quarter for the candidate, as with cutover.
        haproxy.weigh(&[("bad", 64)])?;
        let waited = Instant::now();
        while load.answers("bad") < DECIDES {
            ensure!(waited.elapsed() < Duration::from_secs(10), "haproxy gives its candidate no requests");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(BEFORE);
        let report = load.stop();
        trips.add(&report.timeline, "bad", DECIDES, None).context("haproxy")?;
        (sent, failed) = (sent + report.sent(), failed + report.failed());
    }
    let Some(haproxy) = start()? else { return Ok(None) };
    let load = start_load(haproxy.address)?;
    let mut rolled = Vec::new();
    for _ in 0..extent.peers {
        haproxy.weigh(&[("good", 192), ("stable", 0)])?;
        std::thread::sleep(BEFORE);
        let begin = load.now_us();
        haproxy.weigh(&[("stable", 192), ("good", 0)])?;
        let end = load.now_us();
        std::thread::sleep(BEFORE);
        rolled.push((begin, end, load.now_us()));
    }
    let report = load.stop();
    for (begin, end, until) in rolled {
        backs.add(&report.timeline, "good", begin, end, until);
    }
    (sent, failed) = (sent + report.sent(), failed + report.failed());
    Ok(Some(Side { name: "haproxy", trips: Some(trips), backs, sent, failed }))
}

fn nginxs(nginx: &Nginx, revisions: &[&Revision; 2], count: usize) -> Result<Side> {
    let load = start_load(nginx.address)?;
    let mut rolled = Vec::new();
    for _ in 0..count {
        nginx.reload(revisions[1])?;
        std::thread::sleep(BEFORE);
        let begin = load.now_us();
        nginx.reload(revisions[0])?;
        let end = load.now_us();
        std::thread::sleep(BEFORE);
        rolled.push((begin, end, load.now_us()));
    }
    let report = load.stop();
    let mut backs = Backs::default();
    for (begin, end, until) in rolled {
        backs.add(&report.timeline, revisions[1].version, begin, end, until);
    }
    Ok(side("nginx", None, backs, &report))
}

fn side(name: &'static str, trips: Option<Trips>, backs: Backs, report: &Report) -> Side {
    Side { name, trips, backs, sent: report.sent(), failed: report.failed() }
}

fn start_load(address: SocketAddr) -> Result<Load> {
    let mut options = Options::new(address, HOST).mix(MIX).pace(Pace::PerSecond(RATE));
    options.timeline = true;
    let load = Load::start(options);
    ensure!(load.wait_for(50, Duration::from_secs(20)), "the load does not get going:\n{}", load.report());
    Ok(load)
}

fn tell(sides: &[Side]) -> Outcome {
    println!("\n{}", Spread::head("a candidate at 25 % fails every request"));
    for (side, trips) in sides.iter().filter_map(|side| Some((side, side.trips.as_ref()?))) {
        println!("{}", trips.last.spread().row(&format!("{}: deciding answer to last answer", side.name)));
        if side.name == "cutover" {
            println!("{}", trips.told.spread().row("  to the end of `cutover deploy`"));
        }
        println!(
            "    {} trips; sent to the candidate after the deciding answer: {}; in flight then: {}; failed answers: {}",
            trips.count, trips.after, trips.in_flight, trips.answers
        );
    }
    println!("  nginx has no such trip: a server error is an answer to it");
    println!("\n{}", Spread::head("a person goes back from a good candidate"));
    for side in sides {
        let backs = &side.backs;
        println!("{}", backs.sent.spread().row(&format!("{}: start to last request sent there", side.name)));
        println!("{}", backs.answered.spread().row("  to its last answer"));
        println!("{}", backs.command.spread().row("  to the end of the command"));
        println!("    {} times; sent there after the command returned: {}", backs.count, backs.after);
    }
    for side in sides {
        println!("  {}: {} requests, {} failed", side.name, side.sent, side.failed);
    }
    println!("\n  documented, not measured here: {KAMAL}");
    let ours = &sides[0];
    let trips = ours.trips.as_ref();
    let after = trips.map_or(0, |trips| trips.after);
    let median = |side: &Side| side.backs.sent.median();
    // Ours by the first peer that takes any time at all.
    let peer = sides[1..].iter().map(median).find(|median| *median > 0.0);
    let mut peers: serde_json::Map<String, Value> =
        sides[1..].iter().map(|side| (side.name.to_owned(), side.json())).collect();
    peers.insert("kamal_proxy_documented".into(), json!(KAMAL));
    Outcome {
        bench: "rollback",
        ours: ours.json(),
        peers: Value::Object(peers),
        ratio: peer.map(|peer| (median(ours) / peer * 100.0).round() / 100.0),
        goal: GOAL,
        holds: after == 0 && ours.backs.after == 0 && ours.failed == 0,
    }
}

/// Read in the sources and documentation of Kamal 2.12.0 and kamal-proxy d929067; there is no package of it to measure.
const KAMAL: &str = "Kamal's `rollback VERSION` boots that version afresh if its container is kept (5 are): its start, one 2xx \
                     on /up (asked every second, up to 30 s), the switch of a pointer, a drain of up to 30 s; nothing \
                     watches live requests: a target whose /up answers 500 keeps all traffic";

impl Side {
    fn json(&self) -> Value {
        let trips = self.trips.as_ref().map(|trips| {
            json!({
                "count": trips.count,
                "sent_after_deciding": trips.after,
                "in_flight_when_decided": trips.in_flight,
                "failed_answers": trips.answers,
                "deciding_to_last_answer": trips.last.spread(),
                "deciding_to_command_end": trips.told.spread(),
            })
        });
        json!({
            "trips": trips,
            "rollbacks": {
                "count": self.backs.count,
                "sent_after_command": self.backs.after,
                "start_to_last_sent": self.backs.sent.spread(),
                "start_to_last_answer": self.backs.answered.spread(),
                "command": self.backs.command.spread(),
            },
            "requests": self.sent,
            "failed": self.failed,
        })
    }
}
