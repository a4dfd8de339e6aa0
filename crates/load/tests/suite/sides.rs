//! The candidate beside stable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cutover_load::{Against, Judgement, Protocol, Report, Requirements, Side, Target, Verdict};

use super::harness::{MS, candidate, clients, rate, run, server, spec, status};

/// Asks nothing but the comparison.
fn judged(report: &Report) -> Verdict {
    Requirements { success_bp: 0, mean: None, p50: None, p95: None, p99: None, requests: 1 }.verdict(report)
}

async fn compare(candidate_fails_each: u64, pace: cutover_load::Pace) -> Report {
    let mut targets = Vec::new();
    for (side, each) in [(Side::Stable, u64::MAX), (Side::Candidate, candidate_fails_each)] {
        let count = Arc::new(AtomicU64::new(1));
        let address = server(Protocol::Http1, move |_| {
            let fails = count.fetch_add(1, Ordering::SeqCst).is_multiple_of(each);
            async move { status(if fails { 500 } else { 200 }) }
        })
        .await;
        targets.push(Target { side, address });
    }
    let mut spec = spec(pace, MS * 1000);
    spec.against = Against::Both;
    run(spec, &targets).await
}

#[tokio::test]
async fn a_candidate_that_fails_more_than_stable_is_proven_worse() {
    for pace in [clients(4), rate(300)] {
        let report = compare(10, pace).await;
        let verdict = judged(&report);
        assert_eq!(verdict.judgement, Judgement::Fail, "{verdict}");
        assert!(verdict.to_string().contains("beside stable, fail: the candidate is worse"), "{verdict}");
        let of = |side| report.total(side).unwrap();
        // Both got the same requests.
        assert_eq!(of(Side::Candidate).requests, of(Side::Stable).requests);
        assert!(of(Side::Candidate).failed > 0 && of(Side::Stable).failed == 0);
    }
}

#[tokio::test]
async fn two_that_are_alike_are_not_told_apart() {
    let report = compare(u64::MAX, rate(300)).await;
    let verdict = judged(&report);
    assert_eq!(verdict.judgement, Judgement::Pass, "{verdict}");
    assert!(verdict.to_string().contains("beside stable, "), "{verdict}");
}

#[tokio::test]
async fn stable_is_not_asked_unless_it_is_said() {
    let address = server(Protocol::Http1, |_| async { status(200) }).await;
    let stable =
        Target { side: Side::Stable, address: server(Protocol::Http1, |_| async { status(200) }).await };
    let refused =
        cutover_load::start(spec(clients(1), Duration::from_secs(1)), &[candidate(address), stable]);
    assert!(refused.unwrap_err().to_string().contains("is not the candidate's"));
}
