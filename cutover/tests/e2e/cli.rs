//! What the command line adds: exit codes, outputs, the background server.

use std::fs;

use crate::harness::{Scratch, get};

const PYTHON: &str = "command: [python3, -m, http.server, $PORT, --bind, 127.0.0.1]";

#[test]
fn a_first_release_works_and_a_second_says_up_to_date() {
    if !crate::harness::python_there("a_first_release_works_and_a_second_says_up_to_date") {
        return;
    }
    let scratch = Scratch::new();
    fs::write(scratch.path().join("index.html"), "v1\n").unwrap();
    scratch.file(PYTHON, "");
    let said = scratch.deploy().expect(0);
    assert_eq!(said.report()["outcome"], "released");
    assert!(said.err.contains("started a server in the background"), "{}", said.err);
    assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())));
    let again = scratch.run(&["deploy"]).expect(0);
    assert!(again.out.contains("shop is up to date"), "{}", again.out);
}

#[test]
fn more_instances_and_other_hosts_are_released_though_the_program_is_the_same() {
    if !crate::harness::python_there(
        "more_instances_and_other_hosts_are_released_though_the_program_is_the_same",
    ) {
        return;
    }
    let scratch = Scratch::new();
    fs::write(scratch.path().join("index.html"), "v1\n").unwrap();
    scratch.file(PYTHON, "bake: 0s\nkeep_warm: 0s");
    scratch.deploy().expect(0);
    scratch.file(&format!("{PYTHON}, replicas: 2"), "bake: 0s\nkeep_warm: 0s");
    assert_eq!(scratch.deploy().expect(0).report()["outcome"], "released");
    crate::service::settled(&scratch, 2);
    let text = fs::read_to_string(scratch.path().join("cutover.yaml")).unwrap();
    let listen = format!("listen: '{}'", scratch.address);
    fs::write(
        scratch.path().join("cutover.yaml"),
        text.replace(&listen, &format!("{listen}, host: shop.test")),
    )
    .unwrap();
    assert_eq!(scratch.deploy().expect(0).report()["outcome"], "released");
    let (status, body) = get(scratch.address, "/").unwrap();
    assert_eq!(status, 404, "the other host is routed no more: {body}");
    // How releases go is not what runs: it holds from the next release on.
    fs::write(
        scratch.path().join("cutover.yaml"),
        fs::read_to_string(scratch.path().join("cutover.yaml")).unwrap() + "drain: 7s\n",
    )
    .unwrap();
    let again = scratch.run(&["deploy"]).expect(0);
    assert!(again.out.contains("shop is up to date"), "{}", again.out);
}

#[test]
fn a_bad_file_is_exit_code_2_with_its_place() {
    let scratch = Scratch::new();
    scratch.file("comand: [x]", "");
    for verb in ["check", "plan", "deploy"] {
        let said = scratch.run(&[verb]).expect(2);
        assert!(said.err.contains("cutover.yaml:3:11: unknown key `comand`"), "{}", said.err);
    }
    let said = scratch.run(&["-f", "nowhere.yaml", "check"]).expect(2);
    assert!(said.err.contains("failed to read nowhere.yaml"), "{}", said.err);
    scratch.run(&["deploy", "--frobnicate"]).expect(2);
}

#[test]
fn plan_shows_the_way_back_and_changes_nothing() {
    if !crate::harness::python_there("plan_shows_the_way_back_and_changes_nothing") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "");
    let said = scratch.run(&["plan"]).expect(0);
    for text in ["way back:", "if cutover dies here:", "Not free of downtime:", "no artifact"] {
        assert!(said.out.contains(text), "{text}:\n{}", said.out);
    }
    assert!(scratch.run(&["history"]).expect(0).out.contains("no release yet"));
    assert_eq!(get(scratch.address, "/"), None);
}

