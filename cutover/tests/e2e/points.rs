//! SIGKILL of each process of a release at the points of its journal, for each strategy, under mixed load.
//!
//! The server stops itself at the point (`CUTOVER_TEST_STOP`), the victim is killed, the server goes on: so the moment is
//! exact on any machine. Server, holder and worker die at every point of one release. An instance dies once in a release,
//! which would else be about nothing but instances that die: at every point in CI, elsewhere at every sixth, from another one
//! on in each run, which is printed and which `CUTOVER_TEST_POINT` chooses again.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use cutover_bench::load::{Kind, Report};
use rustix::process::Signal;

use crate::harness::{Said, Scratch, alive, get, kill, servers_wanted, wait};
use crate::service::{Shop, finish, load, pids, whole};

const CANARY: &str = "strategy: {canary: {weights: [25%, 100%], bake: 300ms}}";
const ROLLING: &str = "strategy: {rolling: {max_surge: 1, max_unavailable: 0, bake: 300ms}}";
const MORE: &str = "bake: 300ms\nguard: {success: 95%}\nkeep_warm: 200ms\ndrain: 8s";
const BLUE_GREEN: &str = "strategy: {blue_green: {}}";
/// From one point to the next, where instances die and none says otherwise: a release has about thirty.
const STRIDE: usize = 6;
/// A release that dies and dies and never ends is none.
const MOST_DEATHS: usize = 300;
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

    /// Starts a server with this variable in its environment, where none runs.
    fn server(&self, variable: &str, value: &str) -> Child {
        let mut server = self.scratch.command(&["server"]);
        server.env(variable, value).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = server.spawn().unwrap();
        wait("the server to listen, or to be dead", || {
            (self.scratch.server_answers() == Some(server.id().cast_signed())
                || server.try_wait().unwrap().is_some())
            .then_some(())
        });
        server
    }

    fn next(&mut self) {
        self.version += 1;
        self.file();
    }

    fn kill(&mut self, victims: Vec<i32>) {
        for pid in victims {
            kill(pid, Signal::KILL);
            wait("the victim to be dead", || (!alive(pid)).then_some(()));
            self.killed += 1;
        }
    }

    /// Kills the victim at that point of the next release; tells whether the release came that far.
    fn at(&mut self, victim: Victim, point: usize) -> bool {
        self.scratch.run(&["server", "stop"]).expect(0);
        let when = if point.is_multiple_of(2) { "before" } else { "after" };
        let mut server = self.server("CUTOVER_TEST_STOP", &format!("{when}:{point}"));
        let stable = get(self.scratch.address, "/").unwrap().1.trim().to_string();
        self.next();
        let mut deploy = self.scratch.spawn(&["deploy"]);
        let hit = stops(&self.scratch, server.id().cast_signed(), &mut deploy);
        if hit {
            self.kill(victims(&self.scratch, victim, &stable, &format!("v{}", self.version)));
            kill(server.id().cast_signed(), Signal::CONT);
        }
        let said: Said = deploy.wait_with_output().unwrap().into();
        // Released, refused, taken back: all of them leave the service whole.
        assert!([0, 3, 4].contains(&said.code), "{victim:?} {when}:{point}: {said:?}");
        whole(&self.scratch, 3);
        if hit {
            println!("{victim:?} {when}:{point}: exit code {}", said.code);
        }
        kill(server.id().cast_signed(), Signal::TERM);
        server.wait().unwrap();
        hit
    }

    /// Kills the victim at every point of the next release; returns at how many.
    fn at_each(&mut self, victim: Victim, when: &str) -> usize {
        self.scratch.run(&["server", "stop"]).expect(0);
        let mut server = self.server("CUTOVER_TEST_STOP", &format!("{when}:each"));
        let pid = server.id().cast_signed();
        self.next();
        let mut deploy = self.scratch.spawn(&["deploy"]);
        let mut points = 0;
        while stops(&self.scratch, pid, &mut deploy) {
            points += 1;
            assert!(points < MOST_DEATHS, "{victim:?} {when}: the release never ends");
            self.kill(victims(&self.scratch, victim, "", ""));
            // The signal itself wakes it: from here on `T` is the next point.
            kill(pid, Signal::CONT);
        }
        let said: Said = deploy.wait_with_output().unwrap().into();
        assert!([0, 3, 4].contains(&said.code), "{victim:?} {when}: {said:?}");
        println!("{victim:?} died {when} each of {points} points: exit code {}", said.code);
        whole(&self.scratch, 3);
        kill(pid, Signal::TERM);
        server.wait().unwrap();
        points
    }

    /// Kills the server at every point of the next release, in the life of the server that comes to it; returns how often.
    fn of_the_server(&mut self) -> usize {
        self.scratch.run(&["server", "stop"]).expect(0);
        self.next();
        let mut server = self.server("CUTOVER_TEST_STOP", "after:0");
        let mut deploy = self.scratch.spawn(&["deploy", "--detach"]);
        wait("the release to be begun", || (state(server.id().cast_signed()) == 'T').then_some(()));
        // Before the server: a command that loses it starts another.
        for child in [&mut deploy, &mut server] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        for deaths in 1..MOST_DEATHS {
            // The first entry may be that of the recovery: a server that always dies there comes to nothing.
            let (when, point) = (["before", "after"][deaths % 2], deaths / 2 % 3);
            let mut server = self.server("CUTOVER_TEST_DIE", &format!("{when}:{point}"));
            let over = wait("the server to die, or to have nothing left to do", || {
                if server.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                over(&self.scratch)?.then_some(true)
            });
            if over {
                println!("the server died {deaths} times in one release");
                whole(&self.scratch, 3);
                kill(server.id().cast_signed(), Signal::TERM);
                server.wait().unwrap();
                return deaths;
            }
        }
        panic!("the release never ends");
    }
}

