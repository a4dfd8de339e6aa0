//! Asset bridging: a file that one revision does not have comes from another one in the table.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use cutover_proxy::{Arm, BRIDGED_HEADER, Counts, Guard, PIN_HEADER, PinKey, ServiceTable, Track, sign_pin};

use super::harness::{Proxy, SERVICE, Wire, candidate, table, track};
use super::upstream::{Upstream, refusing};

/// A revision whose site has these files.
async fn site(name: &str, files: &[&str]) -> Upstream {
    let upstream = Upstream::start(name).await;
    *upstream.shared.files.lock().unwrap() = files.iter().map(|file| (*file).to_owned()).collect();
    upstream
}

fn bridging(tracks: Vec<Track>) -> ServiceTable {
    ServiceTable { assets: vec!["/assets/".into()], ..table(tracks) }
}

/// After the switch: v2 has all traffic, v1 is kept warm.
async fn switched() -> (Proxy, Upstream, Upstream) {
    let (proxy, v1, v2) = (
        Proxy::start().await,
        site("v1", &["v1.js", "both.js"]).await,
        site("v2", &["v2.js", "both.js"]).await,
    );
    let service = bridging(vec![track("v1", 0, &[v1.addr]), track("v2", 10_000, &[v2.addr])]);
    proxy.set(0, &service).await;
    (proxy, v1, v2)
}

fn sum(counts: &[Counts]) -> Counts {
    let mut sum = Counts::default();
    counts.iter().for_each(|counts| sum.merge(counts));
    sum
}