#[test]
fn every_story_is_told_from_the_journal_alone() {
    if !crate::harness::python_there("every_story_is_told_from_the_journal_alone") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "keep_warm: 0s\nbake: 0s");
    scratch.deploy().expect(0);
    scratch.file("command: [sh, -c, 'exit 3']", "checks: {within: 20s}");
    scratch.deploy().expect(3);
    let story = scratch.run(&["show", "shop-2"]).expect(0).out;
    assert!(story.contains("exit status 3") || story.contains("exit code 3"), "{story}");
    assert!(story.contains("refused"), "{story}");
    let history = scratch.run(&["history", "--output", "json"]).expect(0).json();
    let outcomes: Vec<&str> = history["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|release| release["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["refused", "released"]);
    scratch.run(&["show", "shop-99"]).expect(2);
}

#[test]
fn pause_resume_approve_and_abort_reach_the_release() {
    if !crate::harness::python_there("pause_resume_approve_and_abort_reach_the_release") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "");
    scratch.deploy().expect(0);
    scratch.file(&format!("{PYTHON}, env: {{A: b}}"), "approve: [before_shift]\nbake: 1m");
    scratch.run(&["deploy", "--detach"]).expect(8);
    crate::harness::wait("the approval to be asked for", || {
        scratch.run(&["status"]).out.contains("approval").then_some(())
    });
    assert!(scratch.run(&["resume"]).expect(2).err.contains("cutover approve"));
    scratch.run(&["approve"]).expect(0);
    crate::harness::wait("the bake", || scratch.run(&["status"]).out.contains("bake").then_some(()));
    scratch.run(&["pause", "--for", "10m"]).expect(0);
    assert!(scratch.run(&["show", "shop-2"]).out.contains("paused by"));
    scratch.run(&["resume"]).expect(0);
    scratch.run(&["abort"]).expect(0);
    crate::harness::wait("the way back", || {
        scratch.run(&["show", "shop-2"]).out.contains("was withdrawn").then_some(())
    });
    let weight = scratch.status()["services"][0]["router"]["tracks"][0]["weight"].clone();
    assert_eq!(weight, "100%");
    assert!(scratch.run(&["abort"]).expect(2).err.contains("no release of shop is under way"));
}

#[test]
fn ctrl_c_detaches_and_the_release_goes_on() {
    if !crate::harness::python_there("ctrl_c_detaches_and_the_release_goes_on") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "");
    scratch.deploy().expect(0);
    scratch.file(&format!("{PYTHON}, env: {{A: b}}"), "bake: 3s");
    let child = scratch.spawn(&["deploy"]);
    crate::harness::wait("the bake", || scratch.run(&["status"]).out.contains("bake").then_some(()));
    crate::harness::kill(child.id().cast_signed(), rustix::process::Signal::INT);
    let said: crate::harness::Said = child.wait_with_output().unwrap().into();
    let said = said.expect(8);
    assert!(said.err.contains("cutover show shop-2") && said.err.contains("cutover abort"), "{}", said.err);
    crate::harness::wait("the promotion", || {
        scratch
            .run(&["history"])
            .out
            .lines()
            .next()
            .is_some_and(|line| line.contains("released"))
            .then_some(())
    });
}

#[test]
fn rollback_is_a_weight_change_and_its_revision_is_refused_after() {
    if !crate::harness::python_there("rollback_is_a_weight_change_and_its_revision_is_refused_after") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "bake: 0s");
    scratch.deploy().expect(0);
    assert!(scratch.run(&["rollback"]).expect(3).err.contains("predecessor"));
    scratch.file(&format!("{PYTHON}, env: {{A: b}}"), "bake: 0s");
    scratch.deploy().expect(0);
    let pids = |revision: &serde_json::Value| {
        let status = scratch.status();
        let all = status["services"][0]["revisions"].as_array().unwrap().clone();
        let ours = all.into_iter().find(|seen| &seen["revision"] == revision).unwrap();
        ours["instances"][0]["pid"].clone()
    };
    let previous = scratch.status()["services"][0]["service"]["previous"].clone();
    let warm = pids(&previous);
    let said = scratch.run(&["rollback", "--output", "json"]).expect(0);
    assert_eq!(said.report()["outcome"], "released");
    assert_eq!(pids(&previous), warm, "the predecessor was kept, not started again");
    let refused = scratch.run(&["deploy"]).expect(3);
    assert!(refused.err.contains("--again"), "{}", refused.err);
    scratch.run(&["deploy", "--again"]).expect(0);
}

