//! Death at every moment, under mixed load: only what is in flight on a killed worker may fail.

use std::process::Stdio;
use std::time::Duration;

use cutover_bench::load::{Kind, Report};
use rustix::process::Signal;

use crate::harness::{Scratch, alive, kill, servers_wanted, wait};
use crate::service::{self, finish, load, settled, whole};

const MORE: &str = "bake: 400ms\nguard: {success: 95%}\nkeep_warm: 200ms\ndrain: 8s";

#[test]
fn the_server_at_every_point_of_the_journal() {
    if !servers_wanted("the_server_at_every_point_of_the_journal") {
        return;
    }
    let scratch = Scratch::new();
    service::file(&scratch, "v0", "", MORE);
    scratch.deploy().expect(0);
    settled(&scratch, 2);
    let load = load(&scratch);
    let (mut version, mut survived) = (0, 0);
    let (mut released, mut back) = (0, 0);
    for point in 0..60 {
        for when in ["before", "after"] {
            scratch.run(&["server", "stop"]).expect(0);
            let mut server = scratch
                .command(&["server", "--background"])
                .env("CUTOVER_TEST_DIE", format!("{when}:{point}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            version += 1;
            service::file(&scratch, &format!("v{version}"), "", MORE);
            let said = wait("the server to answer or to be dead", || {
                let dead = server.try_wait().unwrap().is_some();
                let listens = scratch.state().join("server.sock").exists();
                (dead || listens).then(|| scratch.run(&["deploy", "--detach"]))
            });
            // Before its journal had the release the server died with the question: nothing was begun, or the next
            // server was asked.
            assert!([8, 1].contains(&said.code), "{when}:{point}: {said:?}");
            println!("{when}:{point}");
            whole(&scratch, 2);
            let died = server.try_wait().unwrap().is_some();
            if !died {
                survived += 1;
            }
            let newest = scratch.run(&["history", "--output", "json", "--limit", "1"]).expect(0).json();
            match newest["releases"][0]["outcome"].as_str() {
                Some("released") => released += 1,
                _ => back += 1,
            }
            if !died {
                kill(server.id().cast_signed(), Signal::TERM);
                let _ = server.wait();
            }
        }
        if survived >= 2 {
            println!("{point} points of the journal, {released} finished, {back} went back or never began");
            let report = finish(&scratch, load);
            assert_eq!(report.failed(), 0, "{report}");
            assert!(point >= 10, "a release has more points than {point}");
            assert!(released > 0);
            return;
        }
    }
    panic!("the server dies at more than 60 points of one release");
}

#[test]
fn the_server_for_good_and_the_lease_takes_the_traffic_back() {
    if !servers_wanted("the_server_for_good_and_the_lease_takes_the_traffic_back") {
        return;
    }
    let scratch = Scratch::new();
    service::file(&scratch, "v1", "", MORE);
    scratch.deploy().expect(0);
    settled(&scratch, 2);
    let load = load(&scratch);
    service::file(&scratch, "v2", "", "bake: 5m\ndrain: 8s");
    scratch.run(&["deploy", "--detach"]).expect(8);
    let body =
        |version: &str| crate::harness::get(scratch.address, "/") == Some((200, format!("{version}\n")));
    wait("traffic on v2", || body("v2").then_some(()));
    kill(scratch.server_pid(), Signal::KILL);
    // Nobody drives now; the proxy alone brings it back.
    wait("the lease to lapse", || body("v1").then_some(()));
    settled(&scratch, 2);
    let story = scratch.run(&["show", "shop-2"]).out;
    assert!(story.contains("lease") && story.contains("was rolled back"), "{story}");
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), 0, "{report}");
}

/// Kills `victims` again and again while releases go on, and returns the load's report and how often.
fn under_fire(scratch: &Scratch, victims: impl Fn(&Scratch) -> Vec<i32>) -> (Report, u64) {
    service::file(scratch, "v0", "", MORE);
    scratch.deploy().expect(0);
    settled(scratch, 2);
    let load = load(scratch);
    let mut kills = 0;
    for round in 1..=6 {
        service::file(scratch, &format!("v{round}"), "", MORE);
        let mut deploy = scratch.spawn(&["deploy"]);
        // At another moment of the release each round.
        let sent = load.report().sent();
        load.wait_for(sent + round * 18, Duration::from_secs(20));
        for pid in victims(scratch) {
            kill(pid, Signal::KILL);
            wait("the victim to be dead", || (!alive(pid)).then_some(()));
        }
        kills += 1;
        let _ = deploy.wait();
        whole(scratch, 2);
    }
    (finish(scratch, load), kills)
}

/// On a killed worker only what was in flight may fail: at most one request of each client, and no connection is
/// refused. A POST is never delivered twice, and one that was acknowledged is never lost.
fn only_what_was_in_flight(report: &Report, kills: u64) {
    let clients = 10;
    assert!(report.failed() <= kills * clients, "{report}");
    let receipts = report.receipts.unwrap();
    assert_eq!((receipts.twice, receipts.never), (0, 0), "{report}");
    for kind in Kind::ALL {
        for failure in report.kind(kind).failures {
            assert!(!failure.text.contains("refused"), "{failure:?}");
            assert!(!failure.text.contains("status"), "an answer nobody sent: {failure:?}");
        }
    }
}

#[test]
fn the_worker_at_any_time() {
    if !servers_wanted("the_worker_at_any_time") {
        return;
    }
    let scratch = Scratch::new();
    let (report, kills) = under_fire(&scratch, |scratch| vec![scratch.proxy_pids().1]);
    only_what_was_in_flight(&report, kills);
}

#[test]
fn the_server_and_the_worker_together() {
    if !servers_wanted("the_server_and_the_worker_together") {
        return;
    }
    let scratch = Scratch::new();
    let (report, kills) = under_fire(&scratch, |scratch| vec![scratch.server_pid(), scratch.proxy_pids().1]);
    only_what_was_in_flight(&report, kills);
}

#[test]
fn the_holder_costs_nothing() {
    if !servers_wanted("the_holder_costs_nothing") {
        return;
    }
    let scratch = Scratch::new();
    let (report, _) = under_fire(&scratch, |scratch| {
        // The server starts another within seconds; the next round needs it there.
        let holder = wait("a holder", || Some(scratch.proxy_pids().0).filter(|pid| *pid > 0));
        vec![holder]
    });
    assert_eq!(report.failed(), 0, "{report}");
    let log = std::fs::read_to_string(scratch.state().join("proxy.log")).unwrap();
    assert!(
        log.contains("holder died") && log.contains("worker serves"),
        "what a person would look for: {log}"
    );
}
