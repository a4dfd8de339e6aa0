//! Who dies with whom, and who may start beside whom.

use std::io::Read;
use std::time::Duration;

use rustix::process::Signal;

use super::harness::{Proxy, Wire, any, kill_all_of, signal, spawn_holder, table, track, until, until_seen};
use super::knocking::{Knocking, serving};
use super::upstream::Upstream;

async fn refused(dir: &std::path::Path, listen: &[std::net::SocketAddr]) -> String {
    let mut holder = spawn_holder(dir, listen);
    let status = until("second holder ends", || holder.try_wait().unwrap()).await;
    assert!(!status.success());
    let mut text = String::new();
    holder.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_second_holder_is_refused_on_the_folder_and_on_the_address() {
    let proxy = Proxy::start().await;
    let pid = proxy.holder.id().to_string();
    let text = refused(proxy.dir.path(), &[]).await;
    assert!(text.contains("is held by process") && text.contains(&pid), "{text}");
    let elsewhere = tempfile::tempdir().unwrap();
    let text = refused(elsewhere.path(), &[proxy.addr]).await;
    assert!(text.contains(&proxy.addr.to_string()) && text.contains(&pid), "{text}");
    assert!(text.contains(proxy.dir.path().to_str().unwrap()), "{text}");
    let other = tokio::net::TcpListener::bind(any()).await.unwrap();
    let text = refused(elsewhere.path(), &[other.local_addr().unwrap()]).await;
    assert!(text.contains("another program listens there") && text.contains("os error 98"), "{text}");
    assert_eq!(proxy.get("/").await.status, 404, "the first one serves on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_worker_refuses_no_connection() {
    let (proxy, _v1) = serving().await;
    let knocking = Knocking::start(proxy.addr);
    for _ in 0..5 {
        knocking.serve_more().await;
        let pid = proxy.worker_pid().await;
        signal(pid, Signal::KILL);
        until_seen(&proxy, "another worker", |seen| seen.worker_pid != pid).await;
    }
    knocking.serve_more().await;
    let (refused, broken) = knocking.end().await;
    assert_eq!(refused, 0);
    // What the worker had in its hands dies with it: at most one request of each client, per kill.
    assert!(broken <= 4 * 5, "{broken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_holder_costs_nothing_and_the_next_one_takes_over() {
    let (mut proxy, _v1) = serving().await;
    let knocking = Knocking::start(proxy.addr);
    knocking.serve_more().await;
    let worker = proxy.worker_pid().await;
    // A connection that is kept over all of it, and one busy meanwhile.
    let mut kept = Wire::connect(proxy.addr).await;
    assert_eq!(kept.get("/id").await.status, 200);
    proxy.holder.kill().unwrap();
    proxy.holder.wait().unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while proxy.client.hello().await.unwrap().holder_pid.is_some() {
        assert!(std::time::Instant::now() < end, "the worker does not notice");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    knocking.serve_more().await;
    let mut busy = Wire::connect(proxy.addr).await;
    busy.send("GET /slow/700 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    proxy.holder = spawn_holder(proxy.dir.path(), &[any()]);
    until_seen(&proxy, "the successor", |seen| seen.worker_pid != worker).await;
    assert_eq!(kept.get("/id").await.status, 200);
    assert_eq!(busy.response(false).await.unwrap().text(), "v1");
    knocking.serve_more().await;
    let hello = proxy.client.hello().await.unwrap();
    assert_eq!((hello.holder_pid, hello.listeners), (Some(proxy.holder.id()), vec![proxy.addr]));
    until("the old worker leaves", || (!runs(worker)).then_some(())).await;
    assert_eq!(knocking.end().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_signal_replaces_the_worker_without_losing_a_request() {
    let (proxy, v1) = serving().await;
    let knocking = Knocking::start(proxy.addr);
    let mut kept = Wire::connect(proxy.addr).await;
    for _ in 0..3 {
        knocking.serve_more().await;
        let before = proxy.worker_pid().await;
        assert_eq!(kept.get("/id").await.status, 200);
        signal(proxy.holder.id(), Signal::HUP);
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while proxy.worker_pid().await == before {
            assert!(std::time::Instant::now() < end, "no new worker");
        }
        // Served by the old worker still, which asks the client to go as soon as it is told itself.
        loop {
            let last = kept.get("/id").await;
            assert_eq!(last.status, 200);
            if last.header("connection") == Some("close") {
                break;
            }
            assert!(std::time::Instant::now() < end, "the old worker keeps its client");
        }
        kept = Wire::connect(proxy.addr).await;
    }
    let mut slow = Wire::connect(proxy.addr).await;
    slow.send("GET /slow/400 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until_seen(&proxy, "request is claimed", |seen| seen.services["shop"].revisions["v1"].in_flight > 0)
        .await;
    let before = proxy.worker_pid().await;
    assert_eq!(knocking.end().await, (0, 0));
    signal(proxy.holder.id(), Signal::HUP);
    until_seen(&proxy, "another worker", |seen| seen.worker_pid != before).await;
    let v2 = Upstream::start("v2").await;
    proxy.set(1, &table(vec![track("v1", 0, &[v1.addr]), track("v2", 10_000, &[v2.addr])])).await;
    // The request is in the hands of the worker before: the drain waits for it all the same.
    let drained = proxy.client.drain("shop", "v1", Duration::from_secs(10)).await.unwrap();
    assert!(drained.clean, "{drained:?}");
    let answered = tokio::time::timeout(Duration::from_millis(100), slow.response(false)).await;
    assert_eq!(answered.unwrap().unwrap().text(), "v1");
}

/// After the acknowledgement nothing goes by the table before, not even what comes on a connection that the worker
/// before keeps still.
#[tokio::test]
async fn a_worker_that_leaves_routes_by_the_table_of_its_successor() {
    let patient = [("CUTOVER_TEST_GRACE_MS", "20000")];
    let proxy = Proxy::start_with(tempfile::tempdir().unwrap(), &patient).await;
    let (v1, v2) = (Upstream::start("v1").await, Upstream::start("v2").await);
    let moved = |old: u16| table(vec![track("v1", old, &[v1.addr]), track("v2", 10_000 - old, &[v2.addr])]);
    proxy.set(0, &moved(10_000)).await;
    let mut by_the_one_before = 0;
    for round in 0..3_u16 {
        let (from, to) = if round % 2 == 0 { ("v1", "v2") } else { ("v2", "v1") };
        let mut kept = Vec::new();
        for _ in 0..8 {
            let mut wire = Wire::connect(proxy.addr).await;
            assert_eq!(wire.get("/id").await.text(), from);
            kept.push(wire);
        }
        let before = proxy.worker_pid().await;
        signal(proxy.holder.id(), Signal::HUP);
        until_seen(&proxy, "the next worker", |seen| seen.worker_pid != before).await;
        proxy.set(1 + u64::from(round), &moved(if to == "v1" { 10_000 } else { 0 })).await;
        for mut wire in kept {
            wire.send("GET /id HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
            // One that idled for too long is closed meanwhile.
            let Ok(answered) = wire.response(false).await else { continue };
            assert_eq!(answered.text(), to, "round {round}");
            by_the_one_before += u32::from(answered.header("connection") == Some("close"));
        }
    }
    assert!(by_the_one_before > 0, "the test has met no worker that leaves");
}

/// A next worker has 10 s to serve; one that does is not asked again.
#[tokio::test]
async fn a_successor_that_serves_stays() {
    let (proxy, _v1) = serving().await;
    let before = proxy.worker_pid().await;
    signal(proxy.holder.id(), Signal::HUP);
    until_seen(&proxy, "the next worker", |seen| seen.worker_pid != before).await;
    let next = proxy.worker_pid().await;
    let mut slow = Wire::connect(proxy.addr).await;
    slow.send("GET /slow/12000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(slow.response(false).await.unwrap().text(), "v1");
    assert_eq!(proxy.worker_pid().await, next);
}

fn runs(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !state.is_empty() && !state.contains(") Z ")
}

/// Whether our worker or an orphan is to be replaced: as long as the next one does not start, it serves on, alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_never_serves_changes_nothing() {
    let (mut proxy, v1) = serving().await;
    let v2 = Upstream::start("v2").await;
    let knocking = Knocking::start(proxy.addr);
    for (round, orphaned) in [(0, false), (1, true)] {
        knocking.serve_more().await;
        let before = proxy.worker_pid().await;
        std::fs::write(proxy.path("broken"), "").unwrap();
        if orphaned {
            proxy.holder.kill().unwrap();
            proxy.holder.wait().unwrap();
            let end = std::time::Instant::now() + Duration::from_secs(10);
            while proxy.client.hello().await.unwrap().holder_pid.is_some() {
                assert!(std::time::Instant::now() < end, "the worker does not notice");
            }
            proxy.holder = spawn_holder(proxy.dir.path(), &[any()]);
        } else {
            signal(proxy.holder.id(), Signal::HUP);
        }
        until("a successor ends", || proxy.path("broken.seen").exists().then_some(())).await;
        let (from, to) = if orphaned { (&v2, &v1) } else { (&v1, &v2) };
        let moved = table(vec![track("from", 0, &[from.addr]), track("to", 10_000, &[to.addr])]);
        assert_eq!(proxy.set(1 + round, &moved).await.generation, 2 + round, "it may be changed again");
        assert_eq!(proxy.worker_pid().await, before);
        knocking.serve_more().await;
        for name in ["broken", "broken.seen"] {
            std::fs::remove_file(proxy.path(name)).unwrap();
        }
        if !orphaned {
            signal(proxy.holder.id(), Signal::HUP);
        }
        until_seen(&proxy, "the successor", |seen| seen.worker_pid != before).await;
        until("the worker before leaves", || (!runs(before)).then_some(())).await;
        assert_eq!(proxy.client.hello().await.unwrap().holder_pid, Some(proxy.holder.id()));
    }
    assert_eq!(knocking.end().await, (0, 0));
}

#[tokio::test]
async fn a_term_signal_lets_requests_finish() {
    let (mut proxy, v1) = serving().await;
    let mut busy = Wire::connect(proxy.addr).await;
    busy.send("GET /slow/400 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("request arrives", || (v1.requests() == 1).then_some(())).await;
    let worker = proxy.worker_pid().await;
    signal(proxy.holder.id(), Signal::TERM);
    let response = busy.response(false).await.unwrap();
    assert_eq!((response.text().as_str(), response.header("connection")), ("v1", Some("close")));
    let status = until("holder ends", || proxy.holder.try_wait().unwrap()).await;
    assert!(status.success());
    assert!(!std::path::Path::new(&format!("/proc/{worker}")).exists(), "the worker ended first");
    kill_all_of(proxy.dir.path());
}
