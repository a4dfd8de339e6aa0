//! A server that is stopped, not dead: its lease lapses, and what it does when it goes on harms nothing.

use rustix::process::Signal;

use crate::harness::{Said, Scratch, get, kill, servers_wanted, wait};
use crate::service::{self, Shop, bakes_at, finish, load, whole};

const MORE: &str =
    "strategy: {canary: {weights: [50%, 100%], bake: 30m}}\nbake: 30m\nkeep_warm: 0s\ndrain: 8s";

#[test]
fn a_server_stopped_for_longer_than_its_lease_finds_its_release_taken_back() {
    if !servers_wanted("a_server_stopped_for_longer_than_its_lease_finds_its_release_taken_back") {
        return;
    }
    let scratch = Scratch::new();
    service::file(&scratch, "v1", "", MORE);
    scratch.deploy().expect(0);
    whole(&scratch, 2);
    let load = load(&scratch);
    Shop { version: "v2", more: MORE, ..Shop::default() }.file(&scratch);
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    bakes_at(&scratch, "50%");
    service::more(&load, 60);
    let server = scratch.server_pid();
    kill(server, Signal::STOP);
    // Nobody renews the lease now; the proxy alone brings the traffic back. So many answers in a row by v1 are no chance.
    let mut row = 0;
    wait("the lease to lapse", || {
        let stable = get(scratch.address, "/").is_some_and(|(_, body)| body == "v1\n");
        row = if stable { row + 1 } else { 0 };
        (row > 40).then_some(())
    });
    load.expect_version(Some("v1"));
    // A stopped server is not a dead one: nothing replaces it, and whoever asks is told.
    let asked = scratch.run(&["status"]).expect(1);
    assert!(
        asked.err.contains(&format!("pid {server}")) && asked.err.contains("kill -CONT"),
        "{}",
        asked.err
    );
    kill(server, Signal::CONT);
    // The late driver learns of the trip; its own words about weights come too late.
    let told = Said::from(deploy.wait_with_output().unwrap()).expect(4).report();
    assert!(told["why"].as_str().unwrap().contains("lease"), "{told}");
    assert_eq!(told["failed_by_router"], 0, "{told}");
    whole(&scratch, 2);
    assert_eq!(scratch.server_pid(), server, "it is the same server all along");
    service::more(&load, 60);
    let report = finish(&scratch, load);
    assert_eq!((report.failed(), report.strays), (0, 0), "{report}\n{:?}", report.stray_texts);
    assert!(report.versions["v2"].answers > 0);
}
