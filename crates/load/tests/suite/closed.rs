//! The closed loop: clients that wait for their answers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cutover_load::{Pace, Protocol, Scenario, Side};
use http::{HeaderValue, Method, header};
use http_body_util::BodyExt;

use super::harness::{MS, candidate, clients, get, run, seen, server, spec, status};

#[tokio::test]
async fn so_many_clients_and_no_more_at_once() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (open, noted) = (open.clone(), most.clone());
        let address = server(protocol, move |_| {
            let (open, most) = (open.clone(), noted.clone());
            async move {
                most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                open.fetch_sub(1, Ordering::SeqCst);
                status(200)
            }
        })
        .await;
        let mut spec = spec(clients(20), MS * 300);
        spec.protocol = protocol;
        let report = run(spec, &[candidate(address)]).await;
        assert!(seen(&report).requests >= 20 && seen(&report).failed == 0, "{report:?}");
        assert!((1..=20).contains(&most.swap(0, Ordering::SeqCst)), "{protocol:?}");
    }
}

/// The article's form: all at once, all awaited, a pause.
#[tokio::test]
async fn batches_are_whole() {
    let paths = Arc::new(AtomicUsize::new(0));
    let counted = paths.clone();
    let address = server(Protocol::Http1, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { status(200) }
    })
    .await;
    let pace = Pace::Clients { count: 5, pause: Some(MS * 100) };
    let report = run(spec(pace, MS * 350), &[candidate(address)]).await;
    let requests = seen(&report).requests;
    assert_eq!(requests, paths.load(Ordering::SeqCst) as u64);
    // At 0, 100, 200 and 300 ms at the most.
    assert!(requests.is_multiple_of(5) && (5..=20).contains(&requests), "{requests}");
}

#[tokio::test]
async fn scenarios_come_by_weight_with_methods_headers_and_bodies() {
    let came = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let noted = came.clone();
    let address = server(Protocol::Http1, move |request| {
        let noted = noted.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let header =
                |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default();
            let text = format!(
                "{} {} host={} agent={} type={} length={} {}",
                parts.method,
                parts.uri,
                header("host"),
                header("user-agent"),
                header("content-type"),
                header("content-length"),
                String::from_utf8_lossy(&body)
            );
            *noted.lock().unwrap().entry(text).or_default() += 1;
            status(if parts.method == Method::POST { 201 } else { 200 })
        }
    })
    .await;
    let mut order = Scenario {
        name: "order".into(),
        method: Method::POST,
        body: Bytes::from_static(b"{\"product\":1}"),
        ..get("/api/orders?dry=1")
    };
    order.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    order.headers.insert(header::HOST, HeaderValue::from_static("shop.test"));
    order.headers.insert(header::USER_AGENT, HeaderValue::from_static("mine"));
    let mut spec = spec(clients(4), MS * 200);
    spec.scenarios = vec![Scenario { weight: 3, ..get("/api/products") }, order];
    let report = run(spec, &[candidate(address)]).await;
    let came = came.lock().unwrap();
    let expected = [
        format!("GET /api/products host={address} agent=cutover-load type= length= "),
        "POST /api/orders?dry=1 host=shop.test agent=mine type=application/json length=13 {\"product\":1}"
            .into(),
    ];
    assert_eq!(came.keys().cloned().collect::<Vec<_>>(), expected);
    let (products, orders) = (came[&expected[0]], came[&expected[1]]);
    assert!(products.abs_diff(orders * 3) <= 3, "{products} and {orders}");
    // The report tells them apart, and adds them up.
    let of = |name: &str| report.shares.iter().find(|share| share.scenario.as_deref() == Some(name)).unwrap();
    assert_eq!((of("GET /api/products").summary.requests, of("order").summary.requests), (products, orders));
    assert_eq!(report.total(Side::Candidate).unwrap().requests, products + orders);
    assert_eq!(report.total(Side::Candidate).unwrap().failed, 0);
}

#[tokio::test]
async fn instances_share_the_load() {
    let mut targets = Vec::new();
    let mut counts = Vec::new();
    for _ in 0..3 {
        let count = Arc::new(AtomicUsize::new(0));
        counts.push(count.clone());
        let address = server(Protocol::Http1, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async { status(200) }
        })
        .await;
        targets.push(candidate(address));
    }
    let pace = Pace::Clients { count: 6, pause: Some(MS * 50) };
    run(spec(pace, MS * 200), &targets).await;
    let counts: Vec<usize> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    assert!(counts[0] > 0 && counts.iter().all(|count| *count == counts[0]), "{counts:?}");
}
