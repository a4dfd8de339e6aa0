//! Load tests by the checker: what is sent, and what is said of it.

use std::net::SocketAddr;

use cutover_checks::NetworkChecker;
use cutover_core::file::{Load, TargetProtocol};
use cutover_core::{Blame, Fault, LoadOutcome, LoadResult, Track};
use cutover_ports::{Checker, LoadRequest};
use tokio::sync::watch;

use super::harness::{answer, nowhere, server, server_http2};

async fn ask(candidate: SocketAddr, stable: Option<SocketAddr>, test: &str) -> Result<LoadResult, Fault> {
    let test: Load = serde_json::from_str(test).unwrap();
    let progress = watch::Sender::new(None);
    let mut told = progress.subscribe();
    let request = LoadRequest {
        service: "shop".into(),
        revision: "r-0123456789ab".into(),
        candidate: vec![candidate],
        stable: stable.into_iter().collect(),
        test,
        host: Some("shop.test".into()),
        protocol: TargetProtocol::Http1,
        progress,
    };
    let said = NetworkChecker::new().load(&request).await;
    assert!(told.has_changed().unwrap() && told.borrow_and_update().is_some(), "it tells where it is");
    said
}

#[tokio::test]
async fn a_test_that_is_held_has_its_numbers() {
    let (address, mut requests) = server(&[&answer("200 OK", "fine")]).await;
    let test = r#"{"path": "/api?x=1", "method": "POST", "body": "{}", "headers": {"x-kind": "load"}, "rate": "50/s", "for": "300ms"}"#;
    let result = ask(address, None, test).await.unwrap();
    assert_eq!(result.outcome, LoadOutcome::Passed, "{result:?}");
    assert_eq!(result.test, "POST /api?x=1, 50/s for 300ms");
    let seen = result.candidate().unwrap();
    assert!(seen.requests + result.missed == 15 && seen.failed == 0 && result.due == 15, "{result:?}");
    let head = requests.recv().await.unwrap().to_lowercase();
    for part in ["post /api?x=1 http/1.1", "host: shop.test", "x-kind: load", "content-length: 2"] {
        assert!(head.contains(part), "{part} in {head}");
    }
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_asked_for() {
    let (address, mut requests) = server_http2(200).await;
    let test = r#"{"path": "/", "concurrency": 2, "for": "100ms", "protocol": "h2c"}"#;
    ask(address, None, test).await.unwrap();
    let head = requests.recv().await.unwrap();
    assert_eq!((head.version, head.uri.to_string().as_str()), (http::Version::HTTP_2, "http://shop.test/"));
}

#[tokio::test]
async fn a_test_that_is_not_held_is_the_candidates_fault_with_the_numbers() {
    let (address, _) = server(&[&answer("503 Service Unavailable", "")]).await;
    let fault = ask(address, None, r#"{"path": "/", "concurrency": 2, "for": "100ms"}"#).await.unwrap_err();
    assert_eq!(fault.blame, Blame::Candidate);
    assert!(fault.what.starts_with("load test GET /, 2 clients for 100ms failed: 0 of "), "{}", fault.what);
    assert!(fault.what.contains("the first: answered 503"), "{}", fault.what);
    let seen = fault.load.unwrap();
    assert_eq!(seen.outcome, LoadOutcome::Failed);
    assert_eq!(seen.candidate().unwrap().failed, seen.candidate().unwrap().requests);
}

#[tokio::test]
async fn both_get_the_same_load_and_are_compared() {
    let (candidate, _) = server(&[&answer("200 OK", "")]).await;
    let (stable, mut requests) = server(&[&answer("200 OK", "")]).await;
    let test = r#"{"path": "/", "rate": "100/s", "for": "200ms", "against": "both"}"#;
    let result = ask(candidate, Some(stable), test).await.unwrap();
    let of = |track| result.shares.iter().find(|share| share.track == track).unwrap().requests;
    assert_eq!(of(Track::Candidate), of(Track::Stable));
    assert!(requests.recv().await.is_some());
    assert!(result.reasons.last().unwrap().text.starts_with("beside stable, "), "{result:?}");
    // In a first release there is nobody to stand beside.
    let alone = ask(candidate, None, test).await.unwrap();
    assert!(alone.shares.iter().all(|share| share.track == Track::Candidate), "{alone:?}");
}

#[tokio::test]
async fn stable_is_left_alone_unless_the_test_names_it() {
    let (candidate, stable) = (nowhere().await, nowhere().await);
    let test: Load = serde_json::from_str(r#"{"path": "/", "concurrency": 1, "for": "1s"}"#).unwrap();
    let request = LoadRequest {
        service: "shop".into(),
        revision: "r-0123456789ab".into(),
        candidate: vec![candidate],
        stable: vec![stable],
        test,
        host: None,
        protocol: TargetProtocol::Http1,
        progress: watch::Sender::new(None),
    };
    let fault = NetworkChecker::new().load(&request).await.unwrap_err();
    assert_eq!(fault.blame, Blame::Configuration, "{fault:?}");
    assert!(fault.what.contains("is not the candidate's"), "{}", fault.what);
}
