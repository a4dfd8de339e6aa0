//! Metrics over the admin socket: exactly what happened, per service, revision, class and latency.

use std::sync::atomic::Ordering;

use cutover_proxy::{Traffic, Waiting};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::harness::{Proxy, SERVICE, Wire, candidate, table, track};
use super::upstream::{Upstream, refusing};

async fn scrape(proxy: &Proxy, path: &str) -> String {
    let mut stream = UnixStream::connect(proxy.path("proxy.sock")).await.unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The value of one series; None: it is not there.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test]
async fn a_scrape_says_exactly_what_happened() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let mut service = table(vec![track("v1", 5_000, &[v1.addr]), track("v2", 5_000, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", 60_000, None);
    proxy.set(0, &service).await;
    v2.shared.status.store(404, Ordering::SeqCst);
    let (mut by_v1, mut by_v2) = (0, 0);
    for _ in 0..5 {
        // Connections of their own: both threads have something to say.
        let mut wire = Wire::connect(proxy.addr).await;
        for _ in 0..8 {
            match wire.get("/id").await.status {
                200 => by_v1 += 1,
                404 => by_v2 += 1,
                other => panic!("{other}"),
            }
        }
    }
    let text = scrape(&proxy, "/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    let stable = format!("service=\"{SERVICE}\",revision=\"v1\",arm=\"stable\"");
    let candidate = format!("service=\"{SERVICE}\",revision=\"v2\",arm=\"candidate\"");
    let count = |name: &str, labels: &str| value(&text, &format!("cutover_proxy_{name}{{{labels}}}"));
    assert_eq!(count("requests_total", &stable), Some(f64::from(by_v1)));
    assert_eq!(count("requests_total", &candidate), Some(f64::from(by_v2)));
    assert_eq!(count("responses_total", &format!("{stable},class=\"2xx\"")), Some(f64::from(by_v1)));
    assert_eq!(count("responses_total", &format!("{candidate},class=\"4xx\"")), Some(f64::from(by_v2)));
    assert_eq!(count("responses_total", &format!("{candidate},class=\"2xx\"")), Some(0.0));
    assert_eq!(count("latency_seconds_count", &stable), Some(f64::from(by_v1)));
    let everything = format!("{stable},le=\"+Inf\"");
    assert_eq!(count("latency_seconds_bucket", &everything), Some(f64::from(by_v1)));
    assert!(count("latency_seconds_sum", &stable).unwrap() > 0.0 || by_v1 == 0);
    let of_v2 = format!("service=\"{SERVICE}\",revision=\"v2\"");
    assert_eq!(count("weight_basis_points", &of_v2), Some(5_000.0));
    assert_eq!(count("in_flight", &of_v2), Some(0.0));
    assert_eq!(count("traffic_mode", &format!("service=\"{SERVICE}\",mode=\"open\"")), Some(1.0));
}

#[tokio::test]
async fn a_scrape_says_why_requests_failed_and_what_waits() {
    let proxy = Proxy::start().await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[refusing().await])])).await;
    assert_eq!(proxy.get("/").await.status, 503);
    let closed = Traffic::Queue(Waiting { limit: 0, wait_ms: 1_000 });
    proxy.client.traffic(SERVICE, &closed).await.unwrap();
    assert_eq!(proxy.get("/").await.status, 503);
    let text = scrape(&proxy, "/metrics").await;
    let failed = "service=\"shop\",revision=\"v1\",arm=\"stable\",reason=\"connect-refused\"";
    assert_eq!(value(&text, &format!("cutover_proxy_failures_total{{{failed}}}")), Some(1.0), "{text}");
    assert_eq!(value(&text, "cutover_proxy_refused_total{reason=\"queue-full\"}"), Some(1.0));
    assert_eq!(value(&text, "cutover_proxy_traffic_mode{service=\"shop\",mode=\"queue\"}"), Some(1.0));
    // Every line is one that Prometheus reads: a comment, or a name with labels and a number.
    for line in text.split("\r\n\r\n").nth(1).unwrap().lines().filter(|line| !line.starts_with('#')) {
        let (series, number) = line.rsplit_once(' ').unwrap();
        assert!(number.parse::<f64>().is_ok() && series.starts_with("cutover_proxy_"), "{line}");
    }
}

#[tokio::test]
async fn nothing_else_is_answered_in_http() {
    let proxy = Proxy::start().await;
    assert!(scrape(&proxy, "/").await.starts_with("HTTP/1.1 404 Not Found\r\n"));
    assert!(proxy.client.hello().await.is_ok(), "and the socket speaks its own language as before");
}
