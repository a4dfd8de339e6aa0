//! The judge in the proxy: the candidate is compared with stable, request by request, with no server about.

mod grpc;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cutover_judge::{Cause, Verdict, replay};
use cutover_proxy::{
    EventKind, JudgeQuestion, JudgeTerms, Judged, Observation, SEAT_COOKIE, ServiceTable, Sticky,
};
use rustix::process::Signal;

use super::harness::{LIMIT, Proxy, SERVICE, Wire, candidate, signal, table, track, until_seen};
use super::upstream::{Upstream, read_request, scripted, write};

const MARGIN: u64 = 50_000_000;

fn moved(weight: u16, v1: &Upstream, v2: &Upstream) -> ServiceTable {
    let mut service = table(vec![track("v1", 10_000 - weight, &[v1.addr]), track("v2", weight, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", 60_000, None);
    let terms = JudgeTerms {
        alpha_bp: 100,
        beta_bp: 100,
        margins_ppb: vec![MARGIN],
        warm_up_ms: 0,
        watch_ms: 60_000,
    };
    service.candidate.as_mut().unwrap().judge = Some(terms);
    service
}

async fn begin(weight: u16) -> (Proxy, Upstream, Upstream) {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    proxy.set(0, &moved(weight, &v1, &v2)).await;
    (proxy, v1, v2)
}

async fn ask(proxy: &Proxy, epochs_from: Option<u32>) -> Judged {
    let question = JudgeQuestion {
        margin_ppb: MARGIN,
        latency: false,
        floor_ms: 0,
        epochs_from,
        close: epochs_from.is_some(),
    };
    proxy.client.judge(SERVICE, "r1", &question).await.unwrap()
}

fn tripped(seen: &Observation) -> bool {
    seen.events.iter().any(|event| event.kind == EventKind::Trip)
}

/// So many requests that it is known what stable's slowest take.
async fn ask_stable(proxy: &Proxy) {
    let asked = (0..20).map(|_| async {
        let mut wire = Wire::connect(proxy.addr).await;
        for _ in 0..50 {
            assert_eq!(wire.get("/id").await.text(), "v1");
        }
    });
    futures_util::future::join_all(asked).await;
}

/// Sends requests one after the other until the candidate is tripped; returns the statuses of its answers.
async fn until_tripped(proxy: &Proxy) -> Vec<u16> {
    let (mut wire, mut statuses) = (Wire::connect(proxy.addr).await, Vec::new());
    let end = Instant::now() + LIMIT;
    while !tripped(&proxy.client.observe().await.unwrap()) {
        assert!(Instant::now() < end, "never tripped: {:?}", ask(proxy, None).await.verdict);
        for _ in 0..5 {
            statuses.push(wire.get("/id").await.status);
        }
    }
    statuses
}

/// Judges again from what the proxy wrote down, and returns in how many words that differs.
async fn differences(proxy: &Proxy) -> Vec<String> {
    let judged = ask(proxy, Some(0)).await;
    let failed = match &judged.verdict {
        Verdict::Fail(failure) => Some(&**failure),
        _ => None,
    };
    replay(&judged.settings, &judged.epochs, failed).differences
}

#[tokio::test]
async fn a_candidate_that_fails_is_taken_back_after_few_requests_and_the_verdict_can_be_computed_again() {
    let (proxy, v1, v2) = begin(1_000).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..300 {
        assert_eq!(wire.get("/id").await.status, 200);
    }
    v2.shared.status.store(500, Ordering::SeqCst);
    let failed = until_tripped(&proxy).await.iter().filter(|status| **status == 500).count();
    assert!((2..=6).contains(&failed), "{failed}");
    let (stable, served) = (v1.requests(), v2.requests());
    for _ in 0..100 {
        assert_eq!(wire.get("/id").await.text(), "v1");
    }
    assert_eq!((v1.requests(), v2.requests()), (stable + 100, served));
    let seen = proxy.client.observe().await.unwrap();
    let trip = seen.events.iter().find(|event| event.kind == EventKind::Trip).unwrap();
    assert!(trip.why.starts_with("fail: the candidate is worse") && !trip.shared, "{}", trip.why);
    assert_eq!(differences(&proxy).await, Vec::<String>::new());
}

#[tokio::test]
async fn failures_of_both_are_nobodys_fault_and_take_the_candidate_out() {
    let (proxy, v1, v2) = begin(5_000).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..200 {
        assert_eq!(wire.get("/id").await.status, 200);
    }
    v1.shared.status.store(503, Ordering::SeqCst);
    v2.shared.status.store(503, Ordering::SeqCst);
    until_tripped(&proxy).await;
    let seen = proxy.client.observe().await.unwrap();
    let trip = seen.events.iter().find(|event| event.kind == EventKind::Trip).unwrap();
    assert!(trip.shared && trip.why.contains("the release is not to blame"), "{}", trip.why);
    let Verdict::Inconclusive(verdict) = ask(&proxy, None).await.verdict else {
        panic!("shared is no verdict")
    };
    assert!(matches!(verdict.cause, Cause::Shared(_)), "{verdict:?}");
}

#[tokio::test]
async fn a_good_candidate_passes_and_what_was_seen_comes_along_over_an_upgrade_and_a_crash() {
    let (proxy, v1, v2) = begin(2_000).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..200 {
        wire.get("/id").await;
    }
    let Verdict::Inconclusive(early) = ask(&proxy, None).await.verdict else { panic!("200 prove nothing") };
    assert_eq!(early.seen.stable.requests + early.seen.candidate.requests, 200);
    assert!(early.needs.is_some_and(|needs| needs.candidate_requests > 0), "{early:?}");
    let before = proxy.worker_pid().await;
    signal(proxy.holder.id(), Signal::HUP);
    until_seen(&proxy, "the next worker", |seen| seen.worker_pid != before).await;
    let after = ask(&proxy, None).await;
    let Verdict::Inconclusive(after) = after.verdict else { panic!("{after:?}") };
    assert_eq!(after.seen, early.seen);
    proxy.client.renew(SERVICE, "r1", 1).await.unwrap();
    // More, which the next but one learns from what was written each second.
    let mut wire = Wire::connect(proxy.addr).await;
    let end = Instant::now() + LIMIT;
    let passed = loop {
        for _ in 0..200 {
            assert_eq!(wire.get("/id").await.status, 200);
        }
        if let judged @ Judged { verdict: Verdict::Pass(_), .. } = ask(&proxy, None).await {
            break judged;
        }
        assert!(Instant::now() < end, "never passes: {}", ask(&proxy, None).await.verdict);
    };
    let epoch = passed.epoch.expect("a pass closes an epoch");
    let pid = proxy.worker_pid().await;
    let wanted = format!("\"epoch\":{epoch},");
    super::harness::until("the pass is written down", || {
        let files = std::fs::read_dir(proxy.path("counts")).ok()?.flatten();
        let own = format!("{pid}-");
        let mut own = files.filter(|file| file.file_name().to_string_lossy().starts_with(&own));
        std::fs::read_to_string(own.next()?.path()).ok()?.contains(&wanted).then_some(())
    })
    .await;
    signal(pid, Signal::KILL);
    until_seen(&proxy, "another worker", |seen| seen.worker_pid != pid).await;
    assert!(matches!(ask(&proxy, None).await.verdict, Verdict::Pass(_)));
    proxy.client.renew(SERVICE, "r1", 1).await.unwrap();
    // Another share, and what it took before is not forgotten.
    let generation = proxy.client.observe().await.unwrap().services[SERVICE].table.generation;
    proxy.set(generation, &moved(5_000, &v1, &v2)).await;
    let judged = ask(&proxy, None).await;
    assert_eq!(judged.share_bp, 5_000);
    assert!(matches!(judged.verdict, Verdict::Pass(_)), "{}", judged.verdict);
    assert_eq!(differences(&proxy).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_candidate_that_hangs_is_worse_before_any_of_its_requests_ends() {
    let (proxy, v1, v2) = begin(0).await;
    ask_stable(&proxy).await;
    v2.shared.delay_ms.store(3_600_000, Ordering::SeqCst);
    proxy.set(1, &moved(3_000, &v1, &v2)).await;
    let mut wires = Vec::new();
    let end = Instant::now() + LIMIT;
    while !tripped(&proxy.client.observe().await.unwrap()) {
        assert!(Instant::now() < end, "{}", ask(&proxy, None).await.verdict);
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send("GET /id HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        wires.push(wire);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen = proxy.client.observe().await.unwrap();
    let trip = seen.events.iter().find(|event| event.kind == EventKind::Trip).unwrap();
    assert!(trip.why.contains("slow"), "{}", trip.why);
}

/// All requests go to v2, after stable was known well.
async fn switched() -> (Proxy, Upstream, Upstream) {
    let (proxy, v1, v2) = begin(0).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..600 {
        assert_eq!(wire.get("/id").await.status, 200);
    }
    proxy.set(1, &moved(10_000, &v1, &v2)).await;
    for _ in 0..100 {
        assert_eq!(wire.get("/id").await.text(), "v2");
    }
    (proxy, v1, v2)
}

#[tokio::test]
async fn a_candidate_that_breaks_after_the_switch_is_told_from_stable_by_halves() {
    let (proxy, v1, v2) = switched().await;
    v2.shared.status.store(500, Ordering::SeqCst);
    let before = v1.requests();
    let failed = until_tripped(&proxy).await.iter().filter(|status| **status == 500).count();
    assert!(failed <= 30, "{failed}");
    assert!(v1.requests() > before, "half of them went to stable");
    let seen = proxy.client.observe().await.unwrap();
    let trip = seen.events.iter().find(|event| event.kind == EventKind::Trip).unwrap();
    assert!(trip.why.starts_with("after the switch, by halves: fail"), "{}", trip.why);
    assert_eq!(proxy.get("/id").await.text(), "v1");
    let probe = ask(&proxy, Some(0)).await.probe.expect("a probe");
    assert_eq!(
        replay(&probe.settings, &probe.epochs, probe.failure.as_deref()).differences,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn an_outage_after_the_switch_rolls_nobody_back() {
    let (proxy, v1, v2) = switched().await;
    v1.shared.status.store(503, Ordering::SeqCst);
    v2.shared.status.store(503, Ordering::SeqCst);
    let mut wire = Wire::connect(proxy.addr).await;
    let end = Instant::now() + LIMIT;
    let told = loop {
        for _ in 0..20 {
            wire.get("/id").await;
        }
        let seen = proxy.client.observe().await.unwrap();
        assert!(!tripped(&seen), "{:?}", seen.events);
        let alerts = seen.events.iter().filter(|event| event.kind == EventKind::Alert);
        let told: Vec<_> = alerts.map(|event| event.why.clone()).collect();
        if told.len() >= 2 {
            break told;
        }
        assert!(Instant::now() < end, "{told:?}");
    };
    assert!(told[0].contains("half of the requests go back to stable"), "{told:?}");
    assert!(told[1].contains("the release is not to blame"), "{told:?}");
    v1.shared.status.store(200, Ordering::SeqCst);
    v2.shared.status.store(200, Ordering::SeqCst);
    // The candidate has all requests again, once the last probe has seen that all is well.
    let (end, mut in_a_row) = (Instant::now() + LIMIT, 0);
    while in_a_row < 50 {
        assert!(Instant::now() < end);
        in_a_row = if wire.get("/id").await.text() == "v2" { in_a_row + 1 } else { 0 };
    }
}

#[tokio::test]
async fn a_request_that_failed_late_has_failed_though_it_was_scored_by_its_age() {
    let (proxy, v1, v2) = begin(0).await;
    ask_stable(&proxy).await;
    // Far beyond the slowest in a thousand of stable's, and looked at several times meanwhile.
    v2.shared.delay_ms.store(1_500, Ordering::SeqCst);
    v2.shared.status.store(500, Ordering::SeqCst);
    let mut service = moved(10_000, &v1, &v2);
    // Both arms have requests, as few as do not decide by their age alone.
    (service.tracks[0].weight_bp, service.tracks[1].weight_bp) = (9_500, 500);
    proxy.set(1, &service).await;
    let mut wires = Vec::new();
    while proxy.counts("v2", cutover_proxy::Arm::Candidate).await.claimed < 1 {
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send("GET /id HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        wires.push(wire);
    }
    for wire in &mut wires {
        wire.response(false).await.unwrap();
    }
    let seen = match ask(&proxy, None).await.verdict {
        Verdict::Inconclusive(told) => told.seen.candidate,
        Verdict::Fail(failure) => failure.seen.candidate,
        Verdict::Pass(_) => panic!("nothing was proven"),
    };
    assert!(seen.requests >= 1 && seen.errors == seen.requests, "{seen:?}");
}

#[tokio::test]
async fn requests_that_wait_for_room_are_drawn_once() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let mut service = moved(5_000, &v1, &v2);
    service.limits.per_target = Some(1);
    service.limits.queue = Some(cutover_proxy::Waiting { limit: 1_000, wait_ms: 20_000 });
    proxy.set(0, &service).await;
    v2.shared.delay_ms.store(2, Ordering::SeqCst);
    let asked = (0..16).map(|_| async {
        let mut wire = Wire::connect(proxy.addr).await;
        for _ in 0..60 {
            assert_eq!(wire.get("/id").await.status, 200);
        }
    });
    futures_util::future::join_all(asked).await;
    let verdict = ask(&proxy, None).await.verdict;
    let wrong = matches!(&verdict, Verdict::Inconclusive(told) if matches!(told.cause, Cause::WrongSplit(_)));
    assert!(!wrong, "{verdict}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_failure() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let breaks_off = scripted(|mut stream, _| async move {
        if read_request(&mut stream).await.is_some() {
            write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
        }
    })
    .await;
    let mut service = moved(5_000, &v1, &v1);
    service.tracks[1] = track("v2", 5_000, &[breaks_off]);
    proxy.set(0, &service).await;
    let end = Instant::now() + LIMIT;
    let mut broken = 0;
    while !tripped(&proxy.client.observe().await.unwrap()) {
        assert!(Instant::now() < end, "{}", ask(&proxy, None).await.verdict);
        let mut wire = Wire::connect(proxy.addr).await;
        wire.send("GET /id HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        broken += u32::from(wire.response(false).await.is_err());
    }
    let Verdict::Fail(failure) = ask(&proxy, None).await.verdict else { panic!("tripped without a failure") };
    assert_eq!(failure.seen.candidate.requests, failure.seen.candidate.errors, "each counts once");
    assert_eq!(failure.seen.candidate.errors, u64::from(broken));
    assert_eq!(differences(&proxy).await, Vec::<String>::new());
}

#[tokio::test]
async fn clients_that_stay_count_once_each() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let mut service = moved(5_000, &v1, &v2);
    service.sticky = Some(Sticky::Cookie { name: SEAT_COOKIE.into() });
    service.pin_key = Some(cutover_proxy::PinKey("00ff".repeat(8)));
    proxy.set(0, &service).await;
    v2.shared.status.store(500, Ordering::SeqCst);
    // One client of the candidate that repeats itself is one piece of bad luck.
    let mut wire = Wire::connect(proxy.addr).await;
    let first = loop {
        wire.send("GET /id HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        let response = wire.response(false).await.unwrap();
        if response.status == 500 {
            break response;
        }
    };
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..200 {
        wire.send(format!("GET /id HTTP/1.1\r\nhost: shop.test\r\ncookie: {cookie}\r\n\r\n")).await;
        assert_eq!(wire.response(false).await.unwrap().status, 500);
    }
    assert!(!tripped(&proxy.client.observe().await.unwrap()));
    // Many of them are not.
    until_tripped(&proxy).await;
}
