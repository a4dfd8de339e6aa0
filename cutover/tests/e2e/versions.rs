//! Two versions of cutover on one machine, under load: server N+1 with proxy N, and the other way round.
//!
//! The next version is this binary with `CUTOVER_TEST_NEXT` in its environment: it speaks one protocol more.

use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Scratch, alive, kill, servers_wanted, wait};
use crate::service::{self, finish, load, settled, trouble, whole};

const NEXT: &str = "CUTOVER_TEST_NEXT";
const MORE: &str = "bake: 400ms\nguard: {success: 90%}\nkeep_warm: 200ms\ndrain: 8s";

/// Starts a server of this or the next version in the place of the one that runs.
fn server(scratch: &Scratch, next: bool) -> Child {
    scratch.run(&["server", "stop"]).expect(0);
    let mut server = scratch.command(&["server"]);
    if next {
        server.env(NEXT, "1");
    }
    let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait("the server", || (scratch.server_answers() == Some(server.id().cast_signed())).then_some(()));
    server
}

/// Newest protocol of the proxy.
fn speaks(scratch: &Scratch) -> i64 {
    scratch.run(&["proxy", "status", "--output", "json"]).expect(0).json()["proxy"]["protocol"]
        .as_i64()
        .unwrap()
}

fn together(next_server: bool) {
    let scratch = Scratch::new();
    service::file(&scratch, "v0", "", MORE);
    let first: crate::harness::Said = {
        let mut deploy = scratch.command(&["deploy", "--output", "json"]);
        if !next_server {
            deploy.env(NEXT, "1");
        }
        deploy.output().unwrap().into()
    };
    first.expect(0);
    settled(&scratch, 2);
    let proxy = speaks(&scratch);
    let load = load(&scratch);
    let mut server = server(&scratch, next_server);

    service::file(&scratch, "v1", "", MORE);
    assert_eq!(scratch.deploy().expect(0).report()["outcome"], "released");
    service::file(
        &scratch,
        "v2",
        "",
        &format!("strategy: {{canary: {{weights: [30%, 100%], bake: 300ms}}}}\n{MORE}"),
    );
    assert_eq!(scratch.deploy().expect(0).report()["outcome"], "released");
    settled(&scratch, 2);
    assert_eq!(speaks(&scratch), proxy, "the proxy is still the other one");

    // A revision that breaks under traffic is taken back by a proxy and a server that differ.
    let sent = load.report();
    assert_eq!(sent.failed(), 0, "{sent}");
    service::file(&scratch, "v3", "", "bake: 1m\nguard: {success: 90%}\nkeep_warm: 200ms\ndrain: 8s");
    scratch.run(&["deploy", "--detach"]).expect(8);
    wait("traffic on v3", || {
        (crate::harness::get(scratch.address, "/") == Some((200, "v3\n".into()))).then_some(())
    });
    trouble(&scratch, "v3", "fail");
    wait("the release to be taken back", || {
        let history = scratch.run(&["history", "--output", "json", "--limit", "1"]).expect(0).json();
        (history["releases"][0]["outcome"] == "rolled back").then_some(())
    });
    whole(&scratch, 2);
    let broken = load.report().failed();

    // The server puts a holder of its own version in front of the other's worker: a handover between versions.
    let (holder, _) = scratch.proxy_pids();
    kill(holder, Signal::KILL);
    wait("the holder to be dead", || (!alive(holder)).then_some(()));
    wait("a holder of the server's version", || {
        (scratch.proxy_pids().0 > 0 && speaks(&scratch) != proxy).then_some(())
    });
    service::file(&scratch, "v4", "", MORE);
    assert_eq!(scratch.deploy().expect(0).report()["outcome"], "released");
    let sent = load.report().sent();
    load.wait_for(sent + 100, Duration::from_secs(20));
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), broken, "only what the broken revision answered itself failed\n{report}");
    kill(server.id().cast_signed(), Signal::TERM);
    server.wait().unwrap();
}

#[test]
fn the_next_server_with_this_proxy() {
    if servers_wanted("the_next_server_with_this_proxy") {
        together(true);
    }
}

#[test]
fn this_server_with_the_next_proxy() {
    if servers_wanted("this_server_with_the_next_proxy") {
        together(false);
    }
}
