//! Nothing that can still be saved is lost, and nothing is sent twice that may not be.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cutover_proxy::{Arm, BLAME_HEADER, Balance, REASON_HEADER, Retries};

use super::harness::{Proxy, Wire, table, track, until_seen};
use super::upstream::{Upstream, read_request, refusing, scripted, write};

#[tokio::test]
async fn a_refused_connection_is_retried_at_another_target_of_the_track() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let dead = refusing().await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[dead, upstream.addr])])).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for at in 0..50 {
        assert_eq!(wire.post("/post", &at.to_string()).await.unwrap().status, 200);
    }
    assert_eq!(upstream.shared.posted.lock().unwrap().len(), 50);
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.claimed, counts.finished, counts.failed_total()), (50, 50, 0));
    assert!(counts.retried >= 1 && counts.first_attempt_failed >= 1, "{counts:?}");
    assert_eq!(counts.adopted, counts.retried);
}

#[tokio::test]
async fn then_at_the_other_track_and_the_drawn_arm_is_charged() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let tracks = vec![track("v1", 5_000, &[upstream.addr]), track("v2", 5_000, &[refusing().await])];
    let mut service = table(tracks);
    service.candidate = super::harness::candidate("r1", "v2", 60_000, None);
    proxy.set(0, &service).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..100 {
        assert_eq!(wire.get("/id").await.text(), "v1");
    }
    let (stable, candidate) =
        (proxy.counts("v1", Arm::Stable).await, proxy.counts("v2", Arm::Candidate).await);
    assert!(candidate.claimed > 10, "{candidate:?}");
    assert_eq!((candidate.first_attempt_failed, candidate.retried), (candidate.claimed, candidate.claimed));
    assert_eq!((stable.adopted, stable.finished), (candidate.claimed, 100));
    assert_eq!(stable.claimed + candidate.claimed, 100);
}

#[tokio::test]
async fn a_track_without_weight_is_never_a_way_out() {
    let (proxy, old) = (Proxy::start().await, Upstream::start("v1").await);
    proxy.set(0, &table(vec![track("v1", 0, &[old.addr]), track("v2", 10_000, &[refusing().await])])).await;
    let response = proxy.get("/id").await;
    assert_eq!((response.status, response.header(REASON_HEADER)), (503, Some("connect-refused")));
    assert_eq!(old.requests(), 0);
}

/// Answers `per_connection` requests, then closes without having announced it.
async fn closing_server(
    per_connection: usize,
    pause: Duration,
) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let addr = scripted(move |mut stream, _| {
        let log = log.clone();
        async move {
            for _ in 0..per_connection {
                let Some((_, body)) = read_request(&mut stream).await else { return };
                log.lock().unwrap().push(body);
                write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
            tokio::time::sleep(pause).await;
        }
    })
    .await;
    (addr, seen)
}

#[tokio::test]
async fn servers_that_close_kept_connections_cost_no_request() {
    for (per_connection, pause_ms) in [(1, 0), (3, 0), (1, 20), (2, 100)] {
        let proxy = Proxy::start().await;
        let (addr, seen) = closing_server(per_connection, Duration::from_millis(pause_ms)).await;
        proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
        let mut wire = Wire::connect(proxy.addr).await;
        for at in 0..40_usize {
            if at % 2 == 0 {
                assert_eq!(wire.get("/").await.status, 200);
            } else {
                assert_eq!(wire.post("/", &at.to_string()).await.unwrap().status, 200, "request {at}");
            }
            // Idle for about as long as the server waits before it closes: the worst moment.
            tokio::time::sleep(Duration::from_millis(at as u64 % 5 * pause_ms / 3)).await;
        }
        let posts: Vec<String> =
            seen.lock().unwrap().iter().filter(|body| !body.is_empty()).cloned().collect();
        let distinct: BTreeSet<&String> = posts.iter().collect();
        assert_eq!((posts.len(), distinct.len()), (20, 20), "each POST arrives exactly once");
    }
}

