//! What HTTP/1.1 owes its clients and servers.

use std::time::Duration;

use cutover_proxy::{Arm, PIN_HEADER, PinKey, REASON_HEADER, sign_pin};

use super::harness::{Proxy, Wire, table, track, until_seen};
use super::upstream::{Upstream, read_request, scripted, write};

async fn one(name: &str) -> (Proxy, Upstream) {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start(name).await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[upstream.addr])])).await;
    (proxy, upstream)
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (proxy, upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..20 {
        assert_eq!(wire.get("/id").await.text(), "v1");
    }
    assert_eq!(upstream.shared.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.claimed, counts.finished, counts.status[1]), (20, 20, 20));
    assert_eq!(counts.latency.count(), 20);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /slow/50 HTTP/1.1\r\nhost: a\r\n\r\nGET /headers HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().text(), "v1");
    assert!(wire.response(false).await.unwrap().text().starts_with("GET /headers"));
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /id HTTP/1.1\r\nhost: a\r\n\r\nGET /id HTTP/1.1\r\nho").await;
    assert_eq!(wire.response(false).await.unwrap().text(), "v1");
    wire.send("st: a\r\n\r\nnonsense\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().text(), "v1");
    // Whoever sends nonsense is told so, not only cut off.
    assert_eq!(wire.response(false).await.unwrap().status, 400);
    assert!(wire.is_closed().await);
}

#[tokio::test]
async fn a_client_of_http_1_0_need_not_name_the_host_that_its_target_insists_on() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /headers HTTP/1.0\r\n\r\n").await;
    let seen = wire.response(false).await.unwrap().text();
    assert!(seen.contains(&format!("\nhost: {}\n", proxy.addr)), "{seen}");
}

#[tokio::test]
async fn a_download_streams_and_keeps_its_trailers() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /stream/50 HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n").await;
    let (status, _) = wire.head().await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(wire.chunk().await.unwrap(), b"chunk 0\n");
    // The first chunk arrived although the response is not over.
    let seen = proxy.client.observe().await.unwrap();
    assert_eq!(seen.services["shop"].revisions["v1"].in_flight, 1);
    let mut count = 1;
    while !wire.chunk().await.unwrap().is_empty() {
        count += 1;
    }
    assert_eq!(count, 50);
    assert_eq!(wire.line().await.unwrap(), "x-sum: 50");
}

#[tokio::test]
async fn an_upload_streams_in_both_framings() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    wire.send("5\r\nhello\r\n").await;
    wire.head().await.unwrap();
    // Echoed before the upload ended: nothing collects it.
    assert_eq!(wire.chunk().await.unwrap(), b"hello");
    wire.send("6\r\n world\r\n0\r\n\r\n").await;
    assert_eq!(wire.chunk().await.unwrap(), b" world");
    assert!(wire.chunk().await.unwrap().is_empty());
    wire.line().await.unwrap();
    let long = "x".repeat(3_000_000);
    assert_eq!(wire.post("/echo", &long).await.unwrap().body.len(), long.len());
}

#[tokio::test]
async fn heads_and_empty_answers_have_no_body() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("HEAD /id HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = wire.response(true).await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("2")));
    assert_eq!(wire.get("/empty/204").await.status, 204);
    assert_eq!(wire.get("/empty/304").await.status, 304);
    assert_eq!(wire.get("/id").await.text(), "v1");
    assert_eq!(proxy.counts("v1", Arm::Stable).await.finished, 4);
}

#[tokio::test]
async fn an_http_1_0_client_gets_its_answer_and_the_end() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /stream/3 HTTP/1.0\r\n\r\n").await;
    let response = wire.response(false).await.unwrap();
    assert_eq!(response.text(), "chunk 0\nchunk 1\nchunk 2\n");
    assert!(response.header("transfer-encoding").is_none());
    assert!(wire.is_closed().await);
}

