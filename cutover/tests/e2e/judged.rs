//! Releases that are judged: good ones go on when that is proven, bad ones lose their traffic with no server about, and
//! what was not proven holds.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Said, Scratch, kill, wait};
use crate::service::{self, Shop, bakes_at, finish, load, status, trouble, whole};

const AUTO: &str = "strategy: {canary: {weights: [50%, 100%], bake: auto}}\nbake: 0s\nkeep_warm: 0s\ndrain: 8s\n\
                    guard: {warm_up: 0s}";

fn file(scratch: &Scratch, version: &str, more: &str) {
    Shop { version, more, ..Shop::default() }.file(scratch);
}

fn released() -> Scratch {
    let scratch = Scratch::new();
    file(&scratch, "v1", "bake: 0s");
    scratch.deploy().expect(0);
    whole(&scratch, 2);
    scratch
}

fn rejudged(scratch: &Scratch, report: &Value) -> String {
    let release = report["release"].as_str().unwrap();
    let said = scratch.run(&["show", release, "--verdict"]).expect(0);
    assert!(said.out.contains("the journal says the same"), "{}", said.out);
    said.out
}

#[test]
fn a_good_revision_goes_on_when_that_is_proven_and_the_proof_can_be_computed_again() {
    let scratch = released();
    let load = load(&scratch);
    // The rate of the plan is known once the proxy has looked twice.
    wait("a plan that knows the rate", || {
        file(&scratch, "v2", AUTO);
        scratch.run(&["plan"]).expect(0).out.contains("at the recent rate").then_some(())
    });
    let said = scratch.run(&["deploy", "--output", "json"]).expect(0);
    let report = said.report();
    assert_eq!(report["verdicts"][0]["judgement"], "pass", "{report:#}");
    let why = report["verdicts"][0]["why"].as_str().unwrap();
    assert!(why.contains("does not fail 0.5 percentage points more often than stable, nor slower"), "{why}");
    let again = rejudged(&scratch, &report);
    assert!(again.contains("at 50%:") && again.contains("pass after epoch"), "{again}");
    assert_eq!(finish(&scratch, load).failed(), 0);
}

#[test]
fn a_bad_revision_loses_its_traffic_while_the_server_is_dead() {
    let scratch = released();
    let load = load(&scratch);
    file(
        &scratch,
        "v2",
        &AUTO.replace("50%, 100%", "10%, 100%").replace("warm_up", "min_requests: 100000, warm_up"),
    );
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    bakes_at(&scratch, "10%");
    service::more(&load, 300);
    // Nobody but the proxy can take anything back from here on.
    let server = scratch.server_pid();
    kill(server, Signal::KILL);
    trouble(&scratch, "v2", "fail");
    let told = Said::from(deploy.wait_with_output().unwrap()).expect(4);
    whole(&scratch, 2);
    let shown = scratch.run(&["show", "shop-2"]).expect(0);
    assert!(shown.out.contains("fail: the candidate is worse"), "{}", shown.out);
    let again = rejudged(&scratch, &told.report());
    assert!(again.contains("fail: the candidate is worse"), "{again}");
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), 0, "only the candidate's own answers may fail: {report}");
    let own: u64 = report.kinds.values().map(|kind| kind.intended_errors).sum();
    assert!((2..=10).contains(&own), "{own} requests failed before the candidate lost its traffic");
}

#[test]
fn what_is_not_proven_holds_and_says_what_is_missing() {
    let scratch = released();
    file(&scratch, "v2", &AUTO.replace("bake: auto", "bake: auto, at_most: 10s"));
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    let state = wait("it holds", || {
        let state = status(&scratch)?["service"]["current"]["state"].as_str()?.to_owned();
        state.contains("inconclusive").then_some(state)
    });
    println!("{state}");
    let shown = scratch.run(&["show", "shop-2"]).expect(0);
    assert!(shown.out.contains("the candidate has had no request yet"), "{}", shown.out);
    scratch.run(&["abort"]).expect(0);
    Said::from(deploy.wait_with_output().unwrap()).expect(7);
    whole(&scratch, 2);
}

#[test]
fn who_waits_for_a_proof_reads_how_far_it_is() {
    let scratch = released();
    let load = load(&scratch);
    let slow = AUTO.replace("50%, 100%", "1%, 100%").replace("bake: auto", "bake: auto, at_most: 10s");
    file(&scratch, "v2", &slow);
    let deploy = scratch.spawn(&["deploy"]);
    wait("it holds", || {
        let state = status(&scratch)?["service"]["current"]["state"].as_str()?.to_owned();
        state.contains("inconclusive").then_some(())
    });
    scratch.run(&["abort"]).expect(0);
    let said = Said::from(deploy.wait_with_output().unwrap()).expect(7);
    let lines: Vec<&str> = said.out.lines().filter(|line| line.contains("of a proof, about")).collect();
    assert!((1..=2).contains(&lines.len()), "a line every 10 s at most: {}", said.out);
    assert!(lines[0].contains("candidate ") && lines[0].contains(" failed, stable "), "{}", lines[0]);
    assert!(!said.out.contains("\r"), "only a terminal has a line that is redrawn: {:?}", said.out);
    whole(&scratch, 2);
    assert_eq!(finish(&scratch, load).failed(), 0);
}
