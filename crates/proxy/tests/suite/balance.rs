//! Within a track the better target gets the request: quicker, not failing, not all at once when it is new.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cutover_proxy::{Balance, Retries, ServiceTable};

use super::harness::{Proxy, Wire, table, track};
use super::upstream::{Upstream, read_request, refusing, scripted, write};

fn shop(addresses: &[SocketAddr], balance: Balance) -> ServiceTable {
    let mut service = table(vec![track("v1", 10_000, addresses)]);
    service.balance = balance;
    service
}

/// Asks one after the other on one connection, which one thread serves; counts who answered.
async fn ask(wire: &mut Wire, requests: usize) -> BTreeMap<String, usize> {
    let mut by = BTreeMap::new();
    for _ in 0..requests {
        let response = wire.get("/id").await;
        *by.entry(response.header("x-served-by").unwrap_or_default().to_owned()).or_default() += 1;
    }
    by
}

#[tokio::test]
async fn the_quicker_target_gets_more() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    b.shared.delay_ms.store(50, Ordering::SeqCst);
    proxy.set(0, &shop(&[a.addr, b.addr], Balance::default())).await;
    let by = ask(&mut Wire::connect(proxy.addr).await, 200).await;
    // Nothing is in flight when the next request comes: by that alone they would share.
    assert!(by["b"] >= 1 && by["b"] < 40, "{by:?}");
}

#[tokio::test]
async fn failing_quickly_draws_no_requests() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    a.shared.delay_ms.store(5, Ordering::SeqCst);
    b.shared.status.store(500, Ordering::SeqCst);
    proxy.set(0, &shop(&[a.addr, b.addr], Balance::default())).await;
    let by = ask(&mut Wire::connect(proxy.addr).await, 300).await;
    assert!(by["b"] < 210, "an equal share is about 150: {by:?}");
}

/// Answers while `well`, else takes requests and closes; counts those that it took and did not answer.
async fn moody() -> (SocketAddr, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (well, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (own_well, own_lost) = (well.clone(), lost.clone());
    let addr = scripted(move |mut stream, _| {
        let (well, lost) = (own_well.clone(), own_lost.clone());
        async move {
            while read_request(&mut stream).await.is_some() {
                if !well.load(Ordering::SeqCst) {
                    lost.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                write(&mut stream, "HTTP/1.1 200 OK\r\nx-served-by: moody\r\ncontent-length: 2\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    (addr, well, lost)
}

#[tokio::test]
async fn a_target_that_fails_in_a_row_is_left_out_and_comes_back() {
    let (proxy, a) = (Proxy::start().await, Upstream::start("a").await);
    let (b, well, lost) = moody().await;
    proxy.set(0, &shop(&[a.addr, b], Balance::default())).await;
    let mut wire = Wire::connect(proxy.addr).await;
    assert_eq!(ask(&mut wire, 200).await["a"], 200, "what fails is sent again elsewhere");
    // Three in a row, and one more whenever it gets another try; by chance alone it would be a hundred.
    let failed = lost.load(Ordering::SeqCst);
    assert!((3..20).contains(&failed), "{failed}");
    well.store(true, Ordering::SeqCst);
    for round in 0.. {
        if ask(&mut wire, 20).await.contains_key("moody") {
            break;
        }
        assert!(round < 2_000, "it never gets another try");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(ask(&mut wire, 100).await["moody"] > 20, "trusted again, it has its share");
}

#[tokio::test]
async fn nobody_is_left_out_where_that_is_switched_off() {
    let (proxy, a) = (Proxy::start().await, Upstream::start("a").await);
    let (b, _, lost) = moody().await;
    let mut service = shop(&[a.addr, b], Balance { eject_after: 0, ..Balance::default() });
    service.retries = Retries { budget_bp: 10_000, floor: 10 };
    proxy.set(0, &service).await;
    assert_eq!(ask(&mut Wire::connect(proxy.addr).await, 200).await["a"], 200);
    assert!(lost.load(Ordering::SeqCst) > 50);
}

#[tokio::test]
async fn the_last_target_is_not_left_out_for_its_failures() {
    let proxy = Proxy::start().await;
    let (b, well, lost) = moody().await;
    proxy.set(0, &shop(&[b, refusing().await], Balance::default())).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..10 {
        assert!([502, 503].contains(&wire.get("/id").await.status));
    }
    assert!(lost.load(Ordering::SeqCst) >= 10, "every request was tried");
    well.store(true, Ordering::SeqCst);
    assert_eq!(ask(&mut wire, 1).await["moody"], 1, "and is served by the first that can be");
}

#[tokio::test]
async fn a_new_target_begins_slowly_only_among_others_and_only_where_asked() {
    let (proxy, a, b) = (Proxy::start().await, Upstream::start("a").await, Upstream::start("b").await);
    // A window so long that nothing grows during the test.
    let slowly = Balance { slow_start_ms: 86_400_000, ..Balance::default() };
    proxy.set(0, &shop(&[a.addr], slowly)).await;
    let mut wire = Wire::connect(proxy.addr).await;
    assert_eq!(ask(&mut wire, 1).await["a"], 1);
    proxy.set(1, &shop(&[a.addr, b.addr], slowly)).await;
    let by = ask(&mut wire, 300).await;
    // A tenth of an equal half: 15 of 300.
    let few = by.get("b").copied().unwrap_or(0);
    assert!((1..60).contains(&few), "{by:?}");
    proxy.set(2, &shop(&[a.addr, b.addr], Balance::default())).await;
    assert!(ask(&mut wire, 300).await["b"] > 60, "off, it has a whole share");
    // All targets of a track are new: a release's shift gives it all of its weight at once, evenly.
    let mut other = shop(&[a.addr, b.addr], slowly);
    other.tracks[0].revision = "v2".into();
    proxy.set(3, &other).await;
    assert!(ask(&mut wire, 300).await["b"] > 60);
}