#[tokio::test]
async fn an_http_1_0_server_may_end_its_body_by_closing() {
    let proxy = Proxy::start().await;
    let addr = scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream).await;
        write(&mut stream, "HTTP/1.0 200 OK\r\nserver: SimpleHTTP\r\n\r\nthe end").await;
    })
    .await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..5 {
        assert_eq!(wire.get("/").await.text(), "the end");
        assert_eq!(wire.post("/", "x").await.unwrap().text(), "the end");
    }
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let (proxy, upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("POST /post HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    assert_eq!(wire.head().await.unwrap().0, 100);
    wire.send("abc").await;
    assert_eq!(wire.response(false).await.unwrap().text(), "v1");
    assert_eq!(*upstream.shared.posted.lock().unwrap(), ["abc"]);
}

#[tokio::test]
async fn hop_headers_end_here_and_forwarded_ones_are_ours() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send(
        "GET http://shop.test/headers?a=b HTTP/1.1\r\nhost: ignored\r\nconnection: x-private\r\nx-private: 1\r\n\
         keep-alive: 5\r\nx-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-cutover-pin: v1:00\r\n\r\n",
    )
    .await;
    let text = wire.response(false).await.unwrap().text();
    let wanted = "GET /headers?a=b\nhost: shop.test\nx-forwarded-for: 127.0.0.1\n\
                  x-forwarded-host: shop.test\nx-forwarded-proto: http";
    assert_eq!(text, wanted);
}

#[tokio::test]
async fn refusals_say_why() {
    let proxy = Proxy::start().await;
    let nowhere = proxy.get("/").await;
    assert_eq!((nowhere.status, nowhere.header(REASON_HEADER)), (404, Some("no-service")));
    let mut closed = table(vec![]);
    closed.hosts = vec!["shop.test".into()];
    proxy.set(0, &closed).await;
    let empty = proxy.get("/").await;
    assert_eq!((empty.status, empty.header(REASON_HEADER)), (503, Some("no-target")));
    assert_eq!(empty.header("retry-after"), Some("1"));
    closed.maintenance = Some("back at noon".into());
    proxy.set(1, &closed).await;
    let maintained = proxy.get("/").await;
    assert_eq!((maintained.status, maintained.header(REASON_HEADER)), (503, Some("maintenance")));
    assert!(maintained.text().contains("back at noon"));
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET / HTTP/1.1\r\nhost: other.test\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().status, 404);
    let seen = proxy.client.observe().await.unwrap();
    assert_eq!(
        (seen.unrouted["no-service"], seen.unrouted["no-target"], seen.unrouted["maintenance"]),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn a_signed_pin_reaches_the_candidate_and_counts_apart() {
    let (proxy, stable, candidate) =
        (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let key = "00112233445566778899aabbccddeeff";
    let mut service = table(vec![track("v1", 10_000, &[stable.addr]), track("v2", 0, &[candidate.addr])]);
    service.pin_key = Some(PinKey(key.into()));
    proxy.set(0, &service).await;
    let ask = async |pin: String| {
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send(format!("GET /id HTTP/1.1\r\nhost: a\r\n{PIN_HEADER}: {pin}\r\n\r\n")).await;
        wire.response(false).await.unwrap().text()
    };
    assert_eq!(ask(sign_pin(key, "shop", "v2")).await, "v2");
    assert_eq!(ask(sign_pin("ffeeddccbbaa99887766554433221100", "shop", "v2")).await, "v1");
    assert_eq!(ask(sign_pin(key, "other", "v2")).await, "v1");
    let seen = until_seen(&proxy, "all counted", |seen| seen.services["shop"].arms.len() == 2).await;
    assert!(seen.services["shop"].table.pin_key.is_none(), "the key is never shown");
    assert_eq!(proxy.counts("v2", Arm::Pinned).await.finished, 1);
    assert_eq!(proxy.counts("v1", Arm::Stable).await.finished, 2);
    // A set without a key keeps the one before.
    service.pin_key = None;
    assert!(!proxy.set(1, &service).await.changed);
    assert_eq!(ask(sign_pin(key, "shop", "v2")).await, "v2");
}

#[tokio::test]
async fn a_silent_target_is_given_up_when_a_limit_is_set() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[upstream.addr])]);
    service.response_timeout_ms = Some(100);
    proxy.set(0, &service).await;
    let response = proxy.get("/slow/5000").await;
    assert_eq!((response.status, response.header(REASON_HEADER)), (504, Some("response-timeout")));
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.failed["response-timeout"], counts.first_attempt_failed), (1, 1));
}

