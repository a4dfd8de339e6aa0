//! Draining: what is claimed finishes, what does not is cut at the deadline, and said so.

use std::time::{Duration, Instant};

use cutover_proxy::{Arm, ErrorKind, REASON_HEADER};

use super::harness::{Proxy, SERVICE, Wire, table, track, until, until_seen};
use super::upstream::{Upstream, read_request, scripted, write};

async fn two() -> (Proxy, Upstream, Upstream) {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    proxy.set(0, &tracks(10_000, &v1, &v2)).await;
    (proxy, v1, v2)
}

fn tracks(old: u16, v1: &Upstream, v2: &Upstream) -> cutover_proxy::ServiceTable {
    table(vec![track("v1", old, &[v1.addr]), track("v2", 10_000 - old, &[v2.addr])])
}

#[tokio::test]
async fn a_drain_waits_for_what_is_in_flight_and_closes_what_is_kept() {
    let (proxy, v1, v2) = two().await;
    proxy.get("/id").await;
    let mut slow = Wire::connect(proxy.addr).await;
    slow.send("GET /slow/300 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("request arrives", || (v1.requests() == 2).then_some(())).await;
    proxy.set(1, &tracks(0, &v1, &v2)).await;
    let drained = proxy.client.drain(SERVICE, "v1", Duration::from_secs(10)).await.unwrap();
    assert!(drained.clean && drained.cut == 0 && drained.left == 0, "{drained:?}");
    assert!((100..5_000).contains(&drained.took_ms), "{drained:?}");
    let seen = proxy.client.observe().await.unwrap();
    let revision = seen.services[SERVICE].revisions["v1"];
    assert_eq!((revision.in_flight, revision.pooled, revision.connections), (0, 0, 0));
    assert_eq!(slow.response(false).await.unwrap().text(), "v1");
    assert_eq!(proxy.get("/id").await.text(), "v2");
}

#[tokio::test]
async fn at_the_deadline_the_rest_is_cut_and_counted() {
    let (proxy, v1, v2) = two().await;
    let mut waiting = Wire::connect(proxy.addr).await;
    waiting.send("GET /slow/60000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut reading = Wire::connect(proxy.addr).await;
    reading.send("GET /stream/100000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    reading.head().await.unwrap();
    until("both arrive", || (v1.requests() == 2).then_some(())).await;
    proxy.set(1, &tracks(0, &v1, &v2)).await;
    let started = Instant::now();
    let drained = proxy.client.drain(SERVICE, "v1", Duration::from_millis(200)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((drained.clean, drained.cut, drained.left), (false, 2, 0));
    let cut = waiting.response(false).await.unwrap();
    assert_eq!((cut.status, cut.header(REASON_HEADER)), (504, Some("drain-deadline")));
    while let Ok(chunk) = reading.chunk().await {
        assert!(!chunk.is_empty(), "a cut download must not look whole");
    }
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.cut, counts.failed_total(), counts.first_attempt_failed), (2, 0, 0));
}

#[tokio::test]
async fn a_slow_upload_is_not_cut_before_the_deadline() {
    let (proxy, v1, v2) = two().await;
    let mut upload = Wire::connect(proxy.addr).await;
    upload.send("POST /post HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc").await;
    until("upload begins", || (v1.requests() == 1).then_some(())).await;
    proxy.set(1, &tracks(0, &v1, &v2)).await;
    let client = proxy.client.clone();
    let drain = tokio::spawn(async move { client.drain(SERVICE, "v1", Duration::from_secs(10)).await });
    until_seen(&proxy, "drain begins", |seen| seen.services[SERVICE].revisions["v1"].draining).await;
    upload.send("def").await;
    assert_eq!(upload.response(false).await.unwrap().text(), "v1");
    assert!(drain.await.unwrap().unwrap().clean);
    assert_eq!(*v1.shared.posted.lock().unwrap(), ["abcdef"]);
}

#[tokio::test]
async fn only_what_has_no_weight_drains_and_weight_ends_a_drain() {
    let (proxy, v1, v2) = two().await;
    let refused = proxy.client.drain(SERVICE, "v1", Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::StillWeighted);
    let mut slow = Wire::connect(proxy.addr).await;
    slow.send("GET /slow/1000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("request arrives", || (v1.requests() == 1).then_some(())).await;
    proxy.set(1, &tracks(0, &v1, &v2)).await;
    let client = proxy.client.clone();
    let drain = tokio::spawn(async move { client.drain(SERVICE, "v1", Duration::from_secs(30)).await });
    until_seen(&proxy, "drain begins", |seen| seen.services[SERVICE].revisions["v1"].draining).await;
    // A rollback must not wait for a drain.
    proxy.set(2, &tracks(10_000, &v1, &v2)).await;
    assert_eq!(drain.await.unwrap().unwrap_err().kind(), &ErrorKind::Cancelled);
    assert_eq!(slow.response(false).await.unwrap().text(), "v1");
    assert_eq!(proxy.get("/id").await.text(), "v1");
}

#[tokio::test]
async fn a_revision_taken_from_the_table_still_finishes_and_drains() {
    let (proxy, v1, v2) = two().await;
    let mut slow = Wire::connect(proxy.addr).await;
    slow.send("GET /slow/300 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("request arrives", || (v1.requests() == 1).then_some(())).await;
    proxy.set(1, &table(vec![track("v2", 10_000, &[v2.addr])])).await;
    assert!(proxy.client.drain(SERVICE, "v1", Duration::from_secs(10)).await.unwrap().clean);
    assert_eq!(slow.response(false).await.unwrap().text(), "v1");
    // A drain of what never was, or is gone, is done.
    assert!(proxy.client.drain(SERVICE, "v1", Duration::from_secs(10)).await.unwrap().clean);
}

/// Two clients of server-sent events: one target is between two events, the other in the middle of one.
#[tokio::test]
async fn events_end_between_two_of_them_one_client_after_the_other() {
    let proxy = Proxy::start().await;
    let addr = scripted(move |mut stream, _| async move {
        let Some((asked, _)) = read_request(&mut stream).await else { return };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        write(&mut stream, head).await;
        write(&mut stream, "9\r\ndata: x\n\n\r\n").await;
        if asked.contains("/half") {
            write(&mut stream, "6\r\ndata: \r\n").await;
        }
        // Says nothing more, and does not close either.
        std::future::pending::<()>().await;
    })
    .await;
    let v2 = Upstream::start("v2").await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    let mut wires = Vec::new();
    for path in ["/events", "/events", "/half"] {
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(wire.head().await.unwrap().0, 200);
        assert_eq!(wire.chunk().await.unwrap(), b"data: x\n\n");
        wires.push(wire);
    }
    assert_eq!(wires[2].chunk().await.unwrap(), b"data: ");
    proxy.set(1, &table(vec![track("v1", 0, &[addr]), track("v2", 10_000, &[v2.addr])])).await;
    let drained = proxy.client.drain(SERVICE, "v1", Duration::from_millis(800)).await.unwrap();
    assert_eq!((drained.websockets_closed, drained.cut, drained.clean), (2, 1, false), "{drained:?}");
    let mut cut = wires.pop().unwrap();
    for mut ended in wires {
        assert!(ended.chunk().await.unwrap().is_empty(), "a whole stream, as its end says");
        assert!(ended.line().await.unwrap().is_empty());
        assert_eq!(ended.get("/id").await.text(), "v2", "the connection is kept");
    }
    assert!(cut.chunk().await.is_err(), "an event that is not whole must not look like one");
}
