//! Active checks: who fails gets no requests, who passes again does, and nobody is left without a target.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use cutover_proxy::{
    ErrorKind, Observation, ServiceTable, TargetChecks, TargetObservation, TargetProtocol, Track,
};
use rustix::process::Signal;

use super::harness::{Proxy, SERVICE, Wire, signal, table, track, until_seen};
use super::upstream::{Upstream, refusing};

fn every(interval_ms: u64) -> TargetChecks {
    TargetChecks {
        path: Some("/health".into()),
        status: (200, 399),
        body: None,
        interval_ms,
        timeout_ms: 2_000,
        fall: 3,
        rise: 2,
    }
}

fn checked(addresses: &[SocketAddr], checks: TargetChecks) -> ServiceTable {
    let mut tracks = vec![track("v1", 10_000, addresses)];
    tracks[0].checks = Some(checks);
    table(tracks)
}

fn target(seen: &Observation, address: SocketAddr) -> &TargetObservation {
    seen.services[SERVICE].targets.iter().find(|target| target.address == address).unwrap()
}

/// Who answers a number of requests.
async fn served_by(proxy: &Proxy, requests: usize) -> Vec<String> {
    let mut wire = Wire::connect(proxy.addr).await;
    let mut names = Vec::new();
    for _ in 0..requests {
        let response = wire.get("/id").await;
        names.push(response.header("x-served-by").unwrap_or_default().to_owned());
    }
    names.sort();
    names.dedup();
    names
}

#[tokio::test]
async fn a_sick_target_gets_no_request_until_it_passes_again() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    b.shared.status.store(500, Ordering::SeqCst);
    proxy.set(0, &checked(&[a.addr, b.addr], every(20))).await;
    let seen = until_seen(&proxy, "b is down", |seen| !target(seen, b.addr).up).await;
    assert_eq!(target(&seen, b.addr).why.as_deref(), Some("answered 500"));
    assert!(target(&seen, b.addr).asked >= 3 && target(&seen, a.addr).up, "{seen:#?}");
    assert_eq!(served_by(&proxy, 60).await, ["a"], "no client is the one who finds out");
    b.shared.status.store(200, Ordering::SeqCst);
    until_seen(&proxy, "b is up", |seen| target(seen, b.addr).up).await;
    assert_eq!(served_by(&proxy, 60).await, ["a", "b"]);
}

#[tokio::test]
async fn a_target_that_hangs_is_down_too() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    b.shared.delay_ms.store(60_000, Ordering::SeqCst);
    proxy.set(0, &checked(&[a.addr, b.addr], TargetChecks { timeout_ms: 200, ..every(20) })).await;
    let seen = until_seen(&proxy, "b is down", |seen| !target(seen, b.addr).up).await;
    assert_eq!(target(&seen, b.addr).why.as_deref(), Some("no answer within 200ms"));
    assert_eq!(served_by(&proxy, 20).await, ["a"]);
}

#[tokio::test]
async fn the_last_target_of_a_track_is_never_taken_away() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    for sick in [&a, &b] {
        sick.shared.status.store(500, Ordering::SeqCst);
    }
    proxy.set(0, &checked(&[a.addr, b.addr], every(20))).await;
    let all_down = |seen: &Observation| !target(seen, a.addr).up && !target(seen, b.addr).up;
    until_seen(&proxy, "both are down", all_down).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..20 {
        let response = wire.get("/id").await;
        assert_eq!((response.status, response.header("x-cutover-reason")), (500, None), "its own answer");
    }
    assert_eq!(served_by(&proxy, 60).await, ["a", "b"], "one alone would not carry what two could");
}

#[tokio::test]
async fn a_connection_is_asked_for_without_a_path() {
    let (proxy, a) = (Proxy::start().await, Upstream::start("a").await);
    let dead = refusing().await;
    proxy.set(0, &checked(&[a.addr, dead], TargetChecks { path: None, ..every(20) })).await;
    let seen = until_seen(&proxy, "the dead one is down", |seen| !target(seen, dead).up).await;
    assert!(target(&seen, a.addr).up && target(&seen, a.addr).check == "connect", "{seen:#?}");
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn the_body_must_say_what_is_expected() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    let checks = TargetChecks { body: Some("a".into()), ..every(20) };
    proxy.set(0, &checked(&[a.addr, b.addr], checks)).await;
    let seen = until_seen(&proxy, "b is down", |seen| !target(seen, b.addr).up).await;
    assert_eq!(target(&seen, b.addr).why.as_deref(), Some("the body does not contain \"a\""));
    assert!(target(&seen, a.addr).up);
}