#[test]
fn the_schema_that_is_checked_in_is_the_one_of_the_types() {
    let scratch = Scratch::new();
    let now = scratch.run(&["schema"]).expect(0).out;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/release-file.schema.json");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, &now).unwrap();
    }
    assert_eq!(
        fs::read_to_string(path).unwrap(),
        now,
        "update it with: cutover schema > docs/release-file.schema.json"
    );
}

#[test]
fn the_reference_that_is_checked_in_is_the_one_of_the_types() {
    let scratch = Scratch::new();
    let now = scratch.run(&["schema", "--markdown"]).expect(0).out;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, &now).unwrap();
    }
    assert_eq!(
        fs::read_to_string(path).unwrap(),
        now,
        "update it with: cutover schema --markdown > docs/reference.md"
    );
}

#[test]
fn completions_are_written_for_the_common_shells() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(scratch.run(&["completions", shell]).expect(0).out.contains("rollback"), "{shell}");
    }
}

#[test]
fn a_destroyed_service_leaves_nothing_and_can_be_released_again() {
    if !crate::harness::python_there("a_destroyed_service_leaves_nothing_and_can_be_released_again") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "bake: 0s");
    scratch.deploy().expect(0);
    get(scratch.address, "/").unwrap();
    crate::harness::wait("its log", || {
        scratch.run(&["logs"]).expect(0).out.contains("GET / HTTP").then_some(())
    });
    scratch.run(&["destroy"]).expect(2);
    scratch.run(&["destroy", "--yes"]).expect(0);
    assert_eq!(get(scratch.address, "/").map(|(status, _)| status), Some(404));
    assert!(scratch.processes().iter().all(|(_, command)| !command.contains("http.server")));
    for _ in 0..2 {
        scratch.deploy().expect(0);
        assert_eq!(get(scratch.address, "/").map(|(status, _)| status), Some(200));
        scratch.run(&["destroy", "--yes"]).expect(0);
    }
    assert!(scratch.run(&["proxy", "stop"]).expect(2).err.contains("cutover server stop"));
    scratch.run(&["server", "stop"]).expect(0);
    scratch.run(&["proxy", "stop"]).expect(0);
    assert!(scratch.processes().is_empty());
}

#[test]
fn promote_skips_the_bake_and_back_takes_the_traffic_away() {
    if !crate::harness::python_there("promote_skips_the_bake_and_back_takes_the_traffic_away") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "bake: 0s\nkeep_warm: 0s\ndrain: 1s");
    scratch.deploy().expect(0);
    let attached = |value: &str| {
        scratch.file(&format!("{PYTHON}, env: {{A: {value}}}"), "bake: 10m\ndrain: 1s");
        let child = scratch.spawn(&["deploy", "--output", "json"]);
        crate::harness::wait("the bake", || scratch.run(&["status"]).out.contains("at bake").then_some(()));
        child
    };
    let back = attached("one");
    // By the proxy alone; the attached deploy ends as rolled back.
    scratch.run(&["proxy", "back", "shop"]).expect(0);
    let said: crate::harness::Said = back.wait_with_output().unwrap().into();
    let said = said.expect(4);
    assert_eq!(said.report()["outcome"], "rolled_back");
    assert!(said.report()["why"].as_str().unwrap().contains("taken back by"), "{}", said.report());
    let promoted = attached("two");
    scratch.run(&["promote"]).expect(0);
    let said: crate::harness::Said = promoted.wait_with_output().unwrap().into();
    assert_eq!(said.expect(0).report()["outcome"], "released");
}

