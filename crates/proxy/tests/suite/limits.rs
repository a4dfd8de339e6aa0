//! Limits and abuse: what a service does not take is refused early, and says why.

use std::time::Duration;

use cutover_proxy::{Arm, HeaderLimit, Limits, Pace, PerClient, REASON_HEADER};
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::h2_client::{H2, get};
use super::harness::{self, LIMIT, Proxy, Response, SERVICE, Wire, table, track, until_seen};
use super::upstream::Upstream;

async fn shop(limits: Limits) -> (Proxy, Upstream) {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[v1.addr])]);
    service.limits = limits;
    proxy.set(0, &service).await;
    (proxy, v1)
}

fn said(response: &Response) -> (u16, Option<&str>) {
    (response.status, response.header(REASON_HEADER))
}

/// A client may be silent for a minute, between two requests or in the middle of a head; a test has less time.
#[tokio::test]
async fn clients_that_say_nothing_are_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start_with(dir, &[("CUTOVER_TEST_IDLE_MS", "300")]).await;
    let v1 = Upstream::start("v1").await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    let mut between = Wire::connect(proxy.addr).await;
    assert_eq!(between.get("/id").await.status, 200);
    assert!(between.is_closed().await, "between two requests");
    let mut silent = Wire::connect(proxy.addr).await;
    assert!(silent.is_closed().await, "before the first");
    let mut half = Wire::connect(proxy.addr).await;
    half.send("GET /id HTTP/1.1\r\nhost: shop").await;
    // It is answered or not; it is not kept.
    let _ = half.response(false).await;
    assert!(half.is_closed().await, "in the middle of a head");
    // Who is answered slowly is not silent.
    let mut slow = Wire::connect(proxy.addr).await;
    assert_eq!(slow.get("/slow/900").await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_and_while_it_comes() {
    let (proxy, v1) = shop(Limits { body: Some(10), ..Limits::default() }).await;
    let mut wire = Wire::connect(proxy.addr).await;
    assert_eq!(wire.post("/post", "0123456789").await.unwrap().status, 200);
    let refused = wire.post("/post", "0123456789a").await.unwrap();
    assert_eq!(said(&refused), (413, Some("body-too-large")));
    assert_eq!(v1.requests(), 1, "its length said it: no target was asked");
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("POST /post HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    wire.send("8\r\n01234567\r\n").await;
    wire.send("8\r\n01234567\r\n0\r\n\r\n").await;
    assert_eq!(said(&wire.response(false).await.unwrap()), (413, Some("body-too-large")));
    // The target has none of it as a whole request.
    assert_eq!(v1.shared.posted.lock().unwrap().as_slice(), ["0123456789"]);
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!(
        (counts.failed_total(), counts.first_attempt_failed),
        (0, 0),
        "no fault of the target: {counts:?}"
    );
}

#[tokio::test]
async fn a_head_with_too_much_is_refused() {
    let headers = Some(HeaderLimit { count: 5, bytes: 200 });
    let (proxy, v1) = shop(Limits { headers, ..Limits::default() }).await;
    let mut wire = Wire::connect(proxy.addr).await;
    assert_eq!(wire.get("/id").await.status, 200);
    let many: String = (0..5).map(|at| format!("x-{at}: 1\r\n")).collect();
    wire.send(format!("GET /id HTTP/1.1\r\nhost: a\r\n{many}\r\n")).await;
    assert_eq!(said(&wire.response(false).await.unwrap()), (431, Some("headers-too-large")));
    wire.send(format!("GET /id HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(200))).await;
    assert_eq!(said(&wire.response(false).await.unwrap()), (431, Some("headers-too-large")));
    assert_eq!(v1.requests(), 1);
}

#[tokio::test]
async fn a_client_has_its_burst_over_all_its_connections() {
    // A rate so low that nothing is earned back during the test.
    let per_client = Some(PerClient { rate: Some(1), burst: 10, ..PerClient::default() });
    let (proxy, v1) = shop(Limits { per_client, ..Limits::default() }).await;
    let mut refused = 0;
    for _ in 0..30 {
        // Connections of their own, on both threads.
        let response = Wire::connect(proxy.addr).await.get("/id").await;
        match said(&response) {
            (200, None) => {}
            (429, Some("client-rate")) => {
                refused += 1;
                assert_eq!(response.header("retry-after"), Some("1"));
            }
            other => panic!("{other:?}"),
        }
    }
    // One a second is earned back: a slow machine has a few more.
    assert!((10..=20).contains(&v1.requests()), "{}", v1.requests());
    assert_eq!(refused + v1.requests(), 30);
    assert_eq!(proxy.client.observe().await.unwrap().unrouted["client-rate"], refused);
}

#[tokio::test]
async fn behind_a_trusted_load_balancer_each_client_is_its_own() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[v1.addr])]);
    service.trust_forwarded = true;
    service.limits.per_client = Some(PerClient { rate: Some(1), burst: 1, ..PerClient::default() });
    proxy.set(0, &service).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for (client, status) in [("192.0.2.1", 200), ("192.0.2.2", 200), ("192.0.2.1", 429)] {
        wire.send(format!("GET /id HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 6.6.6.6, {client}\r\n\r\n")).await;
        assert_eq!(wire.response(false).await.unwrap().status, status, "{client}");
    }
}

