//! SIGKILL of each process of a release at chosen points of its journal, for each strategy, under mixed load.
//!
//! The server stops itself at the point (`CUTOVER_TEST_STOP`), the victim is killed, the server goes on: so the moment is
//! exact on any machine. Every run begins at another point; it is printed, and `CUTOVER_TEST_POINT` chooses it again.

use std::process::{Child, Stdio};

use cutover_bench::load::{Kind, Report};
use rustix::process::Signal;

use crate::harness::{Said, Scratch, alive, get, kill, servers_wanted, wait};
use crate::service::{Shop, finish, load, pids, whole};

const CANARY: &str = "strategy: {canary: {weights: [25%, 100%], bake: 300ms}}";
const ROLLING: &str = "strategy: {rolling: {max_surge: 1, max_unavailable: 0, bake: 300ms}}";
const MORE: &str = "bake: 300ms\nguard: {success: 95%}\nkeep_warm: 200ms\ndrain: 8s";
/// From one chosen point to the next: a release has about thirty.
const STRIDE: usize = 8;
/// Clients of the load: so many requests may be in flight at a time.
const CLIENTS: u64 = 10;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Server,
    Worker,
    Holder,
    Stable,
    Candidate,
}

struct Run {
    scratch: Scratch,
    strategy: &'static str,
    version: u32,
    killed: u64,
}

impl Run {
    fn new(strategy: &'static str) -> Run {
        let run = Run { scratch: Scratch::new(), strategy, version: 0, killed: 0 };
        run.file();
        run.scratch.deploy().expect(0);
        whole(&run.scratch, 3);
        run
    }

    fn file(&self) {
        let version = format!("v{}", self.version);
        let more = format!("{}\n{MORE}", self.strategy);
        Shop { version: &version, replicas: 3, more: &more, ..Shop::default() }.file(&self.scratch);
    }

    /// Kills the victim at that point of the next release; tells whether the release came that far.
    fn at(&mut self, victim: Victim, point: usize) -> bool {
        let scratch = &self.scratch;
        scratch.run(&["server", "stop"]).expect(0);
        let when = if point.is_multiple_of(2) { "before" } else { "after" };
        let variable = if victim == Victim::Server { "CUTOVER_TEST_DIE" } else { "CUTOVER_TEST_STOP" };
        let mut server = scratch.command(&["server"]);
        server.env(variable, format!("{when}:{point}")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = server.spawn().unwrap();
        wait("the server to listen", || scratch.state().join("server.sock").exists().then_some(()));
        let stable = get(scratch.address, "/").unwrap().1.trim().to_string();
        self.version += 1;
        self.file();
        let scratch = &self.scratch;
        let mut deploy = scratch.spawn(&["deploy"]);
        let hit = stops(scratch, server.id().cast_signed(), &mut deploy);
        if hit && victim != Victim::Server {
            for pid in victims(scratch, victim, &stable, &format!("v{}", self.version)) {
                kill(pid, Signal::KILL);
                wait("the victim to be dead", || (!alive(pid)).then_some(()));
                self.killed += 1;
            }
            kill(server.id().cast_signed(), Signal::CONT);
        }
        let said: Said = deploy.wait_with_output().unwrap().into();
        // Released, refused, taken back: all of them leave the service whole. With the server the question dies too.
        let fine =
            [0, 3, 4].contains(&said.code) || (victim == Victim::Server && [1, 8].contains(&said.code));
        assert!(fine, "{victim:?} {when}:{point}: {said:?}");
        whole(scratch, 3);
        if hit {
            println!("{victim:?} {when}:{point}: exit code {}", said.code);
        }
        kill(server.id().cast_signed(), Signal::TERM);
        server.wait().unwrap();
        hit
    }
}

/// Waits until the server stops or dies at its point; false: the release came to its end, tail and all, without.
fn stops(scratch: &Scratch, server: i32, deploy: &mut Child) -> bool {
    let mut asked: Option<Child> = None;
    wait("the point, or the end of the release", || {
        if matches!(state(server), 'T' | 'Z') {
            // It would wait for the stopped server.
            if let Some(mut child) = asked.take() {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            return Some(true);
        }
        deploy.try_wait().unwrap()?;
        let child = asked.get_or_insert_with(|| scratch.spawn(&["status", "--output", "json"]));
        child.try_wait().unwrap()?;
        let said: Said = asked.take()?.wait_with_output().unwrap().into();
        let service = &said.expect(0).json()["services"][0]["service"];
        (service["current"].is_null() && service["tails"].as_array()?.is_empty()).then_some(false)
    })
}

/// The state of a process, as the kernel's letter.
fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('Z')
}

/// Of instances the first one: the others must do without it.
fn victims(scratch: &Scratch, victim: Victim, stable: &str, candidate: &str) -> Vec<i32> {
    match victim {
        Victim::Server => Vec::new(),
        Victim::Worker => vec![scratch.proxy_pids().1],
        Victim::Holder => vec![scratch.proxy_pids().0],
        Victim::Stable => pids(scratch, stable).into_iter().take(1).collect(),
        Victim::Candidate => pids(scratch, candidate).into_iter().take(1).collect(),
    }
}

/// Kills the victim at every `STRIDE`th point of releases of both strategies. Returns what the clients saw, and how many
/// died.
fn everywhere(victim: Victim) -> Vec<(Report, u64)> {
    if !servers_wanted(&format!("points: {victim:?}")) {
        return Vec::new();
    }
    let first = std::env::var("CUTOVER_TEST_POINT").ok().and_then(|point| point.parse().ok());
    let first = first.unwrap_or_else(|| fastrand::usize(..STRIDE));
    println!("{victim:?}: points {first} and every {STRIDE}th after it");
    let each = [CANARY, ROLLING].map(|strategy| {
        let mut run = Run::new(strategy);
        let load = load(&run.scratch);
        let reached = (0..20).take_while(|n| run.at(victim, first + n * STRIDE)).count();
        assert!(reached >= 2, "{strategy}: a release has more than {reached} such points");
        let report = finish(&run.scratch, load);
        println!("{victim:?}: {} died", run.killed);
        (report, run.killed)
    });
    each.into()
}

fn nothing_failed(victim: Victim) {
    for (report, _) in everywhere(victim) {
        assert_eq!(report.failed(), 0, "{report}");
    }
}

/// Only what was in flight on what died may fail: nothing is refused, no POST lost or doubled.
fn only_in_flight(victim: Victim) {
    for (report, killed) in everywhere(victim) {
        assert!(report.failed() <= killed * CLIENTS, "{report}");
        let receipts = report.receipts.unwrap();
        assert_eq!((receipts.twice, receipts.never), (0, 0), "{report}");
        for kind in Kind::ALL {
            for failure in report.kind(kind).failures {
                assert!(!failure.text.contains("refused"), "{failure:?}");
            }
        }
    }
}

#[test]
fn the_server() {
    nothing_failed(Victim::Server);
}

#[test]
fn the_holder() {
    nothing_failed(Victim::Holder);
}

#[test]
fn the_worker() {
    only_in_flight(Victim::Worker);
}

#[test]
fn an_instance_of_stable() {
    only_in_flight(Victim::Stable);
}

#[test]
fn an_instance_of_the_candidate() {
    only_in_flight(Victim::Candidate);
}