#[tokio::test]
async fn a_page_of_the_predecessor_gets_its_asset_after_the_switch() {
    let (proxy, v1, v2) = switched().await;
    let mut wire = Wire::connect(proxy.addr).await;
    let old = wire.get("/assets/v1.js?x=1").await;
    assert_eq!((old.status, old.text().as_str()), (200, "v1.js of v1"));
    assert_eq!((old.header(BRIDGED_HEADER), old.header("x-served-by")), (Some("1"), Some("v1")));
    for own in ["v2.js", "both.js"] {
        let own = wire.get(&format!("/assets/{own}")).await;
        assert_eq!((own.status, own.header("x-served-by")), (200, Some("v2")));
        assert_eq!(own.header(BRIDGED_HEADER), None);
    }
    let none = wire.get("/assets/none.js").await;
    assert_eq!((none.status, none.text().as_str()), (404, "none.js of v2"), "the first answer, whole");
    assert_eq!(none.header(BRIDGED_HEADER), None);
    wire.send("HEAD /assets/v1.js HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = wire.response(true).await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("11")));
    assert_eq!((v1.requests(), v2.requests()), (3, 5));
    // Each request of a client is counted once, whoever answered it.
    let stable = proxy.counts("v2", Arm::Stable).await;
    let bridged = proxy.counts("v1", Arm::Bridged).await;
    assert_eq!((stable.claimed, stable.finished, stable.retried), (5, 3, 2));
    assert_eq!((bridged.adopted, bridged.finished, bridged.retried), (3, 2, 1));
    let all = sum(&[stable, bridged]);
    assert_eq!((all.failed_total(), all.first_attempt_failed, all.aborted_by_client), (0, 0, 0));
    // Connections are kept all the same: the answers nobody got were read to their end.
    assert_eq!(
        (v1.shared.connections.load(Ordering::SeqCst), wire.get("/id").await.text()),
        (1, "v2".into())
    );
}

#[tokio::test]
async fn only_plain_reads_below_the_prefix_are_asked_twice() {
    let (proxy, v1, _v2) = switched().await;
    let mut wire = Wire::connect(proxy.addr).await;
    assert_eq!(wire.post("/assets/v1.js", "x").await.unwrap().status, 404);
    for path in
        ["/empty/404", "/asset", "/assets", "/assets/../assets/v1.js", "/assets/%2E./empty", "/assets/a%2Fb"]
    {
        let asked = wire.get(path).await;
        assert_eq!(asked.header(BRIDGED_HEADER), None, "{path}");
    }
    wire.send("GET /assets/v1.js HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await;
    assert_eq!(wire.response(false).await.unwrap().status, 404, "with a body it is no plain read");
    assert_eq!(v1.requests(), 0);
    // A check that pins a revision hears what that one says.
    let key = "ab".repeat(16);
    let mut service = proxy.client.observe().await.unwrap().services[SERVICE].table.clone();
    service.pin_key = Some(PinKey(key.clone()));
    proxy.set(1, &service).await;
    let pin = sign_pin(&key, SERVICE, "v2");
    wire.send(format!("GET /assets/v1.js HTTP/1.1\r\nhost: a\r\n{PIN_HEADER}: {pin}\r\n\r\n")).await;
    assert_eq!(wire.response(false).await.unwrap().status, 404);
    assert_eq!(v1.requests(), 0);
}

#[tokio::test]
async fn in_the_middle_of_a_canary_every_asset_is_there_and_the_guard_sees_first_attempts() {
    let (proxy, v1, v2) = (Proxy::start().await, site("v1", &["v1.js"]).await, site("v2", &["v2.js"]).await);
    let mut service = bridging(vec![track("v1", 5_000, &[v1.addr]), track("v2", 5_000, &[v2.addr])]);
    let guard = Guard { min_requests: 10, max_error_bp: Some(0), max_mean_ms: None, max_p95_ms: None };
    service.candidate = candidate("r1", "v2", 60_000, Some(guard));
    proxy.set(0, &service).await;
    let mut wire = Wire::connect(proxy.addr).await;
    let mut by: BTreeMap<(String, bool), u64> = BTreeMap::new();
    for at in 0..200 {
        let file = if at % 2 == 0 { "v1.js" } else { "v2.js" };
        let response = wire.get(&format!("/assets/{file}")).await;
        assert_eq!(response.status, 200, "{response:?}");
        let bridged = response.header(BRIDGED_HEADER).is_some();
        *by.entry((response.header("x-served-by").unwrap().to_owned(), bridged)).or_default() += 1;
    }
    assert_eq!(by.values().sum::<u64>(), 200);
    assert_eq!(by.len(), 4, "both revisions answer for themselves and for the other: {by:?}");
    let counts = (proxy.counts("v2", Arm::Candidate).await, proxy.counts("v2", Arm::Bridged).await);
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    let judged = seen.services[SERVICE].guard.clone().unwrap();
    assert_eq!((judged.requests, judged.errors), (counts.0.claimed, 0), "first attempts, a 404 is no error");
    assert_eq!(counts.1.finished, by[&("v2".into(), true)]);
    assert!(seen.services[SERVICE].tripped.is_empty());
}

#[tokio::test]
async fn another_revision_that_is_broken_does_not_break_the_answer() {
    let v2 = site("v2", &[]).await;
    let broken = super::upstream::scripted(|mut stream, _| async move {
        let _ = super::upstream::read_request(&mut stream).await;
        super::upstream::write(&mut stream, "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let proxy = Proxy::start().await;
    let service = bridging(vec![
        track("v2", 10_000, &[v2.addr]),
        track("dead", 0, &[refusing().await]),
        track("broken", 0, &[broken]),
    ]);
    proxy.set(0, &service).await;
    let missing = proxy.get("/assets/x.js").await;
    assert_eq!((missing.status, missing.text().as_str()), (404, "x.js of v2"));
    // What left the table is asked no more, what is drained neither.
    let v1 = site("v1", &["x.js"]).await;
    proxy.set(1, &bridging(vec![track("v2", 10_000, &[v2.addr]), track("v1", 0, &[v1.addr])])).await;
    assert_eq!(proxy.get("/assets/x.js").await.status, 200);
    proxy.client.drain(SERVICE, "v1", super::harness::LIMIT).await.unwrap();
    assert_eq!(proxy.get("/assets/x.js").await.status, 404);
    proxy.set(2, &bridging(vec![track("v2", 10_000, &[v2.addr])])).await;
    assert_eq!(proxy.get("/assets/x.js").await.status, 404);
    assert_eq!(v1.requests(), 1);
}

#[tokio::test]
async fn no_more_than_four_revisions_are_asked_for_one_asset() {
    let proxy = Proxy::start().await;
    let mut sites = Vec::new();
    for at in 0..6 {
        sites.push(site(&format!("v{at}"), &[]).await);
    }
    let weight = |at: usize| if at == 0 { 10_000 } else { 0 };
    let tracks =
        sites.iter().enumerate().map(|(at, site)| track(&format!("v{at}"), weight(at), &[site.addr]));
    proxy.set(0, &bridging(tracks.collect())).await;
    assert_eq!(proxy.get("/assets/none.js").await.status, 404);
    assert_eq!(sites.iter().map(Upstream::requests).sum::<u64>(), 4);
}