#[tokio::test]
async fn a_post_whose_target_dies_is_not_sent_twice_and_a_get_is() {
    let proxy = Proxy::start().await;
    let (posts, gets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (own_posts, own_gets) = (posts.clone(), gets.clone());
    let addr = scripted(move |mut stream, _| {
        let (posts, gets) = (own_posts.clone(), own_gets.clone());
        async move {
            while let Some((head, _)) = read_request(&mut stream).await {
                if head.starts_with("GET /warm") {
                    write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    continue;
                }
                let counter = if head.starts_with("POST") { &posts } else { &gets };
                if counter.fetch_add(1, Ordering::SeqCst) == 0 {
                    return; // Dies with the request in hand.
                }
                write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    let mut wire = Wire::connect(proxy.addr).await;
    // On a kept connection, where the proxy cannot know whether the request was read.
    assert_eq!(wire.get("/warm").await.status, 200);
    let lost = wire.post("/", "once").await.unwrap();
    assert_eq!((lost.status, lost.header(REASON_HEADER)), (502, Some("target-closed")));
    assert_eq!(posts.load(Ordering::SeqCst), 1);
    assert_eq!(wire.get("/warm").await.status, 200);
    assert_eq!(wire.get("/").await.status, 200);
    assert_eq!(gets.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_may_be_repeated_is_asked_again_and_nothing_else_is() {
    let proxy = Proxy::start().await;
    let asked = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let own = asked.clone();
    let addr = scripted(move |mut stream, _| {
        let asked = own.clone();
        async move {
            while let Some((head, _)) = read_request(&mut stream).await {
                let line = head.lines().next().unwrap_or_default().to_owned();
                let is_first = {
                    let mut asked = asked.lock().unwrap();
                    asked.push(line.clone());
                    !line.contains("/warm") && asked.iter().filter(|one| **one == line).count() == 1
                };
                if is_first {
                    return; // Dies with the request in hand.
                }
                write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    for (method, body, times) in [
        ("GET", "", 2),
        ("HEAD", "", 2),
        ("OPTIONS", "", 2),
        ("PUT", "", 2),
        ("DELETE", "", 2),
        ("PUT", "with a body", 1),
        ("DELETE", "with a body", 1),
        ("POST", "", 1),
        ("PATCH", "", 1),
    ] {
        let mut wire = Wire::connect(proxy.addr).await;
        // On a kept connection, where the proxy cannot know whether the request was read.
        assert_eq!(wire.get("/warm").await.status, 200);
        let path = format!("/{}", body.len());
        let length = body.len();
        wire.send(&format!("{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}"))
            .await;
        let answer = wire.response(method == "HEAD").await.unwrap();
        assert_eq!(answer.status, if times == 2 { 200 } else { 502 }, "{method} {body}");
        let line = format!("{method} {path} HTTP/1.1");
        let seen = asked.lock().unwrap().iter().filter(|one| **one == line).count();
        assert_eq!(seen, times, "{method} {body}");
    }
}

#[tokio::test]
async fn a_truncated_body_reaches_the_client_as_such_and_counts() {
    let proxy = Proxy::start().await;
    let addr = scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
    })
    .await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(wire.response(false).await.is_err());
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.failed["truncated"], counts.finished), (1, 0));
}

#[tokio::test]
async fn nonsense_from_a_target_is_a_502() {
    let proxy = Proxy::start().await;
    let addr = scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream).await;
        write(&mut stream, "SSH-2.0-nonsense\r\n\r\n").await;
    })
    .await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    let mut wire = Wire::connect(proxy.addr).await;
    let response = wire.post("/", "x").await.unwrap();
    assert_eq!((response.status, response.header(REASON_HEADER)), (502, Some("bad-response")));
}

/// Takes every request and closes; counts them.
async fn closing() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let own = taken.clone();
    let addr = scripted(move |mut stream, _| {
        let taken = own.clone();
        async move {
            if read_request(&mut stream).await.is_some() {
                taken.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    (addr, taken)
}

#[tokio::test]
async fn what_a_target_may_have_seen_is_sent_again_within_a_budget() {
    let proxy = Proxy::start().await;
    let ((a, taken_a), (b, taken_b)) = (closing().await, closing().await);
    let mut service = table(vec![track("v1", 10_000, &[a, b])]);
    service.retries = Retries { budget_bp: 1_000, floor: 5 };
    proxy.set(0, &service).await;
    // One connection: one thread, which has one budget.
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..200 {
        let response = wire.get("/").await;
        assert_eq!((response.status, response.header(REASON_HEADER)), (502, Some("target-closed")));
        assert_eq!(response.header(BLAME_HEADER), Some("target"));
    }
    let taken = taken_a.load(Ordering::SeqCst) + taken_b.load(Ordering::SeqCst);
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!(counts.retried + 200, taken as u64, "each retry is one request more for a target");
    // A tenth and the floor; a slow machine may begin another window or two.
    assert!((15..=45).contains(&counts.retried), "{counts:?}");
    assert_eq!(counts.retried + counts.not_retried, 200, "{counts:?}");
}

#[tokio::test]
async fn what_was_not_sent_needs_no_budget() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[refusing().await, upstream.addr])]);
    service.retries = Retries { budget_bp: 0, floor: 0 };
    service.balance = Balance { eject_after: 0, ..Balance::default() };
    proxy.set(0, &service).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for at in 0..100 {
        assert_eq!(wire.post("/post", &at.to_string()).await.unwrap().status, 200);
    }
    assert_eq!(upstream.shared.posted.lock().unwrap().len(), 100);
    assert!(proxy.counts("v1", Arm::Stable).await.retried > 20);
}

#[tokio::test]
async fn a_request_that_waits_for_a_connection_when_its_track_is_drained_goes_to_the_other_one() {
    let (proxy, v2) = (Proxy::start().await, Upstream::start("v2").await);
    // Its queue is full: the kernel answers no more connections, and does not refuse them either.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let _fills = std::net::TcpStream::connect(addr).unwrap();
    let moved = |v1: u16| table(vec![track("v1", v1, &[addr]), track("v2", 10_000 - v1, &[v2.addr])]);
    proxy.set(0, &moved(10_000)).await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("POST /id HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await;
    until_seen(&proxy, "it waits", |seen| seen.services["shop"].revisions["v1"].in_flight == 1).await;
    proxy.set(1, &moved(0)).await;
    let drained = proxy.client.drain("shop", "v1", Duration::from_secs(10)).await.unwrap();
    assert!(drained.clean, "{drained:?}");
    let answered = wire.response(false).await.unwrap();
    assert_eq!((answered.status, answered.text().as_str()), (200, "v2"));
}
