//! Each way to fail is counted once, under its kind, with its text.

use std::io::Write;

use cutover_bench::load::{Kind, Load, Mix, Receipts};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::harness::{Running, canned, handled, only, options, run};

/// Runs three requests of one kind against a server that fails them all; returns the first text.
async fn all_fail(address: std::net::SocketAddr, kind: Kind) -> String {
    let report = run(options(address, only(kind), 3)).await;
    let counts = report.kind(kind);
    assert_eq!((counts.sent, counts.failed, report.failed()), (3, 3, 3), "{report}");
    assert!(report.versions.is_empty());
    counts.failures[0].text.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_service_fails_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("received");
    let service = Running::start("v1", Some(&file), None).await;
    let mut report =
        run(options(service.address, Mix { http2: 2, grpc: 2, sticky: 2, ..Mix::small() }, 600)).await;
    assert_eq!((report.sent(), report.failed()), (600, 0), "{report}");
    let receipts = report.check_received(&[&file]).unwrap();
    assert_eq!(receipts, Receipts { received: report.kind(Kind::Post).sent, ..Receipts::default() });
    assert_eq!((report.versions["v1"].answers, report.failed()), (600, 0));
    assert!(Kind::ALL.iter().all(|kind| report.kind(*kind).sent > 0), "{report}");
    assert!(report.messages > 0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_fail() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for kind in Kind::ALL {
        let text = all_fail(address, kind).await;
        assert!(text.contains("failed to connect") && text.contains("refused"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_closes_unanswered_fails() {
    let address = canned("").await;
    for kind in [Kind::GetKept, Kind::GetNew, Kind::Post, Kind::SlowDownload] {
        let text = all_fail(address, kind).await;
        assert!(text.starts_with("on a new connection, before any answer"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_and_wrong_bodies_fail() {
    let truncated = canned("HTTP/1.1 200 OK\r\nx-version: v1\r\ncontent-length: 9\r\n\r\nv1\n").await;
    let text = all_fail(truncated, Kind::GetNew).await;
    assert!(text.starts_with("truncated body"), "{text}");
    let text = all_fail(truncated, Kind::SlowDownload).await;
    assert!(text.starts_with("truncated body"), "{text}");
    let chunked =
        canned("HTTP/1.1 200 OK\r\nx-version: v1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nv1\n\r\n").await;
    assert!(all_fail(chunked, Kind::GetKept).await.starts_with("truncated body"));
    let wrong = canned("HTTP/1.1 200 OK\r\nx-version: v1\r\ncontent-length: 3\r\n\r\nv2\n").await;
    assert_eq!(all_fail(wrong, Kind::GetKept).await, "wrong body: \"v2\\n\" instead of \"v1\\n\"");
    assert!(all_fail(wrong, Kind::SlowDownload).await.starts_with("wrong body: byte 0"));
    assert!(all_fail(wrong, Kind::SlowUpload).await.starts_with("wrong body"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_the_service_did_not_intend_fails() {
    let proxy = canned(
        "HTTP/1.1 503 Service Unavailable\r\nx-cutover-reason: no_target\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let text = all_fail(proxy, Kind::GetKept).await;
    assert_eq!(text, "answered 503 Service Unavailable not by the service, reason no_target");
    assert_eq!(all_fail(proxy, Kind::WebSocket).await, text);
    let nobody = canned("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(all_fail(nobody, Kind::GetNew).await, "answered 200 OK not by the service");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intended_errors_are_counted_apart() {
    let service = Running::start("v1", None, Some(10)).await;
    let report = run(options(service.address, only(Kind::GetKept), 25)).await;
    let counts = report.kind(Kind::GetKept);
    assert_eq!((counts.sent, counts.failed, counts.intended_errors), (25, 0, 15), "{report}");
    let report = run(options(service.address, Mix::small(), 60)).await;
    assert_eq!((report.sent(), report.failed()), (60, 0), "{report}");
    assert_eq!(report.kinds.values().map(|counts| counts.intended_errors).sum::<u64>(), 60);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_dies_under_a_request_is_stale() {
    // Answers one request well, and closes instead of answering the second.
    let address = handled(|mut stream| async move {
        let mut request = vec![0; 4096];
        let _ = stream.read(&mut request).await;
        let good = "HTTP/1.1 200 OK\r\nx-version: v1\r\ncontent-length: 3\r\n\r\nv1\n";
        let _ = stream.write_all(good.as_bytes()).await;
        let _ = stream.read(&mut request).await;
    })
    .await;
    let report = run(options(address, only(Kind::GetKept), 10)).await;
    let counts = report.kind(Kind::GetKept);
    assert_eq!((counts.sent, counts.failed, counts.stale), (10, 5, 5), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_lost_and_doubled_fail_once_each() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("received");
    let service = Running::start("v1", Some(&file), None).await;
    let mut report = run(options(service.address, only(Kind::Post), 20)).await;
    let recorded = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = recorded.lines().collect();
    let damaged = folder.path().join("damaged");
    let mut out = std::fs::File::create(&damaged).unwrap();
    // The first is lost, the last recorded twice more; one of another load is none of ours.
    for line in lines[1..].iter().chain(&[lines[19], lines[19], "other-0-0"]) {
        writeln!(out, "{line}").unwrap();
    }
    let receipts = report.check_received(&[&damaged]).unwrap();
    assert_eq!(receipts, Receipts { received: 19, never: 1, twice: 1, unacknowledged: 0 });
    assert_eq!(report.check_received(&[&file]).unwrap(), receipts);
    let counts = report.kind(Kind::Post);
    assert_eq!((counts.sent, counts.failed), (20, 2));
    assert!(counts.failures[0].text.contains("never received"), "{report}");
    assert!(counts.failures[1].text.ends_with("received 3 times"), "{report}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_post_may_have_been_received_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("received");
    let (path, address) = (file.clone(), canned("").await);
    let mut report = run(options(address, only(Kind::Post), 2)).await;
    let counts = report.kind(Kind::Post);
    assert_eq!((counts.sent, counts.failed), (2, 2));
    // Nothing was received: both failed already, and once is enough.
    std::fs::write(path, "").unwrap();
    assert_eq!(report.check_received(&[&file]).unwrap(), Receipts::default());
    assert_eq!(report.failed(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_need_a_close_frame_and_the_right_one() {
    async fn upgraded(tail: &'static [u8]) -> std::net::SocketAddr {
        handled(move |mut stream| async move {
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..count]).into_owned();
            let key = text.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.to_owned())
            });
            let accept =
                tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.unwrap().as_bytes());
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: {accept}\r\nx-version: v1\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(tail).await;
            let _ = stream.shutdown().await;
            // The client's answer, so that closing does not reset the connection.
            while stream.read(&mut request).await.is_ok_and(|count| count > 0) {}
        })
        .await
    }
    let cut = upgraded(b"").await;
    let text = all_fail(cut, Kind::WebSocket).await;
    assert!(text.starts_with("WebSocket: cut without a close frame"), "{text}");
    // A close frame: final, opcode 8, two bytes: 1011, then 1001.
    let broken = upgraded(&[0x88, 2, 0x03, 0xf3]).await;
    assert_eq!(all_fail(broken, Kind::WebSocket).await, "WebSocket: closed by the other side with code 1011");
    let away = upgraded(&[0x88, 2, 0x03, 0xe9]).await;
    let report = run(options(away, only(Kind::WebSocket), 3)).await;
    assert_eq!((report.sent(), report.failed()), (3, 0), "{report}");
    assert_eq!(report.closed[&1001], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stops_finishes_what_it_has() {
    let service = Running::start("v1", None, None).await;
    let mut slow =
        options(service.address, Mix { slow_download: 2, slow_upload: 2, websocket: 2, ..Mix::default() }, 6);
    slow.slow = std::time::Duration::from_millis(400);
    slow.websocket_life = std::time::Duration::from_secs(30);
    let running = tokio::task::spawn_blocking(|| Load::start(slow).finish());
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    service.stop().await;
    let report = running.await.unwrap();
    assert_eq!((report.sent(), report.failed()), (6, 0), "{report}");
    assert_eq!(report.closed[&1001], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_than_expected_is_a_stray() {
    let service = Running::start("v1", None, None).await;
    let options = options(service.address, only(Kind::GetKept), u64::MAX);
    let report = tokio::task::spawn_blocking(move || {
        let load = Load::start(options);
        let limit = std::time::Duration::from_secs(5);
        load.expect_version(Some("v1"));
        assert!(load.wait_for(20, limit));
        assert_eq!(load.report().strays, 0);
        load.expect_version(Some("v2"));
        assert!(load.wait_for(load.report().sent() + 20, limit));
        load.stop()
    })
    .await
    .unwrap();
    assert!(report.strays > 10 && report.failed() == 0, "{} strays, {report}", report.strays);
    assert!(report.stray_texts[0].contains("get_kept answered by v1, when v2 had taken over"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_moved_back_fails() {
    let turn = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let moved = handled(move |mut stream| {
        let turn = turn.clone();
        async move {
            let (mut request, mut cookie) = (vec![0; 64 << 10], "set-cookie: seat=1; HttpOnly\r\n");
            let read = stream.read(&mut request).await.unwrap();
            // Moved on at the third request, back at the fifth.
            let asked = turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let version = if (2..4).contains(&asked) { "v2" } else { "v1" };
            if asked > 0 {
                assert!(String::from_utf8_lossy(&request[..read]).contains("cookie: seat=1\r\n"));
                cookie = "";
            }
            let head = format!("HTTP/1.1 200 OK\r\nx-version: {version}\r\n{cookie}");
            let answer = format!("{head}connection: close\r\ncontent-length: 3\r\n\r\n{version}\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let report = run(options(moved, only(Kind::Sticky), 5)).await;
    let counts = report.kind(Kind::Sticky);
    assert_eq!((counts.sent, counts.failed), (5, 1), "{report}");
    assert_eq!(counts.failures[0].text, "moved back to v1, after v1, v2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_ends_without_its_status_fails() {
    let cut = handled(|stream| async move {
        let service =
            hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                // Every message comes back, and nothing after the last one.
                let answer = hyper::Response::builder().header("x-version", "v1").body(request.into_body());
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            });
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.serve_connection(TokioIo::new(stream), service).await;
    })
    .await;
    let text = all_fail(cut, Kind::Grpc).await;
    assert_eq!(text, "a call ended without trailers");
}
