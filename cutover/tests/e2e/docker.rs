//! Releases of containers, of a real engine, under load.

use std::fs;
use std::path::Path;

use cutover_docker_engine::Engine;
use serde_json::Value;

use crate::harness::{Scratch, get, kill, servers_wanted, wait};
use crate::service;

const QUICK: &str = "bake: 300ms\nkeep_warm: 0s\ndrain: 5s";
const CANARY: &str = "strategy: {canary: {weights: [10%, 50%, 100%], bake: 300ms}}";
const ROLLING: &str = "strategy: {rolling: {max_surge: 1, max_unavailable: 0, bake: 300ms}}";

/// An engine with the service's image at some versions, and a scratch folder whose server uses it.
struct Docker {
    // The server first: it must not see its containers end.
    scratch: Scratch,
    engine: Engine,
}

impl Docker {
    fn new(versions: &[&str]) -> Docker {
        let (engine, mut scratch) = (Engine::start(), Scratch::new());
        scratch.docker_host = Some(engine.host());
        let exe = std::env::current_exe().unwrap();
        for version in versions {
            engine.image(
                &format!("shop:{version}"),
                &[(&exe, "/shop")],
                &[
                    &format!("ENV E2E_SERVICE=1 EVERYWHERE=1 VERSION={version}"),
                    "EXPOSE 9000",
                    "CMD [\"/shop\", \"--exact\", \"service::entry\", \"--nocapture\"]",
                ],
            );
        }
        let received = scratch.path().join("received.txt");
        fs::OpenOptions::new().create(true).append(true).open(received).unwrap();
        Docker { scratch, engine }
    }

    /// Writes the release file of two instances of this image, with more keys of `platform.docker` and more lines.
    fn file(&self, version: &str, docker: &str, more: &str) {
        let text = format!(
            "service: shop\nplatform:\n  docker:\n    image: shop:{version}\n    replicas: 2\n    stop_grace: 10s\n    \
             volumes: [\"./:/data\"]\n    env: {{RECEIVED: /data/received.txt, TROUBLE: /data/trouble-{version}}}\n\
             {docker}route: [{{proxy: {{listen: '{}'}}}}]\n\
             checks: {{health: [{{path: /health, interval: 100ms}}], within: 60s}}\n{more}\n",
            self.scratch.address
        );
        fs::write(self.scratch.path().join("cutover.yaml"), text).unwrap();
    }

    fn release(&self, version: &str, strategy: &str) {
        self.file(version, "", &format!("{QUICK}\n{strategy}"));
        self.scratch.deploy().expect(0);
        service::settled(&self.scratch, 2);
    }

    /// The containers that run, by name.
    fn containers(&self) -> Vec<String> {
        let text = self.engine.docker(&["ps", "--format", "{{.Names}}"]);
        text.lines().map(String::from).collect()
    }
}

#[test]
fn containers_are_released_under_load_and_a_broken_one_is_taken_back() {
    if !servers_wanted("containers_are_released_under_load_and_a_broken_one_is_taken_back") {
        return;
    }
    let docker = Docker::new(&["v1", "v2", "v3", "v4", "v5"]);
    let scratch = &docker.scratch;
    docker.release("v1", "");
    let load = service::load(scratch);
    docker.release("v2", "");
    docker.release("v3", CANARY);
    docker.release("v4", ROLLING);
    let report = load.report();
    assert_eq!(report.failed(), 0, "{report}");
    // It passes its checks, and breaks when it has traffic.
    docker.file(
        "v5",
        "",
        &format!("bake: 30m\nkeep_warm: 0s\ndrain: 5s\n{CANARY}").replace("bake: 300ms", "bake: 30m"),
    );
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    service::bakes_at(scratch, "10%");
    service::trouble(scratch, "v5", "fail");
    let told = crate::harness::Said::from(deploy.wait_with_output().unwrap()).expect(4).report();
    service::settled(scratch, 2);
    service::more(&load, 60);
    let report = service::finish(scratch, load);
    assert_eq!(report.failed(), 0, "only the candidate's own answers may fail: {report}");
    let own: u64 = report.kinds.values().map(|kind| kind.intended_errors).sum();
    assert_eq!(told["failed"].as_u64(), Some(own), "{told}");
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1", "v2", "v3", "v4", "v5"]);
    assert_eq!(docker.containers().len(), 2, "{:?}", docker.containers());
    // What the candidate said is there after its containers are gone.
    let candidate = told["candidate"].as_str().unwrap();
    let logs = scratch.run(&["logs", "shop"]).expect(0).out;
    assert!(logs.contains("version v4 listens on"), "{logs}");
    assert!(candidate.starts_with("d-"), "{candidate}");
}

