//! The wall clock is stepped by an hour, forward and back, in the middle of a release: nothing notices.

use std::process::Stdio;

use crate::harness::{Said, Scratch, wait};
use crate::service::{self, Shop, bakes_at, finish, load, status, whole};

const HOUR_MS: i64 = 3_600_000;
// An hour would be over the deadline, and over every bake.
const MORE: &str = "strategy: {canary: {weights: [50%, 100%], bake: 20m}}\nbake: 20m\nkeep_warm: 0s\ndrain: 8s\ndeadline: 50m";

#[test]
fn an_hour_more_or_less_moves_neither_bake_nor_deadline_nor_lease() {
    let scratch = Scratch::new();
    let step = scratch.path().join("step");
    let server = || {
        let mut server = scratch.command(&["server"]);
        server.env("CUTOVER_TEST_WALL", &step).stdout(Stdio::null()).stderr(Stdio::null());
        let server = server.spawn().unwrap();
        wait("the server to listen", || scratch.state().join("server.sock").exists().then_some(()));
        server
    };
    let mut first = server();
    service::file(&scratch, "v1", "", MORE);
    scratch.deploy().expect(0);
    whole(&scratch, 2);
    let load = load(&scratch);
    Shop { version: "v2", more: MORE, ..Shop::default() }.file(&scratch);
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    bakes_at(&scratch, "50%");
    let steady = |by: i64| {
        std::fs::write(&step, by.to_string()).unwrap();
        // Timers are looked at every second at the latest, leases are renewed within seconds.
        service::more(&load, 400);
        bakes_at(&scratch, "50%");
        assert_eq!(status(&scratch).unwrap()["service"]["current"]["state"], "bake");
    };
    steady(HOUR_MS);
    steady(-HOUR_MS);
    // A next server in the same boot believes the boot clock, not the wall.
    scratch.run(&["server", "stop"]).expect(0);
    first.wait().unwrap();
    std::fs::write(&step, (2 * HOUR_MS).to_string()).unwrap();
    let mut second = server();
    steady(2 * HOUR_MS);
    scratch.run(&["promote"]).expect(0);
    let told = Said::from(deploy.wait_with_output().unwrap()).expect(0).report();
    assert_eq!(told["outcome"], "released", "{told}");
    whole(&scratch, 2);
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), 0, "{report}");
    scratch.run(&["server", "stop"]).expect(0);
    second.wait().unwrap();
}
