//! The access log: off by default, one line for each request in the sample, whatever becomes of it.

use std::sync::atomic::Ordering;

use cutover_proxy::{AccessFormat, AccessLog, ErrorKind, Traffic};
use serde_json::Value;

use super::harness::{Proxy, SERVICE, Wire, table, track, until};
use super::upstream::Upstream;

fn everything() -> AccessLog {
    AccessLog { format: AccessFormat::Json, sample_bp: 10_000, query: false, size: 1 << 20 }
}

async fn shop(log: Option<AccessLog>) -> (Proxy, Upstream) {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[v1.addr])]);
    service.access_log = log;
    proxy.set(0, &service).await;
    (proxy, v1)
}

fn text(proxy: &Proxy) -> String {
    std::fs::read_to_string(proxy.path("access").join("shop.log")).unwrap_or_default()
}

/// Waits until the log has that many lines.
async fn lines(proxy: &Proxy, count: usize) -> Vec<String> {
    let look = || {
        let lines: Vec<String> = text(proxy).lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    };
    until(&format!("{count} lines of the access log"), look).await
}

#[tokio::test]
async fn each_request_has_a_line_with_what_became_of_it() {
    let (proxy, v1) = shop(Some(everything())).await;
    v1.shared.status.store(404, Ordering::SeqCst);
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /id?token=secret HTTP/1.1\r\nhost: shop.test\r\nuser-agent: me \"7\"\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().status, 404);
    wire.get("/stream/3").await;
    let closed =
        Traffic::Maintenance { page: "closed".into(), content_type: "text/plain".into(), retry_after_s: 1 };
    proxy.client.traffic(SERVICE, &closed).await.unwrap();
    wire.get("/closed").await;
    let lines = lines(&proxy, 3).await;
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = &lines[0];
    assert_eq!(
        (&first["method"], &first["path"], &first["host"]),
        (&"GET".into(), &"/id".into(), &"shop.test".into())
    );
    assert_eq!(
        (&first["status"], &first["agent"], &first["client"]),
        (&404.into(), &"me \"7\"".into(), &"127.0.0.1".into())
    );
    assert_eq!((&first["revision"], &first["arm"]), (&"v1".into(), &"stable".into()));
    assert_eq!(
        (&first["target"], &first["bytes"], &first["whole"]),
        (&v1.addr.to_string().into(), &2.into(), &true.into())
    );
    assert!(first["took_us"].as_u64() >= first["head_us"].as_u64(), "{first}");
    assert_eq!(lines[1]["bytes"], 3 * "chunk 0\n".len());
    let refused = &lines[2];
    assert_eq!((&refused["status"], &refused["reason"]), (&503.into(), &"maintenance".into()));
    assert_eq!((&refused["revision"], &refused["bytes"]), (&Value::Null, &6.into()));
    assert!(!text(&proxy).contains("secret"), "queries are left out");
}

#[tokio::test]
async fn a_client_that_goes_has_a_line_too() {
    let (proxy, _v1) = shop(Some(everything())).await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /stream/100000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(wire.head().await.unwrap().0, 200);
    drop(wire);
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /slow/60000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    super::harness::until_seen(&proxy, "it is under way", |seen| {
        seen.services[SERVICE].revisions["v1"].in_flight == 1
    })
    .await;
    drop(wire);
    let lines = lines(&proxy, 2).await;
    let mut seen: Vec<(Value, Value)> = Vec::new();
    for line in &lines {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["whole"], false, "{line}");
        seen.push((line["path"].clone(), line["status"].clone()));
    }
    seen.sort_by_key(|(path, _)| path.to_string());
    assert_eq!(seen, [("/slow/60000".into(), Value::Null), ("/stream/100000".into(), 200.into())]);
}

#[tokio::test]
async fn combined_is_what_web_servers_write() {
    let log = AccessLog { format: AccessFormat::Combined, query: true, ..everything() };
    let (proxy, _v1) = shop(Some(log)).await;
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("GET /id?a=b HTTP/1.1\r\nhost: a\r\nreferer: http://r/\r\nuser-agent: x\" - \"\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().status, 200);
    let line = lines(&proxy, 1).await.remove(0);
    let (before, rest) = line.split_once('[').unwrap();
    assert_eq!(before, "127.0.0.1 - - ");
    let (_, rest) = rest.split_once("] ").unwrap();
    assert_eq!(rest, "\"GET /id?a=b HTTP/1.1\" 200 2 \"http://r/\" \"x\\\" - \\\"\"");
}

#[tokio::test]
async fn it_is_off_unless_asked_for_and_a_sample_is_one() {
    let (proxy, _v1) = shop(None).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..20 {
        wire.get("/id").await;
    }
    let mut service = proxy.client.observe().await.unwrap().services[SERVICE].table.clone();
    service.access_log = Some(AccessLog { sample_bp: 2_500, ..everything() });
    proxy.set(1, &service).await;
    for _ in 0..400 {
        wire.get("/sampled").await;
    }
    // The last line of all: with it everything before is written.
    service.access_log = Some(everything());
    proxy.set(2, &service).await;
    wire.get("/last").await;
    let all = until("the last line", || {
        let all = text(&proxy);
        all.contains("/last").then_some(all)
    })
    .await;
    assert!(!all.contains("\"/id\""), "{all}");
    let sampled = all.matches("\"/sampled\"").count();
    assert!((50..=160).contains(&sampled), "about 100 of 400: {sampled}");
    service.access_log = None;
    let name = proxy.client.set("../shop", 0, 1, &service).await;
    assert!(name.is_err(), "another service has its hosts");
    service.hosts = vec!["other.test".into()];
    service.access_log = Some(everything());
    let name = proxy.client.set("../shop", 0, 1, &service).await.unwrap_err();
    assert_eq!(name.kind(), &ErrorKind::Invalid, "its log would lie elsewhere");
    assert!(name.to_string().contains("cannot name a file"), "{name}");
}
