//! Draining single targets: their revision keeps its weight, and nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cutover_proxy::{Arm, ErrorKind, REASON_HEADER, ServiceTable};
use tokio::time::timeout;

use super::harness::{LIMIT, Proxy, SERVICE, Wire, table, track, until, until_seen};
use super::upstream::Upstream;
use super::websocket::{echo, frame, open, read_frame};

const WINDOW: Duration = Duration::from_secs(10);

async fn trio() -> (Proxy, [Upstream; 3]) {
    (
        Proxy::start().await,
        [Upstream::start("a").await, Upstream::start("b").await, Upstream::start("c").await],
    )
}

/// All weight on one revision that runs on these.
fn on(upstreams: &[&Upstream]) -> ServiceTable {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.addr).collect();
    table(vec![track("v1", 10_000, &addresses)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_leaves_under_load_and_nothing_fails() {
    let (proxy, [a, b, c]) = trio().await;
    proxy.set(0, &on(&[&a])).await;
    let mut socket = open(&proxy, "/ws", "websocket").await;
    echo(&mut socket, "hello").await;
    let mut download = Wire::connect(proxy.addr).await;
    download.send("GET /stream/60 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    download.head().await.unwrap();
    proxy.set(1, &on(&[&a, &b, &c])).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (stop, addr) = (stop.clone(), proxy.addr);
            tokio::spawn(async move {
                let (mut wire, mut sent) = (Wire::connect(addr).await, 0_u64);
                while !stop.load(Ordering::SeqCst) {
                    if client % 2 == 0 {
                        wire = Wire::connect(addr).await;
                    }
                    let response = wire.post("/post", "x").await.unwrap();
                    assert_eq!(response.status, 200, "{response:?}");
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    until("the load reaches everybody", || {
        [&a, &b, &c].iter().all(|upstream| upstream.requests() > 20).then_some(())
    })
    .await;
    proxy.set(2, &on(&[&b, &c])).await;
    let leaver = tokio::spawn(async move {
        let (opcode, payload) = timeout(LIMIT, read_frame(&mut socket.stream)).await.unwrap().unwrap();
        assert_eq!((opcode, &payload[..2]), (8, &1001_u16.to_be_bytes()[..]));
        socket.send(frame(8, &payload[..2], true)).await;
        assert!(socket.is_closed().await);
    });
    let reader = tokio::spawn(async move {
        let mut chunks = 0;
        while !download.chunk().await.unwrap().is_empty() {
            chunks += 1;
        }
        chunks
    });
    let drained = proxy.client.drain_targets(SERVICE, &[a.addr], 1, WINDOW).await.unwrap();
    let received = a.requests();
    assert_eq!((drained.clean, drained.cut, drained.left), (true, 0, 0), "{drained:?}");
    assert_eq!(drained.websockets_closed, 1);
    leaver.await.unwrap();
    assert_eq!(reader.await.unwrap(), 60);
    until("the load goes on", || (b.requests() + c.requests() > 500).then_some(())).await;
    assert_eq!(a.requests(), received, "nothing reaches a target after its drain");
    stop.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for client in clients {
        sent += client.await.unwrap();
    }
    let posted: usize =
        [&a, &b, &c].iter().map(|upstream| upstream.shared.posted.lock().unwrap().len()).sum();
    assert_eq!(posted as u64, sent, "each POST arrives exactly once");
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.failed_total(), counts.cut, counts.first_attempt_failed), (0, 0, 0), "{counts:?}");
    let seen = proxy.client.observe().await.unwrap();
    assert!(!seen.services[SERVICE].revisions["v1"].draining, "the revision itself is not drained");
}

#[tokio::test]
async fn what_is_in_the_table_is_not_drained() {
    let (proxy, [a, b, c]) = trio().await;
    let service = table(vec![track("v1", 10_000, &[a.addr, b.addr]), track("v2", 0, &[c.addr])]);
    proxy.set(0, &service).await;
    for target in [&a, &c] {
        let drain = proxy.client.drain_targets(SERVICE, &[target.addr], 1, WINDOW).await;
        let refused = drain.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::StillRouted);
        assert!(refused.to_string().contains(&target.addr.to_string()), "{refused}");
    }
    assert_eq!(proxy.get("/id").await.status, 200);
    proxy.client.set(SERVICE, 1, 7, &on(&[&b])).await.unwrap();
    let late = proxy.client.drain_targets(SERVICE, &[a.addr], 6, WINDOW).await.unwrap_err();
    assert_eq!(late.kind(), &ErrorKind::Fenced { actual: 7 });
    // Of what was never there, of a service that is not there, and once more: done.
    for service in [SERVICE, "none", SERVICE] {
        assert!(proxy.client.drain_targets(service, &[a.addr, c.addr], 7, WINDOW).await.unwrap().clean);
    }
}

#[tokio::test]
async fn at_the_deadline_only_the_target_is_cut() {
    let (proxy, [a, b, _c]) = trio().await;
    proxy.set(0, &on(&[&a])).await;
    let mut cut = Wire::connect(proxy.addr).await;
    cut.send("GET /slow/60000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("request arrives", || (a.requests() == 1).then_some(())).await;
    proxy.set(1, &on(&[&b])).await;
    let mut stays = Wire::connect(proxy.addr).await;
    stays.send("POST /post HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc").await;
    until("upload begins", || (b.requests() == 1).then_some(())).await;
    let window = Duration::from_millis(100);
    let drained = proxy.client.drain_targets(SERVICE, &[a.addr], 1, window).await.unwrap();
    assert_eq!((drained.clean, drained.cut, drained.left), (false, 1, 0), "{drained:?}");
    let response = cut.response(false).await.unwrap();
    assert_eq!((response.status, response.header(REASON_HEADER)), (504, Some("drain-deadline")));
    stays.send("def").await;
    assert_eq!(stays.response(false).await.unwrap().text(), "b");
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.cut, counts.failed_total(), counts.finished), (1, 0, 1));
    // Who comes back under the same address is asked like anybody else.
    proxy.set(2, &on(&[&a])).await;
    assert_eq!(proxy.get("/id").await.text(), "a");
}

#[tokio::test]
async fn a_target_that_comes_back_ends_its_drain() {
    let (proxy, [a, b, _c]) = trio().await;
    proxy.set(0, &on(&[&a])).await;
    let mut slow = Wire::connect(proxy.addr).await;
    slow.send("POST /post HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc").await;
    until("upload begins", || (a.requests() == 1).then_some(())).await;
    proxy.set(1, &on(&[&b])).await;
    let (client, address) = (proxy.client.clone(), a.addr);
    let drain = tokio::spawn(async move { client.drain_targets(SERVICE, &[address], 1, 3 * LIMIT).await });
    until_seen(&proxy, "still in flight", |seen| seen.services[SERVICE].revisions["v1"].in_flight == 1).await;
    proxy.set(2, &on(&[&a, &b])).await;
    let ended = timeout(LIMIT, drain).await.unwrap().unwrap();
    // Asked before it was back, or after: either way nothing is cut.
    let kind = ended.unwrap_err().kind().clone();
    assert!(matches!(kind, ErrorKind::Cancelled | ErrorKind::StillRouted), "{kind:?}");
    slow.send("def").await;
    assert_eq!(slow.response(false).await.unwrap().text(), "a");
}

#[tokio::test]
async fn two_drains_of_one_target_both_end() {
    let (proxy, [a, b, _c]) = trio().await;
    proxy.set(0, &on(&[&a])).await;
    let mut slow = Wire::connect(proxy.addr).await;
    slow.send("POST /post HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc").await;
    until("upload begins", || (a.requests() == 1).then_some(())).await;
    proxy.set(1, &table(vec![track("v2", 10_000, &[b.addr])])).await;
    let drains: Vec<_> = (0..3)
        .map(|at| {
            let (client, address) = (proxy.client.clone(), a.addr);
            tokio::spawn(async move {
                match at {
                    0 => client.drain(SERVICE, "v1", 3 * LIMIT).await,
                    _ => client.drain_targets(SERVICE, &[address], 1, 3 * LIMIT).await,
                }
            })
        })
        .collect();
    until_seen(&proxy, "drains begin", |seen| seen.services[SERVICE].revisions["v1"].draining).await;
    slow.send("def").await;
    assert_eq!(slow.response(false).await.unwrap().text(), "a");
    for drain in drains {
        assert!(timeout(LIMIT, drain).await.unwrap().unwrap().unwrap().clean);
    }
}
