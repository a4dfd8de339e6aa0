//! A fallback that leaves the candidate some weight: stable could not carry everything any more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover_proxy::{Arm, ErrorKind, EventKind, Guard, ServiceTable};

use super::harness::{Proxy, SERVICE, Wire, candidate, signal, table, track, until_seen};
use super::upstream::{Upstream, refusing};

const LIMIT: Duration = Duration::from_secs(10);

/// v1 keeps the rest of `share`; on a lapse v2 keeps `retain`.
fn leased(v1: &Upstream, v2: &Upstream, share: u16, retain: u16, lease_ms: u64) -> ServiceTable {
    let mut service = table(vec![track("v1", 10_000 - share, &[v1.addr]), track("v2", share, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", lease_ms, None);
    let lease = service.candidate.as_mut().unwrap();
    lease.fallback = vec![("v1".into(), 10_000 - retain), ("v2".into(), retain)];
    service
}

async fn two() -> (Proxy, Upstream, Upstream) {
    (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await)
}

async fn weights(proxy: &Proxy) -> (u16, u16) {
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    let effective = &seen.services[SERVICE].effective;
    (effective["v1"], effective["v2"])
}

#[tokio::test]
async fn a_lapse_leaves_what_is_retained_and_the_way_back_lowers_it() {
    let (proxy, v1, v2) = two().await;
    let more = proxy.client.set(SERVICE, 0, 1, &leased(&v1, &v2, 7_000, 7_001, 100)).await;
    assert_eq!(more.unwrap_err().kind(), &ErrorKind::Invalid, "a lapse must not raise the candidate");
    proxy.set(0, &leased(&v1, &v2, 7_000, 4_000, 100)).await;
    let events = proxy.client.watch(0, LIMIT).await.unwrap();
    assert_eq!((events[0].kind, events[0].generation), (EventKind::Lapse, Some(2)));
    assert_eq!(weights(&proxy).await, (6_000, 4_000));
    let tripped = ErrorKind::Tripped { release: "r1".into() };
    assert_eq!(proxy.client.renew(SERVICE, "r1", 1).await.unwrap_err().kind(), &tripped);
    for raised in [leased(&v1, &v2, 7_000, 4_000, 100), leased(&v1, &v2, 4_001, 0, 100)] {
        for lease in [raised.candidate.clone(), None] {
            let raised = ServiceTable { candidate: lease, ..raised.clone() };
            assert_eq!(proxy.client.set(SERVICE, 2, 1, &raised).await.unwrap_err().kind(), &tripped);
        }
    }
    // With its lease or without, batch by batch; a lease that is lost already lapses no more.
    proxy.set(2, &leased(&v1, &v2, 3_000, 3_000, 1)).await;
    let lower = |share| ServiceTable { candidate: None, ..leased(&v1, &v2, share, 0, 100) };
    proxy.set(3, &lower(1_000)).await;
    assert_eq!(weights(&proxy).await, (9_000, 1_000));
    let again = proxy.client.set(SERVICE, 4, 1, &lower(3_000)).await.unwrap_err();
    assert_eq!(again.kind(), &tripped, "what it was lowered to is the new limit");
    proxy.set(4, &lower(0)).await;
    assert_eq!(proxy.client.events(0).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_guard_that_trips_judges_no_more_of_what_is_retained() {
    let (proxy, v1, v2) = two().await;
    v2.shared.status.store(500, Ordering::SeqCst);
    let mut service = leased(&v1, &v2, 9_000, 2_000, 60_000);
    let guard = Guard { min_requests: 5, max_error_bp: Some(1_000), max_mean_ms: None, max_p95_ms: None };
    service.candidate.as_mut().unwrap().guard = Some(guard);
    proxy.set(0, &service).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..400 {
        wire.get("/id").await;
    }
    let events = proxy.client.watch(0, LIMIT).await.unwrap();
    let numbers = events[0].guard.clone().unwrap();
    assert_eq!((events[0].kind, numbers.requests, numbers.errors), (EventKind::Trip, 5, 5));
    assert_eq!(weights(&proxy).await, (8_000, 2_000));
    // The gate alone, before the table was changed, left it the same share.
    let claimed = proxy.counts("v2", Arm::Candidate).await.claimed;
    assert!((30..160).contains(&claimed), "{claimed} of 400 at 20%");
    for _ in 0..50 {
        wire.get("/id").await;
    }
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    assert_eq!((seen.services[SERVICE].table.generation, seen.services[SERVICE].guard.as_ref()), (2, None));
    assert_eq!(seen.events.len(), 1, "one trip: {:?}", seen.events);
}

#[tokio::test]
async fn a_candidate_that_does_not_answer_keeps_nothing() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 3_000, &[v1.addr]), track("v2", 7_000, &[refusing().await])]);
    service.candidate = candidate("r1", "v2", 60_000, None);
    service.candidate.as_mut().unwrap().fallback = vec![("v1".into(), 6_000), ("v2".into(), 4_000)];
    proxy.set(0, &service).await;
    proxy.client.back(SERVICE, "looks bad").await.unwrap();
    assert_eq!(weights(&proxy).await, (10_000, 0));
    // The table is still one that can be set.
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    assert!(!proxy.set(2, &seen.services[SERVICE].table).await.changed);
}

#[tokio::test]
async fn a_lapse_with_everything_retained_only_alerts() {
    let (proxy, v1, v2) = two().await;
    proxy.set(0, &leased(&v1, &v2, 10_000, 10_000, 50)).await;
    let events = proxy.client.watch(0, LIMIT).await.unwrap();
    assert_eq!((events.len(), events[0].kind), (1, EventKind::Alert));
    assert_eq!(weights(&proxy).await, (0, 10_000));
    assert!(proxy.client.renew(SERVICE, "r1", 1).await.is_ok());
}

#[tokio::test]
async fn a_boot_leaves_what_is_retained_until_the_renewal() {
    let (proxy, v1, v2) = two().await;
    proxy.set(0, &leased(&v1, &v2, 7_000, 4_000, 60_000)).await;
    let kill = async || {
        let before = proxy.worker_pid().await;
        signal(before, rustix::process::Signal::KILL);
        until_seen(&proxy, "another worker", |seen| seen.worker_pid != before).await
    };
    let seen = kill().await;
    assert!(seen.services[SERVICE].awaiting_renewal);
    assert_eq!(weights(&proxy).await, (6_000, 4_000));
    assert!(proxy.client.renew(SERVICE, "r1", 1).await.unwrap().restored);
    assert_eq!(weights(&proxy).await, (3_000, 7_000));
    proxy.client.back(SERVICE, "looks bad").await.unwrap();
    let seen = kill().await;
    assert!(!seen.services[SERVICE].awaiting_renewal, "a tripped candidate has no renewal to wait for");
    assert_eq!(weights(&proxy).await, (6_000, 4_000));
    let raised = proxy.client.set(SERVICE, 2, 1, &leased(&v1, &v2, 7_000, 4_000, 60_000)).await;
    assert_eq!(raised.unwrap_err().kind(), &ErrorKind::Tripped { release: "r1".into() });
}
