//! Calls of gRPC: their HTTP status is 200 whatever they came to, and they are judged by their own.

use cutover_proxy::{Arm, Guard, TargetProtocol};

use super::super::h2_client::{H2, full, post};
use super::*;

/// No status of a server's failure, and one of them.
const NOT_FOUND: u16 = 5;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;

async fn begin_h2c(weight: u16, guard: Option<Guard>) -> (Proxy, Upstream, Upstream) {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let mut service = moved(weight, &v1, &v2);
    service.tracks.iter_mut().for_each(|track| track.protocol = TargetProtocol::H2c);
    if let Some(guard) = guard {
        let candidate = service.candidate.as_mut().unwrap();
        (candidate.guard, candidate.judge) = (Some(guard), None);
    }
    proxy.set(0, &service).await;
    (proxy, v1, v2)
}

/// One call; returns its status.
async fn call(client: &H2, path: &str) -> u16 {
    // A message of gRPC: not compressed, five bytes.
    let mut request = post(path, full(&b"\0\0\0\0\x05hello"[..]));
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let answer = client.ask(request).await.unwrap();
    assert_eq!(answer.status, 200);
    let status = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
    status.unwrap().to_str().unwrap().parse().unwrap()
}

/// Calls until the candidate is tripped; returns how many failed.
async fn calls_until_tripped(proxy: &Proxy, client: &H2, path: &str) -> u64 {
    let (mut failed, end) = (0, Instant::now() + LIMIT);
    while !tripped(&proxy.client.observe().await.unwrap()) {
        assert!(Instant::now() < end, "never tripped after {failed} failed calls");
        for _ in 0..5 {
            failed += u64::from(call(client, path).await != NOT_FOUND);
        }
    }
    failed
}

async fn taken_back_for(path: &str, status: u16) {
    let (proxy, v1, v2) = begin_h2c(1_000, None).await;
    let client = H2::connect(proxy.addr).await;
    for _ in 0..300 {
        assert_eq!(call(&client, path).await, NOT_FOUND);
    }
    assert!(!tripped(&proxy.client.observe().await.unwrap()));
    v2.shared.grpc_status.store(status, Ordering::SeqCst);
    let failed = calls_until_tripped(&proxy, &client, path).await;
    assert!((2..=6).contains(&failed), "{failed}");
    let served = v2.requests();
    for _ in 0..50 {
        assert_eq!(call(&client, path).await, NOT_FOUND);
    }
    assert_eq!(v2.requests(), served);
    // They passed whole, and count as failed answers of the candidate; stable's as none.
    let counts = proxy.counts("v2", Arm::Candidate).await;
    assert_eq!((counts.status[4], counts.finished, counts.failed_total()), (failed, served, 0));
    assert_eq!(counts.status[1], served - failed);
    let counts = proxy.counts("v1", Arm::Stable).await;
    assert_eq!((counts.status[4], counts.status[1]), (0, v1.requests()));
    let Verdict::Fail(failure) = ask(&proxy, None).await.verdict else { panic!("it failed") };
    assert!(failure.to_string().contains("failed"), "{failure}");
    assert_eq!(differences(&proxy).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_candidate_whose_calls_fail_in_their_trailers_is_taken_back() {
    taken_back_for("/grpc", INTERNAL).await;
}

#[tokio::test]
async fn a_candidate_whose_calls_fail_in_their_heads_is_taken_back() {
    taken_back_for("/grpc-at-once", UNAVAILABLE).await;
}

#[tokio::test]
async fn a_guard_counts_failed_calls_too() {
    for path in ["/grpc", "/grpc-at-once"] {
        let guard =
            Guard { min_requests: 10, max_error_bp: Some(1_000), max_mean_ms: None, max_p95_ms: None };
        let (proxy, _v1, v2) = begin_h2c(5_000, Some(guard)).await;
        let client = H2::connect(proxy.addr).await;
        v2.shared.grpc_status.store(UNAVAILABLE, Ordering::SeqCst);
        assert!(calls_until_tripped(&proxy, &client, path).await >= 2, "{path}");
    }
}

#[tokio::test]
async fn calls_that_fail_by_their_callers_doing_are_no_evidence() {
    let (proxy, _v1, v2) = begin_h2c(5_000, None).await;
    let client = H2::connect(proxy.addr).await;
    // INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAUTHENTICATED.
    for status in [3, 7, 8, 16] {
        v2.shared.grpc_status.store(status, Ordering::SeqCst);
        for _ in 0..50 {
            call(&client, "/grpc").await;
        }
    }
    assert!(!tripped(&proxy.client.observe().await.unwrap()));
    assert_eq!(proxy.counts("v2", Arm::Candidate).await.status[4], 0);
}