#[test]
fn after_a_reboot_containers_serve_again_unaided() {
    if !servers_wanted("after_a_reboot_containers_serve_again_unaided") {
        return;
    }
    let mut docker = Docker::new(&["v1"]);
    docker.release("v1", "");
    let before = docker.containers();
    // All of it stops: the engine with its containers, the server, the proxy.
    docker.scratch.end_all();
    docker.engine.stop();
    // The server may be the first to be there again, the engine comes later.
    let mut server = docker.scratch.spawn(&["server"]);
    wait("the server", || docker.scratch.server_answers());
    docker.engine.start_again();
    wait("stable to serve again", || {
        (get(docker.scratch.address, "/") == Some((200, "v1\n".into()))).then_some(())
    });
    service::settled(&docker.scratch, 2);
    assert_eq!(sorted(docker.containers()), sorted(before), "the same containers, not others");
    kill(docker.scratch.server_pid(), rustix::process::Signal::TERM);
    let _ = server.wait();
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn an_engine_that_is_restarted_in_a_bake_leaves_one_whole_revision() {
    if !servers_wanted("an_engine_that_is_restarted_in_a_bake_leaves_one_whole_revision") {
        return;
    }
    let mut docker = Docker::new(&["v1", "v2"]);
    docker.release("v1", "");
    docker.file(
        "v2",
        "",
        &format!("bake: 30m\nkeep_warm: 0s\ndrain: 5s\n{}", CANARY.replace("300ms", "30m")),
    );
    let deploy = docker.scratch.spawn(&["deploy", "--output", "json"]);
    service::bakes_at(&docker.scratch, "10%");
    docker.engine.stop();
    docker.engine.start_again();
    // It may have been taken back for what its containers did; if not, a person does it.
    docker.scratch.run(&["abort"]);
    let said = crate::harness::Said::from(deploy.wait_with_output().unwrap());
    assert!([4, 7].contains(&said.code), "{said:?}");
    service::settled(&docker.scratch, 2);
    wait("stable to serve", || {
        (get(docker.scratch.address, "/") == Some((200, "v1\n".into()))).then_some(())
    });
    assert_eq!(docker.containers().len(), 2, "{:?}", docker.containers());
    docker.release("v2", "");
}

#[test]
fn a_service_moves_from_processes_to_containers_and_back() {
    if !servers_wanted("a_service_moves_from_processes_to_containers_and_back") {
        return;
    }
    let docker = Docker::new(&["v2"]);
    let scratch = &docker.scratch;
    service::file(scratch, "v1", "", QUICK);
    scratch.deploy().expect(0);
    service::whole(scratch, 2);
    let load = service::load(scratch);
    docker.release("v2", "");
    assert_eq!(service::instances(scratch), 0, "processes of before: {:?}", scratch.processes());
    service::file(scratch, "v3", "", QUICK);
    scratch.deploy().expect(0);
    service::settled(scratch, 2);
    let report = service::finish(scratch, load);
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1", "v2", "v3"]);
    assert_eq!(docker.containers(), [""; 0]);
}

#[test]
fn a_candidate_that_ends_is_refused_with_what_it_said() {
    if !servers_wanted("a_candidate_that_ends_is_refused_with_what_it_said") {
        return;
    }
    let docker = Docker::new(&["v1", "v2"]);
    docker.release("v1", "");
    let ends = "    command: [/shop, --exact, 'service::entry', --nocapture]\n    secrets: [EXIT]\n";
    docker.file("v2", ends, QUICK);
    let mut deploy = docker.scratch.command(&["deploy", "--output", "json"]);
    let said = crate::harness::Said::from(deploy.env("EXIT", "now").output().unwrap()).expect(3);
    let report = said.report();
    let text = report.to_string();
    assert!(text.contains("exit status 3"), "{text}");
    assert!(said.out.contains("ends at once, as it was told"), "{}", said.out);
    service::settled(&docker.scratch, 2);
    // Its value is in the container alone: not in the journal, nor in a label.
    let journal = fs::read(docker.scratch.state().join("journal.db")).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&journal).contains("EXIT=now"));
    assert_eq!(get(docker.scratch.address, "/"), Some((200, "v1\n".into())));
    let plan: Value = docker.scratch.run(&["plan", "--output", "json"]).json();
    assert!(!plan.to_string().contains("\"now\""), "{plan}");
}

#[test]
fn without_an_engine_the_release_is_refused_and_processes_are_none_the_worse() {
    let mut scratch = Scratch::new();
    let nowhere = scratch.path().join("nowhere.sock");
    scratch.docker_host = Some(format!("unix://{}", nowhere.display()));
    service::file(&scratch, "v1", "", QUICK);
    scratch.deploy().expect(0);
    service::whole(&scratch, 2);
    let text = format!(
        "service: shop\nplatform: {{docker: {{image: shop}}}}\nroute: [{{proxy: {{listen: '{}'}}}}]\n{QUICK}\n",
        scratch.address
    );
    fs::write(scratch.path().join("cutover.yaml"), text).unwrap();
    let said = scratch.run(&["deploy"]);
    assert_ne!(said.code, 0);
    let all = format!("{}{}", said.out, said.err);
    assert!(all.contains("nowhere.sock") && all.contains("systemctl start docker"), "{all}");
    assert!(!Path::new(&nowhere).exists());
    service::whole(&scratch, 2);
}