#[tokio::test]
async fn a_client_that_leaves_is_no_fault_of_the_target() {
    let (proxy, upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /slow/10000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    super::harness::until("request arrives", || (upstream.requests() == 1).then_some(())).await;
    drop(wire);
    until_seen(&proxy, "abort is counted", |seen| {
        let counts = super::harness::counts(seen, "v1", Arm::Stable);
        counts.aborted_by_client == 1 && seen.services["shop"].revisions["v1"].in_flight == 0
    })
    .await;
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.first_attempt_failed, counts.failed_total()), (0, 0));
    tokio::time::timeout(Duration::from_secs(5), proxy.get("/id")).await.unwrap();
}

#[tokio::test]
async fn a_refused_upload_can_be_sent_and_its_refusal_read() {
    let proxy = Proxy::start().await;
    let mut wire = Wire::connect(proxy.addr).await;
    let long = "x".repeat(5_000_000);
    for _ in 0..3 {
        let refused = wire.post("/", &long).await.unwrap();
        assert_eq!((refused.status, refused.header(REASON_HEADER)), (404, Some("no-service")));
    }
    // A target that answers before it has read everything.
    let addr = scripted(|mut stream, _| async move {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut head).await.unwrap();
        }
        write(&mut stream, "HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
            .await;
        // Reads on, as a server should that closes under an upload.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await;
    })
    .await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    for _ in 0..3 {
        let refused = wire.post("/", &long).await.unwrap();
        assert_eq!((refused.status, refused.text().as_str()), (413, "big"));
    }
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let proxy = Proxy::start().await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().header(REASON_HEADER), Some("two-hosts"));
    assert!(wire.is_closed().await);
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().status, 501);
}

#[tokio::test]
async fn events_arrive_as_they_are_sent() {
    let (go, gone) = (std::sync::Arc::new(tokio::sync::Semaphore::new(0)), Proxy::start().await);
    let (proxy, allowed) = (gone, go.clone());
    let addr = scripted(move |mut stream, _| {
        let allowed = allowed.clone();
        async move {
            let _ = read_request(&mut stream).await;
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            write(&mut stream, head).await;
            for _ in 0..3 {
                // The next event is not even there before the client has the last one.
                allowed.acquire().await.unwrap().forget();
                write(&mut stream, "9\r\ndata: x\n\n\r\n").await;
            }
            write(&mut stream, "0\r\n\r\n").await;
        }
    })
    .await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /events HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n").await;
    let (status, head) = wire.head().await.unwrap();
    assert!(status == 200 && head.contains("content-type: text/event-stream"), "{head}");
    for _ in 0..3 {
        go.add_permits(1);
        assert_eq!(wire.chunk().await.unwrap(), b"data: x\n\n");
    }
    assert!(wire.chunk().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_is_not_asked_for_before_there_is_a_target() {
    let proxy = Proxy::start().await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("POST /post HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n").await;
    // Refused without the body: no 100 before it.
    let refused = wire.response(false).await.unwrap();
    assert_eq!((refused.status, refused.header(REASON_HEADER)), (404, Some("no-service")));
}

#[tokio::test]
async fn trailers_that_are_announced_pass_both_ways() {
    let (proxy, _upstream) = one("v1").await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send(
        "POST /trailers HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
         2\r\nab\r\n0\r\nx-sum: 2\r\n\r\n",
    )
    .await;
    assert_eq!(wire.response(false).await.unwrap().text(), "ab x-sum: 2");
    wire.send("GET /stream/2 HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\r\n").await;
    let down = wire.response(false).await.unwrap();
    assert_eq!((down.text().as_str(), down.trailers.as_str()), ("chunk 0\nchunk 1\n", "x-sum: 2"));
}