#[tokio::test]
async fn a_client_has_so_many_requests_at_once_until_their_bodies_end() {
    let per_client = Some(PerClient { burst: 1, at_once: Some(2), ..PerClient::default() });
    let (proxy, _v1) = shop(Limits { per_client, ..Limits::default() }).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send("GET /stream/100000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(wire.head().await.unwrap().0, 200);
        slow.push(wire);
    }
    let refused = proxy.get("/id").await;
    assert_eq!(said(&refused), (429, Some("client-busy")));
    slow.pop();
    until_seen(&proxy, "one is gone", |seen| seen.services[SERVICE].revisions["v1"].in_flight == 1).await;
    assert_eq!(proxy.get("/id").await.status, 200);
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_ends_and_a_slow_target_is_no_such() {
    let upload = Some(Pace { bytes: 10, within_ms: 200 });
    let (proxy, v1) = shop(Limits { upload, ..Limits::default() }).await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("POST /post HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n").await;
    wire.send("123").await;
    assert_eq!(said(&wire.response(false).await.unwrap()), (408, Some("client-stalled")));
    assert!(v1.shared.posted.lock().unwrap().is_empty());
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!(
        (counts.failed_total(), counts.first_attempt_failed),
        (0, 0),
        "no fault of the target: {counts:?}"
    );
    // The target takes longer than that to answer; the client has sent everything.
    let slow = Wire::connect(proxy.addr).await.post("/slow/600", "all of it").await.unwrap();
    assert_eq!(slow.status, 200);
}

#[tokio::test]
async fn a_client_that_takes_too_little_loses_its_connection_and_one_that_takes_its_time_does_not() {
    let download = Some(Pace { bytes: 1000, within_ms: 300 });
    let (proxy, _v1) = shop(Limits { download, ..Limits::default() }).await;
    let (mut slow, mut steady) = (Wire::connect(proxy.addr).await, Wire::connect(proxy.addr).await);
    // More than what the kernel takes off our hands.
    for wire in [&mut slow, &mut steady] {
        wire.send("GET /big/50000000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(wire.head().await.unwrap().0, 200);
    }
    let taken = tokio::spawn(async move {
        let (mut taken, mut some) = (0, vec![0; 1 << 20]);
        while taken < 50_000_000 {
            taken += steady.stream.read(&mut some).await.expect("it is not cut");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    until_seen(&proxy, "the slow one is gone", |seen| {
        let counts = harness::counts(seen, "v1", Arm::Stable);
        seen.connections == 1 && counts.aborted_by_client == 1
    })
    .await;
    taken.await.expect("all of it");
    // What waits for the service is none of this.
    assert_eq!(proxy.get("/slow/1000").await.status, 200);
}

#[tokio::test]
async fn a_stream_that_gets_no_window_ends_its_connection() {
    let download = Some(Pace { bytes: 64 << 10, within_ms: 300 });
    let (proxy, _v1) = shop(Limits { download, ..Limits::default() }).await;
    let (stuck, alive) = (H2::connect(proxy.addr).await, H2::connect(proxy.addr).await);
    // The window of a stream is opened only by who reads its body.
    let response = stuck.send(get("/big/50000000")).await.unwrap();
    let long = alive.send(get("/stream/200")).await.unwrap();
    assert!(!timeout(LIMIT, stuck.connection).await.unwrap().unwrap_or(false), "cut, not closed");
    drop(response);
    // A body that has nothing to say just now is not stuck.
    assert!(timeout(LIMIT, long.into_body().collect()).await.unwrap().is_ok());
    assert_eq!(alive.ask(get("/slow/1000")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_has_so_many_connections_whatever_it_asks() {
    let per_client = Some(PerClient { burst: 1, connections: Some(3), ..PerClient::default() });
    let (proxy, v1) = shop(Limits { per_client, ..Limits::default() }).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::connect(proxy.addr).await;
        assert_eq!(wire.get("/id").await.status, 200);
        open.push(wire);
    }
    let mut refused = Wire::connect(proxy.addr).await;
    assert!(refused.is_closed().await);
    assert_eq!(proxy.client.observe().await.unwrap().unrouted["client-connections"], 1);
    assert_eq!(open[0].get("/id").await.status, 200, "who is in stays");
    open.pop();
    until_seen(&proxy, "one is gone", |seen| seen.connections == 2).await;
    assert_eq!(Wire::connect(proxy.addr).await.get("/id").await.status, 200);
    assert_eq!(v1.requests(), 5);
}
