//! What is counted is exact, comes along, and knows of requests that nothing comes of.

use std::sync::atomic::Ordering;

use cutover_proxy::{Arm, EventKind, Guard};
use rustix::process::Signal;

use super::harness::{self, Proxy, SERVICE, Wire, candidate, signal, table, track, until, until_seen};
use super::upstream::Upstream;

fn guard(min_requests: u64, max_p95_ms: Option<u64>) -> Guard {
    Guard { min_requests, max_error_bp: None, max_mean_ms: None, max_p95_ms }
}

#[tokio::test]
async fn counts_and_the_guards_evidence_come_along_over_an_upgrade_and_a_crash() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let mut service = table(vec![track("v1", 5_000, &[v1.addr]), track("v2", 5_000, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", 60_000, Some(guard(1_000_000, Some(60_000))));
    proxy.set(0, &service).await;
    let ask = async |count: usize| {
        let mut wire = Wire::connect(proxy.addr).await;
        for _ in 0..count {
            assert_eq!(wire.get("/id").await.status, 200);
        }
    };
    ask(30).await;
    // Under way while the worker is replaced: it ends in the hands of the one before.
    let mut slow = Wire::connect(proxy.addr).await;
    slow.send("GET /slow/700 HTTP/1.1\r\nhost: a\r\nx-cutover-pin: none\r\n\r\n").await;
    until_seen(&proxy, "it is claimed", |seen| {
        harness::counts(seen, "v1", Arm::Stable).claimed + harness::counts(seen, "v2", Arm::Candidate).claimed
            == 31
    })
    .await;
    let before = proxy.worker_pid().await;
    signal(proxy.holder.id(), Signal::HUP);
    until_seen(&proxy, "the next worker", |seen| seen.worker_pid != before).await;
    ask(10).await;
    assert_eq!(slow.response(false).await.unwrap().status, 200);
    until_seen(&proxy, "what the one before finished is counted", |seen| {
        harness::counts(seen, "v1", Arm::Stable).finished
            + harness::counts(seen, "v2", Arm::Candidate).finished
            == 41
    })
    .await;
    // What the slow one came to is not among the guard's evidence: it ended after the evidence was handed on.
    let pid = proxy.worker_pid().await;
    until("all of it is written down", || {
        let mut files = std::fs::read_dir(proxy.path("counts")).ok()?.flatten();
        let own = format!("{pid}-");
        let file = files.find(|file| file.file_name().to_string_lossy().starts_with(&own))?;
        let text = std::fs::read_to_string(file.path()).ok()?;
        let claimed = text
            .split("\"claimed\":")
            .skip(1)
            .map(|rest| rest.split(',').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0));
        (claimed.sum::<u64>() == 41).then_some(())
    })
    .await;
    let seen = proxy.client.observe().await.unwrap();
    signal(pid, Signal::KILL);
    let after = until_seen(&proxy, "another worker", |seen| seen.worker_pid != pid).await;
    let sum = |seen: &cutover_proxy::Observation| {
        (harness::counts(seen, "v1", Arm::Stable), harness::counts(seen, "v2", Arm::Candidate))
    };
    assert_eq!(sum(&after), sum(&seen));
    assert_eq!(after.services[SERVICE].guard, seen.services[SERVICE].guard);
    // A weight that is set anew begins the guard's evidence anew, and nothing is counted twice.
    (service.tracks[0].weight_bp, service.tracks[1].weight_bp) = (6_000, 4_000);
    proxy.set(1, &service).await;
    let again = proxy.client.observe().await.unwrap();
    assert_eq!((again.services[SERVICE].guard.as_ref().unwrap().requests, sum(&again)), (0, sum(&seen)));
}

#[tokio::test]
async fn a_candidate_that_hangs_is_judged_by_the_age_of_its_requests() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let moved = |weight: u16| {
        let tracks = vec![track("v1", 10_000 - weight, &[v1.addr]), track("v2", weight, &[v2.addr])];
        let mut service = table(tracks);
        service.candidate = candidate("r1", "v2", 60_000, Some(guard(3, Some(300))));
        service
    };
    proxy.set(0, &moved(0)).await;
    // So many that it is known what stable's slowest take.
    let asked = (0..40).map(|_| async {
        let mut wire = Wire::connect(proxy.addr).await;
        for _ in 0..100 {
            assert_eq!(wire.get("/id").await.text(), "v1");
        }
    });
    futures_util::future::join_all(asked).await;
    // Nothing ever comes of these, and no limit is set for the time of an answer.
    v2.shared.delay_ms.store(3_600_000, Ordering::SeqCst);
    proxy.set(1, &moved(5_000)).await;
    let mut wires = Vec::new();
    for _ in 0..30 {
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send("GET /id HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        wires.push(wire);
    }
    until_seen(&proxy, "the guard trips", |seen| {
        seen.events.iter().any(|event| event.kind == EventKind::Trip)
    })
    .await;
    // Asked once more: threads say their counts before the events are looked at.
    let tripped = proxy.client.observe().await.unwrap();
    let counts = harness::counts(&tripped, "v2", Arm::Candidate);
    assert!(counts.hung >= 3, "{counts:?}");
    assert_eq!((counts.latency.count(), counts.failed_total()), (0, 0), "nothing has come of any");
    let trip = tripped.events.iter().find(|event| event.kind == EventKind::Trip).unwrap();
    let numbers = trip.guard.as_ref().expect("numbers");
    assert_eq!((numbers.errors, numbers.requests), (0, numbers.over_p95_limit));
    assert!((3..=counts.hung).contains(&numbers.requests), "{numbers:?}");
}
