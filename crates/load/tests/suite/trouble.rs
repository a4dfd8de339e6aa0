//! Targets that misbehave, and tests that are stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cutover_load::{Failures, Protocol, start};
use http::{Response, header};
use http_body_util::Full;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::harness::{MS, bytes, candidate, clients, rate, raw, run, seen, server, spec, status};

#[tokio::test]
async fn an_answer_that_breaks_off_failed() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n",
        b"HTTP/1.1 200 O",
        b"who is there?\r\n\r\n",
        b"",
    ] {
        let (address, heads) = bytes(answer).await;
        let report = run(spec(rate(50), MS * 200), &[candidate(address)]).await;
        let seen = seen(&report);
        let broken = Failures { broken: seen.requests, ..Failures::default() };
        assert!(seen.requests > 0 && seen.failures == broken, "{answer:?}: {seen:?}");
        assert!(seen.first_failure.starts_with("broken off: "), "{seen:?}");
        // None is sent a second time: the rate holds.
        assert_eq!(heads.lock().unwrap().len() as u64, seen.requests);
    }
}

/// A server may close a kept connection whenever it likes; that is no failure.
#[tokio::test]
async fn a_connection_that_is_closed_after_its_answer_is_made_again() {
    let (address, heads) = bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let report = run(spec(rate(50), MS * 300), &[candidate(address)]).await;
    let seen = seen(&report);
    assert!(seen.requests > 1 && seen.failed == 0, "{seen:?}");
    assert_eq!(heads.lock().unwrap().len() as u64, seen.requests);
}

#[tokio::test]
async fn nobody_listens() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut spec = spec(clients(2), MS * 200);
        spec.protocol = protocol;
        let report = run(spec, &[candidate(nowhere)]).await;
        let seen = seen(&report);
        assert_eq!(seen.failures, Failures { refused: seen.requests, ..Failures::default() }, "{seen:?}");
        // A closed loop knocks at most each 10 ms.
        assert!((2..=40).contains(&seen.requests), "{seen:?}");
        // Being refused is no quick answer.
        assert_eq!(seen.max_us, 0);
    }
}

#[tokio::test]
async fn silence_is_a_failure_as_slow_as_it_was_waited_for() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let address = server(protocol, |_| std::future::pending()).await;
        let mut spec = spec(clients(3), MS);
        spec.protocol = protocol;
        spec.timeout = MS * 150;
        let report = run(spec, &[candidate(address)]).await;
        let seen = seen(&report);
        assert_eq!(seen.failures, Failures { timeout: 3, ..Failures::default() }, "{seen:?}");
        assert!(seen.p50_us >= 149_000, "{seen:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = Arc::new(AtomicU64::new(0));
    let counted = elsewhere.clone();
    let other = server(Protocol::Http1, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { status(200) }
    })
    .await;
    let address = server(Protocol::Http1, move |_| async move {
        let to = format!("http://{other}/");
        Response::builder().status(302).header(header::LOCATION, to).body(Full::<Bytes>::default()).unwrap()
    })
    .await;
    let report = run(spec(clients(2), MS * 100), &[candidate(address)]).await;
    let seen = seen(&report);
    assert!(seen.failures.status == seen.requests && seen.first_failure == "answered 302", "{seen:?}");
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0);
}

/// Dropped, a test closes what it has open, and sends nothing more.
#[tokio::test]
async fn a_test_that_is_dropped_stops_at_once() {
    let (closed, mut ends) = mpsc::unbounded_channel();
    let (opened, mut begins) = mpsc::unbounded_channel();
    let (address, _) = raw(move |mut stream| {
        let (opened, closed) = (opened.clone(), closed.clone());
        async move {
            opened.send(()).unwrap();
            // Never answered: it ends when the other side does.
            while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
            closed.send(()).unwrap();
        }
    })
    .await;
    let hour = Duration::from_secs(3600);
    let mut spec = spec(rate(100), hour);
    spec.timeout = hour;
    let running = start(spec, &[candidate(address)]).unwrap();
    for _ in 0..3 {
        begins.recv().await.unwrap();
    }
    let progress = running.progress();
    assert!(progress.open >= 3 && progress.requests == 0 && progress.span_ms == 3_600_000, "{progress:?}");
    drop(running);
    for _ in 0..3 {
        ends.recv().await.unwrap();
    }
    // All others are closed as well; a test that went on would have one open.
    while let Ok(()) = begins.try_recv() {
        ends.recv().await.unwrap();
    }
}
