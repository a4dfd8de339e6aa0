//! What a proxy believes when it starts.

use std::fs;

use cutover_proxy::{ErrorKind, EventKind, REASON_HEADER};

use super::harness::{Proxy, SERVICE, candidate, signal, table, track, until_seen};
use super::upstream::{Upstream, refusing};

#[tokio::test]
async fn the_table_and_the_listeners_survive_a_restart() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let second = proxy.client.listen(super::harness::any()).await.unwrap();
    let first = proxy.addr;
    proxy.set(0, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    let dir = proxy.terminate().await;
    let proxy = Proxy::start_on(dir).await;
    assert_eq!(proxy.client.hello().await.unwrap().listeners, [first, second]);
    assert_eq!(proxy.get("/id").await.text(), "v1");
    let seen = proxy.client.observe().await.unwrap();
    assert_eq!((seen.services[SERVICE].table.generation, seen.damage.len()), (1, 0));
}

#[tokio::test]
async fn a_damaged_table_falls_back_to_the_one_before_and_says_so() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    proxy.set(1, &table(vec![track("v2", 10_000, &[v2.addr])])).await;
    let dir = proxy.terminate().await;
    let path = dir.path().join("table.json");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let proxy = Proxy::start_on(dir).await;
    assert_eq!(proxy.get("/id").await.text(), "v1");
    let seen = proxy.client.observe().await.unwrap();
    assert_eq!((seen.damage.len(), seen.events[0].kind), (1, EventKind::Damage));
    assert!(proxy.path("table.damaged.json").exists());
}

#[tokio::test]
async fn a_lost_table_is_503_until_it_is_set_and_known() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[v1.addr])]);
    service.hosts = vec!["shop.test".into()];
    proxy.set(0, &service).await;
    proxy.client.set("other", 0, 1, &table(vec![track("v1", 10_000, &[v1.addr])])).await.unwrap();
    let dir = proxy.terminate().await;
    fs::write(dir.path().join("table.json"), "").unwrap();
    fs::write(dir.path().join("table.prev.json"), "{\"schema\":1}").unwrap();
    let proxy = Proxy::start_on(dir).await;
    let lost = proxy.get("/id").await;
    assert_eq!((lost.status, lost.header(REASON_HEADER)), (503, Some("table-damaged")));
    proxy.set(0, &service).await;
    assert_eq!(proxy.get("/id").await.text(), "v1");
    let mut wire = super::harness::Wire::connect(proxy.addr).await;
    wire.send("GET / HTTP/1.1\r\nhost: other.test\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().status, 503, "what is not set again is lost, not unknown");
    let last = proxy.client.events(0).await.unwrap().last().unwrap().number;
    proxy.client.ack(last).await.unwrap();
    wire.send("GET / HTTP/1.1\r\nhost: other.test\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().status, 404);
    assert!(proxy.client.observe().await.unwrap().damage.is_empty());
}

#[tokio::test]
async fn a_candidate_waits_for_its_lease_after_a_boot() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let mut service = table(vec![track("v1", 0, &[v1.addr]), track("v2", 10_000, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", 60_000, None);
    proxy.set(0, &service).await;
    assert_eq!(proxy.get("/id").await.text(), "v2");
    let before = proxy.worker_pid().await;
    signal(before, rustix::process::Signal::KILL);
    assert_eq!(proxy.get("/id").await.text(), "v1");
    let seen = until_seen(&proxy, "another worker", |seen| seen.worker_pid != before).await;
    let shop = &seen.services[SERVICE];
    assert!(shop.awaiting_renewal && seen.events.is_empty() && shop.table.generation == 1);
    assert_eq!((shop.effective["v1"], shop.table.tracks[1].weight_bp), (10_000, 10_000));
    assert!(proxy.client.renew(SERVICE, "r1", 1).await.unwrap().restored);
    assert_eq!(proxy.get("/id").await.text(), "v2");
}

#[tokio::test]
async fn after_a_boot_a_candidate_serves_on_when_nobody_else_can() {
    let (proxy, v2) = (Proxy::start().await, Upstream::start("v2").await);
    let mut service = table(vec![track("v1", 0, &[refusing().await]), track("v2", 10_000, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", 60_000, None);
    proxy.set(0, &service).await;
    signal(proxy.worker_pid().await, rustix::process::Signal::KILL);
    assert_eq!(proxy.get("/id").await.text(), "v2");
    assert_eq!(proxy.client.events(0).await.unwrap()[0].kind, EventKind::Alert);
}

#[tokio::test]
async fn after_a_boot_at_which_nobody_answers_the_candidate_has_no_weight() {
    let proxy = Proxy::start().await;
    let mut service =
        table(vec![track("v1", 0, &[refusing().await]), track("v2", 10_000, &[refusing().await])]);
    service.candidate = candidate("r1", "v2", 60_000, None);
    proxy.set(0, &service).await;
    let before = proxy.worker_pid().await;
    signal(before, rustix::process::Signal::KILL);
    let seen = until_seen(&proxy, "another worker", |seen| seen.worker_pid != before).await;
    let shop = &seen.services[SERVICE];
    assert!(shop.awaiting_renewal, "{shop:?}");
    assert_eq!((shop.effective["v1"], shop.effective["v2"]), (10_000, 0));
}

#[tokio::test]
async fn a_trip_survives_a_crash() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let mut service = table(vec![track("v1", 5_000, &[v1.addr]), track("v2", 5_000, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", 60_000, None);
    proxy.set(0, &service).await;
    proxy.client.back(SERVICE, "by hand").await.unwrap();
    signal(proxy.worker_pid().await, rustix::process::Signal::KILL);
    let tripped = ErrorKind::Tripped { release: "r1".into() };
    assert_eq!(proxy.client.renew(SERVICE, "r1", 1).await.unwrap_err().kind(), &tripped);
    let seen = proxy.client.observe().await.unwrap();
    assert_eq!((seen.services[SERVICE].table.generation, seen.events.len()), (2, 1));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_refuses_the_set_and_serves_on() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    // Root may write anywhere, so the file to be written is made a folder instead.
    fs::create_dir(proxy.path("table.new")).unwrap();
    let next = table(vec![track("v2", 10_000, &[v2.addr])]);
    let error = proxy.client.set(SERVICE, 1, 1, &next).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Storage);
    assert!(error.to_string().contains("make the folder writable"), "{error}");
    assert_eq!(proxy.get("/id").await.text(), "v1");
    assert_eq!(proxy.client.observe().await.unwrap().services[SERVICE].table.generation, 1);
    fs::remove_dir(proxy.path("table.new")).unwrap();
    assert_eq!(proxy.set(1, &next).await.generation, 2);
}

#[tokio::test]
async fn targets_are_asked_before_they_are_trusted_again() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let gone = refusing().await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[gone, v1.addr])])).await;
    signal(proxy.worker_pid().await, rustix::process::Signal::KILL);
    let mut wire = super::harness::Wire::connect(proxy.addr).await;
    for _ in 0..50 {
        assert_eq!(wire.get("/id").await.status, 200);
    }
    let counts = proxy.counts("v1", cutover_proxy::Arm::Stable).await;
    assert_eq!((counts.finished, counts.first_attempt_failed), (50, 0), "no request had to find out");
    // It comes back: first the proxy looks, then requests follow.
    let back = tokio::net::TcpListener::bind(gone).await.unwrap();
    let (looked, _) = back.accept().await.unwrap();
    drop(looked);
    let asked = tokio::spawn(async move { back.accept().await });
    while !asked.is_finished() {
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), wire.get("/id")).await;
        wire = super::harness::Wire::connect(proxy.addr).await;
    }
}
