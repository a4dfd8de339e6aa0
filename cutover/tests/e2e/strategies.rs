//! Canary and rolling releases of real processes under mixed load: good ones, bad ones, and people in between.

use std::process::Child;

use serde_json::Value;

use crate::harness::{Said, Scratch, wait};
use crate::service::{self, Shop, bakes_at, finish, load, status, trouble, whole};

const QUICK: &str = "keep_warm: 0s\ndrain: 8s";
const CANARY: &str = "strategy: {canary: {weights: [10%, 50%, 100%], bake: BAKE}}\nbake: BAKE";
const ROLLING: &str = "strategy: {rolling: {max_surge: 1, max_unavailable: 0, bake: BAKE}}\nbake: BAKE";
/// A bake that only a person ends.
const LONG: &str = "30m";

/// Three instances of `version`, released by `strategy`.
fn file(scratch: &Scratch, version: &str, strategy: &str, bake: &str) {
    let more = format!("{}\n{QUICK}", strategy.replace("BAKE", bake));
    Shop { version, replicas: 3, more: &more, ..Shop::default() }.file(scratch);
}

/// v1 runs as three instances.
fn released() -> Scratch {
    let scratch = Scratch::new();
    file(&scratch, "v1", "bake: BAKE", "0s");
    scratch.deploy().expect(0);
    whole(&scratch, 3);
    scratch
}

/// A release of v2 under way.
fn begun(scratch: &Scratch, strategy: &str) -> Child {
    file(scratch, "v2", strategy, LONG);
    scratch.spawn(&["deploy", "--output", "json"])
}

fn ended(deploy: Child, code: i32) -> Value {
    Said::from(deploy.wait_with_output().unwrap()).expect(code).report()
}

/// Advances through the bakes at `weights`, and waits for the last one's.
fn advance_to(scratch: &Scratch, weights: &[&str]) {
    for (i, weight) in weights.iter().enumerate() {
        if i > 0 {
            scratch.run(&["advance"]).expect(0);
        }
        bakes_at(scratch, weight);
    }
}

#[test]
fn good_revisions_by_canary_and_by_rolling_fail_nothing() {
    let scratch = released();
    let load = load(&scratch);
    for (version, strategy, weights) in [
        ("v2", CANARY, vec!["10%", "50%", "all traffic is on"]),
        ("v3", ROLLING, vec!["33.33%", "66.66%", "all traffic is on"]),
        ("v4", ROLLING, vec!["33.33%", "66.66%", "all traffic is on"]),
    ] {
        file(&scratch, version, strategy, "500ms");
        let said = scratch.run(&["deploy"]).expect(0);
        for weight in weights {
            assert!(said.out.contains(weight), "{weight} in:\n{}", said.out);
        }
        whole(&scratch, 3);
    }
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1", "v2", "v3", "v4"]);
}

/// Releases a v2 that breaks at the last of `weights`; it must be taken back, and cost its own answers alone.
fn breaks_at(strategy: &str, weights: &[&str]) {
    let scratch = released();
    let load = load(&scratch);
    let deploy = begun(&scratch, strategy);
    advance_to(&scratch, weights);
    service::more(&load, 30);
    trouble(&scratch, "v2", "fail");
    let told = ended(deploy, 4);
    let stable = whole(&scratch, 3);
    let all = status(&scratch).unwrap();
    assert_eq!(all["service"]["rolled_back"], told["candidate"], "{stable}: {all:#}");
    service::more(&load, 60);
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), 0, "only the candidate's own answers may fail: {report}");
    let own: u64 = report.kinds.values().map(|kind| kind.intended_errors).sum();
    println!("the candidate itself failed {own} requests of {}", report.sent());
    assert!(own > 0);
    assert_eq!(told["failed"].as_u64(), Some(own), "what the report counts is what the clients saw: {told}");
    assert_eq!(told["failed_by_router"], 0, "{told}");
}

#[test]
fn a_canary_that_breaks_at_half_the_traffic_costs_only_its_own_answers() {
    breaks_at(CANARY, &["10%", "50%"]);
}

#[test]
fn a_rolling_release_that_breaks_in_its_last_batch_brings_stable_back_whole() {
    breaks_at(ROLLING, &["33.33%", "66.66%", "100%"]);
}

#[test]
fn an_abort_in_the_middle_of_rolling_brings_stable_back_whole() {
    let scratch = released();
    let load = load(&scratch);
    let deploy = begun(&scratch, ROLLING);
    advance_to(&scratch, &["33.33%", "66.66%"]);
    service::more(&load, 30);
    scratch.run(&["abort"]).expect(0);
    ended(deploy, 7);
    whole(&scratch, 3);
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.versions["v2"].answers > 0);
}

#[test]
fn people_approve_pause_and_promote_under_load() {
    let scratch = released();
    let load = load(&scratch);
    let asks = |what: &str| {
        wait(what, || {
            let state = status(&scratch)?["service"]["current"]["state"].clone();
            state.as_str()?.contains(what).then_some(())
        });
    };
    let approvals = format!("{CANARY}\napprove: [before_shift, before_promote]");
    let deploy = begun(&scratch, &approvals);
    asks("waits for approval (before_shift)");
    service::more(&load, 60);
    assert!(!load.report().versions.contains_key("v2"), "nothing moves before it is approved");
    scratch.run(&["approve"]).expect(0);
    bakes_at(&scratch, "10%");

    // A pause ends by itself, as it was told to.
    scratch.run(&["pause", "--for", "1s", "--then", "resume"]).expect(0);
    assert!(scratch.run(&["show", "shop-2"]).out.contains("paused by"));
    bakes_at(&scratch, "10%");
    wait("the pause to end", || {
        let state = status(&scratch)?["service"]["current"]["state"].clone();
        (state == "bake").then_some(())
    });

    // Promote leaves the weights out, never an approval.
    scratch.run(&["promote"]).expect(0);
    asks("waits for approval (before_promote)");
    scratch.run(&["approve"]).expect(0);
    ended(deploy, 0);
    whole(&scratch, 3);

    // A pause that nobody ends takes the release back.
    file(&scratch, "v3", ROLLING, LONG);
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    advance_to(&scratch, &["33.33%", "66.66%"]);
    scratch.run(&["pause", "--for", "1s"]).expect(0);
    let told = ended(deploy, 4);
    assert!(told["why"].as_str().unwrap().contains("paused by"), "{told}");
    whole(&scratch, 3);
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.versions["v2"].answers > 0 && report.versions["v3"].answers > 0);
}
