//! Targets that speak HTTP/2: requests share their connections, which drain like any other.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cutover_proxy::{Arm, REASON_HEADER, ServiceTable, TargetProtocol, Track};
use futures_util::future::join_all;
use http::HeaderValue;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::h2_client::{H2, full, get, post};
use super::harness::{LIMIT, Proxy, SERVICE, Wire, table, track, until, until_seen};
use super::upstream::{Upstream, scripted, write};

fn h2c(mut track: Track) -> Track {
    track.protocol = TargetProtocol::H2c;
    track
}

async fn one(name: &str) -> (Proxy, Upstream) {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start(name).await);
    proxy.set(0, &table(vec![h2c(track("v1", 10_000, &[upstream.addr]))])).await;
    (proxy, upstream)
}

fn tracks(old: u16, v1: &Upstream, v2: &Upstream) -> ServiceTable {
    table(vec![h2c(track("v1", old, &[v1.addr])), h2c(track("v2", 10_000 - old, &[v2.addr]))])
}

fn connections(upstream: &Upstream) -> (u64, u64) {
    let shared = &upstream.shared;
    (shared.connections.load(Ordering::SeqCst), shared.shared_connections.load(Ordering::SeqCst))
}

async fn threads(proxy: &Proxy) -> u64 {
    proxy.client.hello().await.unwrap().threads as u64
}

#[tokio::test]
async fn requests_share_a_connection_per_thread() {
    let (proxy, upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    let mut all: Vec<_> = (0..50).map(|_| client.ask(get("/slow/100"))).collect();
    all.push(client.ask(post("/slow/100", full("x"))));
    let wires = join_all((0..30).map(|_| async {
        let mut wire = Wire::connect(proxy.addr).await;
        (wire.get("/slow/100").await.text(), wire.post("/echo", "body").await.unwrap().text())
    }));
    let (answers, wires) = tokio::join!(join_all(all), wires);
    assert!(answers.into_iter().all(|answer| answer.unwrap().body == "v1"));
    assert!(wires.iter().all(|(got, echoed)| got == "v1" && echoed == "body"));
    let (all, shared) = connections(&upstream);
    assert!(
        all == shared && (1..=threads(&proxy).await).contains(&all),
        "{all} connections, {shared} of HTTP/2"
    );
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.claimed, counts.finished, counts.failed_total()), (111, 111, 0));
}

#[tokio::test]
async fn the_head_is_one_of_http_2() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send(
        "GET /headers?a=b HTTP/1.1\r\nhost: shop.test:81\r\nconnection: keep-alive\r\nte: trailers\r\n\r\n",
    )
    .await;
    let seen = wire.response(false).await.unwrap().text();
    let wanted = "GET http://shop.test:81/headers?a=b\nte: trailers\nx-forwarded-for: 127.0.0.1\n\
                  x-forwarded-host: shop.test:81\nx-forwarded-proto: http";
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn a_grpc_call_streams_both_ways_and_ends_with_its_status() {
    let (proxy, _upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    let (say, mut said) = mpsc::channel::<Bytes>(1);
    let messages = futures_util::stream::poll_fn(move |cx| {
        said.poll_recv(cx).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    });
    let mut request = post("/grpc", StreamBody::new(messages).boxed());
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    // A message of gRPC: not compressed, five bytes.
    let message = Bytes::from_static(b"\0\0\0\0\x05hello");
    say.send(message.clone()).await.unwrap();
    let mut response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    for _ in 0..3 {
        let frame = timeout(LIMIT, response.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message, "answered before the next is sent");
        say.send(message.clone()).await.unwrap();
    }
    drop(say);
    let rest = timeout(LIMIT, response.into_body().collect()).await.unwrap().unwrap();
    let trailers = rest.trailers().unwrap().clone();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-messages"]),
        (&"5".parse().unwrap(), &"4".parse().unwrap())
    );
    until_seen(&proxy, "finished", |seen| super::harness::counts(seen, "v1", Arm::Stable).finished == 1)
        .await;
}

#[tokio::test]
async fn a_drain_waits_for_the_streams_and_then_ends_their_connection() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    proxy.set(0, &tracks(10_000, &v1, &v2)).await;
    let client = H2::connect(proxy.addr).await;
    let slow = tokio::spawn(client.sender.clone().send_request(get("/slow/400")));
    until("request arrives", || (v1.requests() == 1).then_some(())).await;
    proxy.set(1, &tracks(0, &v1, &v2)).await;
    // The client's connection stays, its next stream goes to the other revision.
    assert_eq!(client.ask(get("/id")).await.unwrap().body, "v2");
    let drained = proxy.client.drain(SERVICE, "v1", Duration::from_secs(10)).await.unwrap();
    assert!(drained.clean && drained.cut == 0 && drained.left == 0, "{drained:?}");
    let seen = proxy.client.observe().await.unwrap();
    let revision = seen.services[SERVICE].revisions["v1"];
    assert_eq!((revision.in_flight, revision.pooled, revision.connections), (0, 0, 0));
    let body = slow.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "v1");
}

