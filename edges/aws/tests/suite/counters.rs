//! Counters of two target groups, and the judge on them.

use cutover_judge::{History, Judge, Settings};
use cutover_sources::{AskErrorKind, Feed, Look, Source};
use serde_json::json;

use super::server::{Does, Server};
use super::setting::{MINUTE, NOON, counted, counters, error};

fn alb() -> serde_json::Value {
    json!({
        "preset": "alb",
        "load_balancer": "app/shop/50dc",
        "stable": "targetgroup/blue/1",
        "candidate": "targetgroup/green/2",
    })
}

fn put(server: &Server, group: &str, name: &str, start_ms: u64, number: f64, shown_ms: u64) {
    let series = format!(
        "AWS/ApplicationELB {name}{{LoadBalancer=app/shop/50dc,TargetGroup=targetgroup/{group}}} Sum"
    );
    server.put(&series, start_ms, number, shown_ms);
}

const REQUESTS: &str = "RequestCount";
const FAILED: &str = "HTTPCode_Target_5XX_Count";

#[tokio::test]
async fn each_final_period_of_the_bake_is_counted_once() {
    let server = Server::start(NOON);
    let source = counters(&server, alb());
    put(&server, "blue/1", REQUESTS, NOON - 2 * MINUTE, 500.0, 0);
    put(&server, "blue/1", REQUESTS, NOON, 900.0, 0);
    // The candidate's failures come a minute later than its requests.
    put(&server, "green/2", REQUESTS, NOON, 100.0, NOON + MINUTE);
    put(&server, "green/2", FAILED, NOON, 7.0, NOON + 2 * MINUTE);
    put(&server, "green/2", "TargetConnectionErrorCount", NOON, 3.0, NOON + 2 * MINUTE);
    assert_eq!(counted(source.ask().await), [(0, 0), (0, 0)]);
    server.pass(2 * MINUTE);
    assert_eq!(counted(source.ask().await), [(0, 0), (0, 0)]);
    server.pass(MINUTE);
    assert_eq!(counted(source.ask().await), [(900, 0), (100, 10)]);
    server.pass(10_000);
    assert_eq!(counted(source.ask().await), [(900, 0), (100, 10)]);
    // An outage costs no period: they are all in the next look.
    put(&server, "blue/1", REQUESTS, NOON + MINUTE, 1.0, 0);
    put(&server, "green/2", REQUESTS, NOON + 2 * MINUTE, 2.0, 0);
    server.pass(3 * MINUTE);
    server.world().does.push_back(Does::Refuses(403, "ExpiredToken"));
    assert_eq!(error(source.ask().await).0, AskErrorKind::Wrong);
    assert_eq!(counted(source.ask().await), [(901, 0), (102, 10)]);
    // What comes after its period was counted is not added, and makes the next ones wait longer.
    put(&server, "green/2", REQUESTS, NOON + 2 * MINUTE, 50.0, 0);
    put(&server, "green/2", REQUESTS, NOON + 4 * MINUTE, 9.0, 0);
    assert_eq!(counted(source.ask().await), [(901, 0), (102, 10)]);
    server.pass(MINUTE);
    assert_eq!(counted(source.ask().await), [(901, 0), (102, 10)]);
    server.pass(MINUTE);
    assert_eq!(counted(source.ask().await), [(901, 0), (111, 10)]);
    // Traffic that ends is no data.
    server.pass(20 * MINUTE);
    assert_eq!(error(source.ask().await).0, AskErrorKind::NoData);
}

#[tokio::test]
async fn own_metrics_are_counted_by_their_sums() {
    let server = Server::start(NOON);
    let of = |revision: &str, name: &str| json!({"namespace": "Shop", "name": name, "dimensions": {"Revision": revision}});
    let (stable, candidate) = ("{{stable_revision}}", "{{revision}}");
    let source = counters(
        &server,
        json!({"period": "10s", "settle": "20s", "queries": {
            "stable_requests": of(stable, "Requests"),
            "stable_errors": of(stable, "Errors"),
            "candidate_requests": of(candidate, "Requests"),
            "candidate_errors": of(candidate, "Errors"),
        }}),
    );
    assert_eq!(counted(source.ask().await), [(0, 0), (0, 0)]);
    for (name, number) in [
        ("Shop Requests{Revision=r-1} Sum", 90.0),
        ("Shop Requests{Revision=r-2} Sum", 10.0),
        // More failures than requests: one of the two is wrong, and no request fails twice.
        ("Shop Errors{Revision=r-2} Sum", 12.0),
    ] {
        server.put(name, NOON, number, 0);
    }
    server.pass(30_000);
    assert_eq!(counted(source.ask().await), [(90, 0), (10, 10)]);
}

/// A minute of traffic at 10 %, of which `errors` of the candidate's 100 requests fail.
async fn judged(errors: f64) -> Option<u64> {
    let server = Server::start(NOON);
    let source: Box<dyn Source> = counters(&server, alb());
    let mut judge = Judge::new(Settings::new(vec![50_000_000]), History::default()).unwrap();
    let mut feed = Feed::default();
    for minute in 0..30 {
        let at = NOON + minute * MINUTE;
        put(&server, "blue/1", REQUESTS, at, 900.0, at + MINUTE);
        put(&server, "blue/1", FAILED, at, 1.0, at + 2 * MINUTE);
        put(&server, "green/2", REQUESTS, at, 100.0, at + MINUTE);
        put(&server, "green/2", FAILED, at, errors, at + 2 * MINUTE);
        if let Look::Block(block) = feed.look(&source.ask().await.unwrap()) {
            judge.block(block);
            if judge.due() {
                judge.next_epoch();
            }
        }
        if judge.failure().is_some() {
            return Some(minute);
        }
        server.pass(MINUTE);
    }
    None
}

#[tokio::test]
async fn the_judge_finds_a_bad_candidate_and_no_good_one() {
    let found = judged(20.0).await;
    // One minute of it, which is final two minutes later.
    assert!(found.is_some_and(|minute| (3..=6).contains(&minute)), "{found:?}");
    assert_eq!(judged(0.0).await, None);
}