#[tokio::test]
async fn one_worker_asks_once_however_many_threads_it_has() {
    let (proxy, a) = (Proxy::start().await, Upstream::start("a").await);
    assert_eq!(proxy.client.hello().await.unwrap().threads, 2);
    proxy.set(0, &checked(&[a.addr], every(20))).await;
    until_seen(&proxy, "twenty checks", |seen| target(seen, a.addr).asked >= 20).await;
    let received = a.requests();
    let asked = target(&proxy.client.observe().await.unwrap(), a.addr).asked;
    // One may be under way; two threads that asked would be at twice as many.
    assert!(received <= asked + 1, "{received} received, {asked} asked");
}

#[tokio::test]
async fn a_new_worker_finds_out_at_once() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    // Too seldom for any check but the first of a worker.
    proxy.set(0, &checked(&[a.addr, b.addr], every(3_600_000))).await;
    b.shared.status.store(500, Ordering::SeqCst);
    let before = proxy.worker_pid().await;
    signal(before, Signal::KILL);
    let seen = until_seen(&proxy, "the next worker knows", |seen| {
        seen.worker_pid != before && !target(seen, b.addr).up
    });
    assert_eq!(target(&seen.await, b.addr).asked, 1);
    assert_eq!(served_by(&proxy, 30).await, ["a"]);
}

#[tokio::test]
async fn what_leaves_the_table_is_asked_no_more() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    proxy.set(0, &checked(&[a.addr, b.addr], every(20))).await;
    until_seen(&proxy, "both were asked", |seen| target(seen, b.addr).asked >= 1).await;
    proxy.set(1, &checked(&[a.addr], every(20))).await;
    let seen = proxy.client.observe().await.unwrap();
    let (asked, received) = (target(&seen, a.addr).asked, b.requests());
    assert_eq!(seen.services[SERVICE].targets.len(), 1);
    until_seen(&proxy, "a was asked on", |seen| target(seen, a.addr).asked >= asked + 5).await;
    // One may have been under way when it left.
    assert!(b.requests() <= received + 1, "{} after {received}", b.requests());
}

#[tokio::test]
async fn checks_that_cannot_be_made_are_refused() {
    let (proxy, a) = (Proxy::start().await, Upstream::start("a").await);
    for wrong in [
        TargetChecks { path: Some("health".into()), ..every(20) },
        TargetChecks { fall: 0, ..every(20) },
        every(0),
    ] {
        let refused = proxy.client.set(SERVICE, 0, 1, &checked(&[a.addr], wrong)).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_target_of_http_2_is_asked_in_http_2() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = checked(&[upstream.addr], every(20));
    service.tracks[0].protocol = TargetProtocol::H2c;
    proxy.set(0, &service).await;
    let seen = until_seen(&proxy, "asked", |seen| target(seen, upstream.addr).asked >= 3).await;
    assert_eq!((target(&seen, upstream.addr).up, &target(&seen, upstream.addr).why), (true, &None));
    let shared = &upstream.shared;
    let (all, of_http2) = (&shared.connections, &shared.shared_connections);
    assert!(all.load(Ordering::SeqCst) <= of_http2.load(Ordering::SeqCst) + 1, "each in HTTP/2");
    upstream.shared.status.store(500, Ordering::SeqCst);
    let seen = until_seen(&proxy, "down", |seen| !target(seen, upstream.addr).up).await;
    assert_eq!(target(&seen, upstream.addr).why.as_deref(), Some("answered 500"));
}

#[tokio::test]
async fn a_balancer_is_told_whether_a_proxy_has_a_ready_target() {
    const PATH: &str = "/.well-known/cutover/ready";
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    let mut wire = Wire::connect(proxy.addr).await;
    assert_eq!(wire.get(PATH).await.status, 503, "there is no service yet");
    let mut both = checked(&[a.addr], every(20));
    both.tracks[0].weight_bp = 9_000;
    both.tracks.push(Track { checks: Some(every(20)), ..track("v2", 1_000, &[b.addr]) });
    proxy.set(0, &both).await;
    assert_eq!(wire.get(PATH).await.status, 200);
    let before = proxy.client.observe().await.unwrap();
    for sick in [&a, &b] {
        sick.shared.status.store(500, Ordering::SeqCst);
        until_seen(&proxy, "it is down", |seen| !target(seen, sick.addr).up).await;
        assert_eq!(wire.get(PATH).await.status, 503);
        sick.shared.status.store(200, Ordering::SeqCst);
        until_seen(&proxy, "it is up", |seen| target(seen, sick.addr).up).await;
        assert_eq!(wire.get(PATH).await.status, 200);
    }
    let after = proxy.client.observe().await.unwrap();
    let counted =
        |seen: &Observation| seen.services[SERVICE].arms.iter().map(|arm| arm.counts.finished).sum::<u64>();
    assert_eq!(counted(&before), counted(&after), "such a question is no request of the service");
}
