//! `--env`: the environment of a release file, from check to history.

use std::fs;

use crate::harness::{Scratch, get};

fn file(scratch: &Scratch, base: &str) {
    let text = format!(
        "service: shop\nplatform:\n  local: {{command: [python3, -m, http.server, $PORT, --bind, 127.0.0.1]}}\n{base}\
         bake: 0s\nkeep_warm: 0s\ndrain: 1s\nenvironments:\n  staging:\n    service: shop-staging\n    \
         route: [{{proxy: {{listen: '{}'}}}}]\n",
        scratch.address
    );
    fs::write(scratch.path().join("cutover.yaml"), text).unwrap();
}

#[test]
fn an_environment_is_checked_planned_released_and_remembered() {
    if !crate::harness::python_there("an_environment_is_checked_planned_released_and_remembered") {
        return;
    }
    let scratch = Scratch::new();
    fs::write(scratch.path().join("index.html"), "staging\n").unwrap();
    file(&scratch, "");
    let said = scratch.run(&["check"]).expect(0).out;
    assert!(said.contains("is good for staging: shop-staging") && said.contains("with --env"), "{said}");
    let said = scratch.run(&["deploy"]).expect(2).err;
    assert!(said.contains("`route` is missing") && said.contains("--env staging"), "{said}");
    let said = scratch.run(&["plan", "--env", "stagging"]).expect(2).err;
    assert!(said.contains("did you mean `staging`?"), "{said}");
    assert!(scratch.run(&["plan", "--env", "staging"]).expect(0).out.contains("environment staging"));
    let said = scratch.run(&["deploy", "--env", "staging"]).expect(0).out;
    assert!(said.contains("for staging") && said.contains("shop-staging-1 (staging)"), "{said}");
    assert_eq!(get(scratch.address, "/"), Some((200, "staging\n".into())));
    let history = scratch.run(&["history", "--output", "json"]).expect(0).json();
    assert_eq!(history["releases"][0]["environment"], "staging");
    assert!(scratch.run(&["history"]).expect(0).out.contains("for staging"));
    // All environments agree on the service, so the verbs that only need its name find it.
    let said = scratch.run(&["abort"]).expect(2).err;
    assert!(said.contains("no release of shop-staging is under way"), "{said}");
}

#[test]
fn without_env_a_complete_base_is_taken_and_that_is_said() {
    if !crate::harness::python_there("without_env_a_complete_base_is_taken_and_that_is_said") {
        return;
    }
    let scratch = Scratch::new();
    file(&scratch, &format!("route: [{{proxy: {{listen: '{}'}}}}]\n", scratch.address));
    let said = scratch.deploy().expect(0);
    assert!(said.err.contains("no --env, so the base of cutover.yaml is taken"), "{}", said.err);
    assert_eq!(said.report()["service"], "shop");
    assert!(said.report()["environment"].is_null(), "{}", said.report());
}

#[test]
fn a_file_that_is_no_text_is_exit_code_2() {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("cutover.yaml"), b"service: caf\xe9\n").unwrap();
    let said = scratch.run(&["check"]).expect(2).err;
    assert!(said.contains("cutover.yaml:1:13: the byte 0xe9 is not UTF-8"), "{said}");
    let said = scratch.run(&["-f", ".", "check"]).expect(2).err;
    assert!(said.contains("failed to read .") && said.contains("-f FILE"), "{said}");
}