/// Tells whether a release was begun and is over, tail and all, without any verb: it would start another server.
fn over(scratch: &Scratch) -> Option<bool> {
    let mut stream = UnixStream::connect(scratch.state().join("server.sock")).ok()?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: cutover\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let service = &status["services"][0]["service"];
    Some(service["current"].is_null() && service["tails"].as_array()?.is_empty())
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
        // What is asked of a server that stops in the middle of it is asked by a child that can be ended.
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

/// One service for each strategy, under load; returns what the clients saw, and how many died.
fn each_strategy(victim: Victim, kills: impl Fn(&mut Run)) -> Vec<(Report, u64)> {
    if !servers_wanted(&format!("points: {victim:?}")) {
        return Vec::new();
    }
    let each = [BLUE_GREEN, CANARY, ROLLING].map(|strategy| {
        let mut run = Run::new(strategy);
        let load = load(&run.scratch);
        kills(&mut run);
        let report = finish(&run.scratch, load);
        println!("{strategy}: {victim:?}: {} died", run.killed);
        (report, run.killed)
    });
    each.into()
}

/// Kills the victim at every point of releases of each strategy.
fn at_every_point(victim: Victim, sides: &[&str]) -> Vec<(Report, u64)> {
    each_strategy(victim, |run| {
        for when in sides {
            let points = run.at_each(victim, when);
            assert!(points >= 12, "a release has more than {points} points");
        }
    })
}

/// Kills the instance at points of releases of each strategy, one in each release.
fn point_by_point(victim: Victim) -> Vec<(Report, u64)> {
    let stride = if std::env::var_os("CI").is_some() { 1 } else { STRIDE };
    let first = std::env::var("CUTOVER_TEST_POINT").ok().and_then(|point| point.parse().ok());
    let first = first.unwrap_or_else(|| fastrand::usize(..stride));
    println!("{victim:?}: points {first} and every {stride}th after it");
    each_strategy(victim, |run| {
        let reached = (0..MOST_DEATHS).take_while(|n| run.at(victim, first + n * stride)).count();
        assert!(reached >= 2, "a release has more than {reached} such points");
    })
}

fn nothing_failed(seen: Vec<(Report, u64)>) {
    for (report, _) in seen {
        assert_eq!(report.failed(), 0, "{report}");
    }
}

/// Only what was in flight on what died may fail: nothing is refused, no POST lost or doubled.
fn only_in_flight(seen: Vec<(Report, u64)>) {
    for (report, killed) in seen {
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
    nothing_failed(each_strategy(Victim::Server, |run| {
        let deaths = run.of_the_server();
        assert!(deaths >= 12, "a release has more than {deaths} points");
    }));
}

#[test]
fn the_holder() {
    nothing_failed(at_every_point(Victim::Holder, &["before", "after"]));
}

#[test]
fn the_worker() {
    // One side: its holder waits longer and longer before it starts one that dies and dies.
    only_in_flight(at_every_point(Victim::Worker, &["after"]));
}

#[test]
fn an_instance_of_stable() {
    only_in_flight(point_by_point(Victim::Stable));
}

#[test]
fn an_instance_of_the_candidate() {
    only_in_flight(point_by_point(Victim::Candidate));
}