#[test]
fn traffic_is_held_and_closed_with_the_proxy_alone() {
    if !crate::harness::python_there("traffic_is_held_and_closed_with_the_proxy_alone") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "bake: 0s\nkeep_warm: 0s\ndrain: 1s");
    scratch.deploy().expect(0);
    let page = scratch.path().join("closed.html");
    std::fs::write(&page, "<p>back at noon</p>").unwrap();
    scratch.run(&["traffic", "maintenance", "--page", &page.display().to_string()]).expect(0);
    assert_eq!(get(scratch.address, "/"), Some((503, "<p>back at noon</p>".into())));
    assert!(scratch.run(&["status"]).expect(0).out.contains("answered with the maintenance page"));
    let metrics = scratch.run(&["proxy", "metrics"]).expect(0).out;
    assert!(metrics.contains("cutover_proxy_refused_total{reason=\"maintenance\"} 1\n"), "{metrics}");
    scratch.run(&["server", "stop"]).expect(0);
    scratch.run(&["traffic", "queue", "shop", "--wait", "60s"]).expect(0);
    let address = scratch.address;
    let held = std::thread::spawn(move || get(address, "/"));
    crate::harness::wait("the request is held", || {
        let seen = scratch.run(&["proxy", "status", "--output", "json"]).expect(0).json();
        (seen["observed"]["services"]["shop"]["waiting"] == 1).then_some(())
    });
    let said = scratch.run(&["traffic", "flow", "--per-second", "5"]).expect(0);
    assert!(said.out.contains("5 requests a second pass, in order"), "{}", said.out);
    assert_eq!(held.join().unwrap().map(|(status, _)| status), Some(200));
    scratch.run(&["traffic", "open"]).expect(0);
    assert_eq!(get(scratch.address, "/").map(|(status, _)| status), Some(200));
    let missing = scratch.run(&["traffic", "maintenance", "--page", "none.html"]).expect(2);
    assert!(missing.err.contains("failed to read the page none.html"), "{}", missing.err);
    scratch.run(&["proxy", "stop"]).expect(0);
}

#[test]
fn rehearse_says_the_worst_cases_and_starts_nothing() {
    let scratch = Scratch::new();
    scratch.file("command: [./shop], replicas: 3", "strategy: {rolling: {max_surge: 1, bake: 5s}}\nbake: 5s");
    let said = scratch.run(&["rehearse"]).expect(0);
    for text in [
        "the candidate breaks under traffic",
        "cutover dies for longer than the lease",
        "never fewer than 3 instances ready",
        "every promise held",
    ] {
        assert!(said.out.contains(text), "{text}:\n{}", said.out);
    }
    assert!(said.err.contains("a predecessor is assumed"), "{}", said.err);
    assert!(!scratch.state().join("server.lock").exists());
    let told = scratch.run(&["rehearse", "--output", "json"]).expect(0).json();
    assert_eq!(told["broken"].as_array().unwrap().len(), 0);
    assert!(told["schedules"].as_u64().unwrap() > 500, "{told}");
}

#[test]
fn a_gate_runs_before_anything_and_its_output_is_shown_and_kept() {
    if !crate::harness::python_there("a_gate_runs_before_anything_and_its_output_is_shown_and_kept") {
        return;
    }
    let scratch = Scratch::new();
    let gate = "gate: ['echo units of $CUTOVER_SERVICE pass', 'echo no luck; exit 3']\n";
    scratch.file(PYTHON, &format!("{gate}bake: 0s"));
    let said = scratch.run(&["deploy"]).expect(3);
    for text in [
        "| units of shop pass",
        "gate        `echo units of",
        "| no luck",
        "exit status 3",
        "gate 1 of 2 passed",
    ] {
        assert!(said.out.contains(text), "{text}:\n{}", said.out);
    }
    assert_eq!(get(scratch.address, "/").map(|(status, _)| status), Some(404), "nothing was started");
    let kept = fs::read_to_string(scratch.state().join("gates/shop-1-3.log")).unwrap();
    assert!(kept.ends_with("no luck\n"), "{kept}");
    // Abort ends what runs, with all it started.
    scratch.file(PYTHON, "gate: ['sleep 1000 & wait']\nbake: 0s");
    let deploy = scratch.spawn(&["deploy"]);
    crate::harness::wait("the gate to run", || {
        let log = fs::read_to_string(scratch.state().join("gates/shop-2-2.log")).ok()?;
        log.contains("sleep").then_some(())
    });
    scratch.run(&["abort"]).expect(0);
    assert_eq!(deploy.wait_with_output().unwrap().status.code(), Some(7));
    crate::harness::wait("its children to be gone", || {
        (!scratch.processes().iter().any(|(_, command)| command.contains("sleep 1000"))).then_some(())
    });
}