#[tokio::test]
async fn at_the_deadline_the_streams_that_are_left_are_cut_and_counted() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    proxy.set(0, &tracks(10_000, &v1, &v2)).await;
    let client = H2::connect(proxy.addr).await;
    let reading = client.send(get("/stream/100000")).await.unwrap();
    let sender = client.sender.clone();
    let waiting = tokio::spawn(async move {
        H2 { sender, connection: tokio::spawn(async { true }) }.ask(get("/slow/60000")).await
    });
    until("both arrive", || (v1.requests() == 2).then_some(())).await;
    proxy.set(1, &tracks(0, &v1, &v2)).await;
    let drained = proxy.client.drain(SERVICE, "v1", Duration::from_millis(200)).await.unwrap();
    assert_eq!((drained.clean, drained.cut, drained.left), (false, 2, 0));
    let cut = waiting.await.unwrap().unwrap();
    assert_eq!((cut.status, cut.headers[REASON_HEADER].to_str().unwrap()), (504, "drain-deadline"));
    assert!(reading.into_body().collect().await.is_err(), "a cut download must not look whole");
    assert_eq!(client.ask(get("/id")).await.unwrap().body, "v2");
}

#[tokio::test]
async fn a_target_that_retires_its_connections_costs_no_request() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    upstream.shared.retires_after.store(7, Ordering::SeqCst);
    proxy.set(0, &table(vec![h2c(track("v1", 10_000, &[upstream.addr]))])).await;
    let client = H2::connect(proxy.addr).await;
    let calls = (0..8).map(|_| async {
        for at in 0..40 {
            let body = format!("message {at}");
            let answer = client.ask(post("/echo", full(body.clone()))).await.unwrap();
            assert_eq!((answer.status, answer.body), (200, body));
        }
    });
    join_all(calls).await;
    let (all, shared) = connections(&upstream);
    assert!(all == shared && all > 5, "connections were retired: {all}");
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.finished, counts.failed_total()), (320, 0));
}

#[tokio::test]
async fn a_target_that_allows_few_streams_gets_more_connections() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    upstream.shared.most_streams.store(4, Ordering::SeqCst);
    proxy.set(0, &table(vec![h2c(track("v1", 10_000, &[upstream.addr]))])).await;
    let client = H2::connect(proxy.addr).await;
    // The first ones come before the target has said what it allows, and wait for that.
    for answer in join_all((0..30).map(|_| client.ask(get("/slow/100")))).await {
        assert_eq!(answer.unwrap().body, "v1");
    }
    for answer in join_all((0..60).map(|_| client.ask(get("/slow/20")))).await {
        assert_eq!(answer.unwrap().body, "v1");
    }
    let (all, _) = connections(&upstream);
    assert!((2..=8 * threads(&proxy).await).contains(&all), "{all}");
}

#[tokio::test]
async fn a_reader_that_stops_does_not_stop_the_others_on_its_connection() {
    let (proxy, _upstream) = one("v1").await;
    let mut stopped = Vec::new();
    for _ in 0..12 {
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send("GET /big/30000000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        wire.head().await.unwrap();
        stopped.push(wire);
    }
    let client = H2::connect(proxy.addr).await;
    for _ in 0..4 {
        assert_eq!(client.ask(get("/big/1000000")).await.unwrap().body.len(), 1_000_000);
    }
}

#[tokio::test]
async fn what_no_target_of_http_2_has_seen_goes_to_one_of_http_1() {
    let (proxy, gone, plain) =
        (Proxy::start().await, super::upstream::refusing().await, Upstream::start("v2").await);
    let mut service = table(vec![h2c(track("v1", 5_000, &[gone])), track("v2", 5_000, &[plain.addr])]);
    proxy.set(0, &service).await;
    let client = H2::connect(proxy.addr).await;
    for _ in 0..20 {
        assert_eq!(client.ask(post("/echo", full("x"))).await.unwrap().body, "x");
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send("GET /headers HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        assert!(wire.response(false).await.unwrap().text().contains("\nhost: shop.test\n"));
    }
    // And the other way round.
    service = table(vec![track("v1", 5_000, &[gone]), h2c(track("v2", 5_000, &[plain.addr]))]);
    proxy.set(1, &service).await;
    for _ in 0..20 {
        assert_eq!(client.ask(post("/echo", full("x"))).await.unwrap().body, "x");
    }
}

#[tokio::test]
async fn a_target_that_does_not_speak_it_is_a_bad_response() {
    let proxy = Proxy::start().await;
    let addr = scripted(|mut stream, _| async move {
        // It takes the request for an odd one of HTTP/1.1.
        let mut head = [0; 90];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut head).await.unwrap();
        write(&mut stream, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await;
    })
    .await;
    proxy.set(0, &table(vec![h2c(track("v1", 10_000, &[addr]))])).await;
    let refused = Wire::connect(proxy.addr).await.post("/", "x").await.unwrap();
    assert_eq!((refused.status, refused.header(REASON_HEADER)), (502, Some("bad-response")));
}

#[tokio::test]
async fn an_upgrade_goes_by_http_1_and_counts() {
    let (proxy, upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
    assert_eq!(wire.head().await.unwrap().0, 101);
    let (all, shared) = connections(&upstream);
    assert_eq!((all, shared), (1, 0));
}
