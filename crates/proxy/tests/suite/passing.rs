//! What targets are told of a request's way, and whom the proxy believes.

use std::net::SocketAddr;

use cutover_proxy::{Passing, REASON_HEADER, ServiceTable};

use super::harness::{Proxy, Wire, any, table, track};
use super::upstream::Upstream;

async fn serving(passing: Passing) -> (Proxy, Upstream, ServiceTable) {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[upstream.addr])]);
    service.passing = passing;
    proxy.set(0, &service).await;
    (proxy, upstream, service)
}

/// Returns what the target sees of a request with `headers`.
async fn seen(addr: SocketAddr, first: &[u8], headers: &str) -> Vec<String> {
    let mut wire = Wire::connect(addr).await;
    wire.send(first).await;
    wire.send(format!("GET /headers HTTP/1.1\r\nhost: a.test\r\n{headers}\r\n")).await;
    wire.response(false).await.unwrap().text().lines().map(str::to_owned).collect()
}

fn here() -> Vec<ipnet::IpNet> {
    vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.0/8".parse().unwrap()]
}

const CLAIMS: &str = "x-forwarded-for: 9.9.9.9\r\nx-forwarded-proto: https\r\nx-forwarded-host: b.test\r\n\
                      forwarded: for=9.9.9.9\r\nx-request-id: mine\r\n";

#[tokio::test]
async fn a_client_cannot_say_who_it_is() {
    let (proxy, _upstream, _) = serving(Passing { forwarded: true, ..Passing::default() }).await;
    let seen = seen(proxy.addr, b"", CLAIMS).await;
    for line in [
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: a.test",
        "forwarded: for=127.0.0.1;host=\"a.test\";proto=http",
    ] {
        assert!(seen.contains(&line.to_owned()), "{line} in {seen:#?}");
    }
    assert!(!seen.concat().contains("9.9.9.9") && !seen.concat().contains("b.test"), "{seen:#?}");
}

#[tokio::test]
async fn whom_the_service_trusts_is_believed_and_added_to() {
    let passing = Passing { trust: here(), forwarded: true, request_id: true, ..Passing::default() };
    let (proxy, _upstream, mut service) = serving(passing).await;
    let believed = seen(proxy.addr, b"", CLAIMS).await;
    for line in [
        "x-forwarded-for: 9.9.9.9, 127.0.0.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: b.test",
        "forwarded: for=9.9.9.9, for=127.0.0.1;host=\"a.test\";proto=http",
        "x-request-id: mine",
    ] {
        assert!(believed.contains(&line.to_owned()), "{line} in {believed:#?}");
    }
    // Nobody else.
    service.passing.trust = vec!["10.0.0.0/8".parse().unwrap()];
    proxy.set(1, &service).await;
    let others = seen(proxy.addr, b"", CLAIMS).await.join("\n");
    assert!(!others.contains("9.9.9.9") && !others.contains("mine"), "{others}");
}

#[tokio::test]
async fn a_request_gets_an_id_which_the_client_is_told() {
    let passing = Passing { request_id: true, ..Passing::default() };
    let (proxy, _upstream, mut service) = serving(passing).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let answer = proxy.get("/headers").await;
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert!(id.len() == 32 && answer.text().contains(&format!("\nx-request-id: {id}")), "{answer:?}");
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
    // Also where the proxy itself answers: that is when somebody asks.
    service.tracks[0].targets.clear();
    service.tracks[0].weight_bp = 0;
    proxy.set(1, &service).await;
    let refused = proxy.get("/id").await;
    assert_eq!((refused.status, refused.header(REASON_HEADER)), (503, Some("no-target")));
    assert_eq!(refused.header("x-request-id").map(str::len), Some(32));
}

#[tokio::test]
async fn the_trace_of_a_client_is_passed_on_untouched() {
    let (proxy, _upstream, _) = serving(Passing::default()).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let seen = seen(proxy.addr, b"", &format!("traceparent: {trace}\r\ntracestate: a=b,c=d\r\n")).await;
    assert!(seen.contains(&format!("traceparent: {trace}")), "{seen:#?}");
    assert!(seen.contains(&"tracestate: a=b,c=d".to_owned()), "{seen:#?}");
}

#[tokio::test]
async fn a_load_balancer_says_whose_connection_it_brings() {
    let (proxy, _upstream, mut service) = serving(Passing::default()).await;
    let balanced = proxy.client.listen(any()).await.unwrap();
    service.passing.proxy_protocol = vec![balanced];
    proxy.set(1, &service).await;
    let one = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
    let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    two.extend([192, 0, 2, 8, 198, 51, 100, 1, 1, 2, 3, 4]);
    for (header, ip) in [(&one[..], "192.0.2.7"), (&two, "192.0.2.8")] {
        let seen = seen(balanced, header, "").await;
        assert!(seen.contains(&format!("x-forwarded-for: {ip}")), "{seen:#?}");
    }
    // The balancer's own look whether we live.
    let seen_own = seen(balanced, b"PROXY UNKNOWN\r\n", "").await;
    assert!(seen_own.contains(&"x-forwarded-for: 127.0.0.1".to_owned()), "{seen_own:#?}");
    // In pieces, and with HTTP/2 behind it.
    let mut stream = tokio::net::TcpStream::connect(balanced).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in &one[..] {
        tokio::io::AsyncWriteExt::write_all(&mut stream, &[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let client = super::h2_client::H2::over(stream).await;
    let answer = client.ask(super::h2_client::get("/headers")).await.unwrap();
    assert!(answer.body.contains("x-forwarded-for: 192.0.2.7"), "{}", answer.body);
    // Without a header the connection ends; it must not be possible to leave it out.
    let mut wire = Wire::connect(balanced).await;
    wire.send("GET /id HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(wire.is_closed().await);
    // Elsewhere it is no header at all.
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send(one).await;
    assert_eq!(wire.response(false).await.map(|answer| answer.status).unwrap_or(400), 400);
    // With `trust` only those who are trusted may bring connections.
    service.passing.trust = vec!["10.0.0.0/8".parse().unwrap()];
    proxy.set(2, &service).await;
    let mut wire = Wire::connect(balanced).await;
    wire.send([&one[..], b"GET /id HTTP/1.1\r\nhost: a\r\n\r\n"].concat()).await;
    assert!(wire.is_closed().await);
}
