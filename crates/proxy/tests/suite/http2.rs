//! HTTP/2 from clients: streams are requests, and what a client can make the proxy hold is bounded.

use std::time::Duration;

use bytes::Bytes;
use cutover_proxy::{Arm, REASON_HEADER};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use tokio::time::timeout;

use super::h2_client::{
    Answer, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, H2, HEAD, HEADERS, RST_STREAM,
    SETTINGS, empty, frame, full, get, post,
};
use super::harness::{LIMIT, Proxy, SERVICE, Wire, counts, signal, table, track, until, until_seen};
use super::upstream::{Upstream, scripted, write};
use super::websocket::{frame as ws_frame, read_frame};

async fn one(name: &str) -> (Proxy, Upstream) {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start(name).await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[upstream.addr])])).await;
    (proxy, upstream)
}

#[tokio::test]
async fn http_1_and_2_share_a_listener_and_each_stream_is_counted() {
    let (proxy, _upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    let answers = join_all((0..100).map(|_| client.ask(get("/id")))).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "v1"));
    }
    assert_eq!(proxy.get("/id").await.text(), "v1");
    // The client's connection of HTTP/2 is one, whatever its streams.
    let seen = until_seen(&proxy, "HTTP/1 client leaves", |seen| seen.connections == 1).await;
    let counts = counts(&seen, "v1", Arm::Stable);
    assert_eq!((counts.claimed, counts.finished, counts.status[1]), (101, 101, 101));
}

#[tokio::test]
async fn a_preface_in_pieces_is_recognised() {
    let (proxy, _upstream) = one("v1").await;
    let mut stream = tokio::net::TcpStream::connect(proxy.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, HEAD));
    for byte in &bytes {
        tokio::io::AsyncWriteExt::write_all(&mut stream, &[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut frames = Frames(tokio::io::BufReader::new(stream));
    assert_eq!(frames.until(DATA).await.unwrap().payload, b"v1");
    // What only begins like it is HTTP/1.
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send("PR").await;
    tokio::task::yield_now().await;
    wire.send("OBE /id HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(wire.response(false).await.unwrap().text(), "v1");
}

#[tokio::test]
async fn the_authority_is_the_host_and_both_must_agree() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[upstream.addr])]);
    service.hosts = vec!["shop.test".into()];
    proxy.set(0, &service).await;
    let client = H2::connect(proxy.addr).await;
    let ask = async |host: &str| {
        let request = Request::get("http://shop.test/headers").header("host", host);
        client.ask(request.body(empty()).unwrap()).await.unwrap()
    };
    let same = ask("Shop.test").await;
    assert!(same.status == 200 && same.body.contains("host: shop.test"), "{same:?}");
    let other = ask("other.test").await;
    assert_eq!((other.status, other.headers[REASON_HEADER].to_str().unwrap()), (400, "two-hosts"));
    let elsewhere = Request::get("http://other.test/id").body(empty()).unwrap();
    let elsewhere = client.ask(elsewhere).await.unwrap();
    assert_eq!((elsewhere.status, elsewhere.headers[REASON_HEADER].to_str().unwrap()), (404, "no-service"));
}

#[tokio::test]
async fn heads_are_those_of_http_1_to_the_target() {
    let (proxy, _upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    let request = Request::get("http://shop.test/headers?a=b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-cutover-pin", "v1:00");
    let seen = client.ask(request.body(empty()).unwrap()).await.unwrap().body;
    let wanted = "GET /headers?a=b\ncookie: a=1; b=2\nhost: shop.test\nte: trailers\nx-forwarded-for: 127.0.0.1\n\
                  x-forwarded-host: shop.test\nx-forwarded-proto: http";
    assert_eq!(seen, wanted);
    // Not passed on: the target could answer requests that nobody has routed.
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send(
        "GET /headers HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABk\r\n\r\n",
    )
    .await;
    let plain = wire.response(false).await.unwrap();
    assert_eq!(plain.status, 200, "no 101");
    assert!(!plain.text().contains("h2c") && !plain.text().contains("http2-settings"), "{}", plain.text());
}

/// A body with trailers.
fn with_trailers(parts: &[&'static str]) -> super::h2_client::Body {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from(parts.len()));
    let frames = parts.iter().map(|part| Ok(BodyFrame::data(Bytes::from_static(part.as_bytes()))));
    let frames: Vec<_> = frames.chain([Ok(BodyFrame::trailers(trailers))]).collect();
    StreamBody::new(futures_util::stream::iter(frames)).boxed()
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let (proxy, _upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    let long = "x".repeat(3_000_000);
    assert_eq!(client.ask(post("/echo", full(long.clone()))).await.unwrap().body, long);
    let request = Request::get("http://shop.test/stream/3").header("te", "trailers").body(empty()).unwrap();
    let down = client.ask(request).await.unwrap();
    assert_eq!(down.body, "chunk 0\nchunk 1\nchunk 2\n");
    assert_eq!(down.trailers["x-sum"], "3");
    let mut request = post("/trailers", with_trailers(&["a", "b"]));
    request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    let up: Answer = client.ask(request).await.unwrap();
    assert_eq!(up.body, "ab x-sum: 2");
}

#[tokio::test]
async fn a_broken_body_is_a_reset_and_no_end() {
    let proxy = Proxy::start().await;
    let addr = scripted(|mut stream, _| async move {
        let _ = super::upstream::read_request(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    })
    .await;
    proxy.set(0, &table(vec![track("v1", 10_000, &[addr])])).await;
    let client = H2::connect(proxy.addr).await;
    assert!(client.ask(get("/")).await.is_err(), "a body that broke off must not look whole");
    assert_eq!(proxy.counts("v1", Arm::Stable).await.failed["truncated"], 1);
    // The connection and its other streams live on.
    assert!(client.ask(get("/")).await.is_err());
}

#[tokio::test]
async fn a_stream_given_up_by_its_client_is_no_fault_of_the_target() {
    let (proxy, upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    let mut sender = client.sender.clone();
    let waiting = tokio::spawn(async move { sender.send_request(get("/slow/60000")).await });
    until("request arrives", || (upstream.requests() == 1).then_some(())).await;
    waiting.abort();
    until_seen(&proxy, "abort is counted", |seen| {
        let counts = counts(seen, "v1", Arm::Stable);
        counts.aborted_by_client == 1 && seen.services[SERVICE].revisions["v1"].in_flight == 0
    })
    .await;
    assert_eq!(client.ask(get("/id")).await.unwrap().body, "v1");
}

#[tokio::test]
async fn a_leaving_proxy_says_goaway_and_finishes_the_streams_in_flight() {
    let (mut proxy, upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    let idle = H2::connect(proxy.addr).await;
    assert_eq!(idle.ask(get("/id")).await.unwrap().body, "v1");
    let sender = client.sender.clone();
    let slow = tokio::spawn(async move {
        let client = H2 { sender, connection: tokio::spawn(async { true }) };
        let upload = post("/echo", full("x".repeat(100_000)));
        let (slow, echo) = tokio::join!(client.ask(get("/slow/400")), client.ask(upload));
        (slow.unwrap().body, echo.unwrap().body.len())
    });
    until("requests arrive", || (upstream.requests() == 3).then_some(())).await;
    signal(proxy.holder.id(), Signal::TERM);
    // Both connections end in order, the busy one after its streams.
    assert!(timeout(LIMIT, idle.connection).await.unwrap().unwrap(), "no error");
    assert_eq!(timeout(LIMIT, slow).await.unwrap().unwrap(), ("v1".to_owned(), 100_000));
    assert!(timeout(LIMIT, client.connection).await.unwrap().unwrap(), "no error");
    until("holder ends", || proxy.holder.try_wait().unwrap()).await;
}

#[tokio::test]
async fn a_successor_takes_new_connections_while_streams_finish() {
    let (proxy, upstream) = one("v1").await;
    let before = proxy.worker_pid().await;
    let client = H2::connect(proxy.addr).await;
    let slow = client.sender.clone().send_request(get("/slow/600"));
    let slow = tokio::spawn(slow);
    until("request arrives", || (upstream.requests() == 1).then_some(())).await;
    signal(proxy.holder.id(), Signal::HUP);
    until_seen(&proxy, "the successor", |seen| seen.worker_pid != before).await;
    let next = H2::connect(proxy.addr).await;
    assert_eq!(next.ask(get("/id")).await.unwrap().body, "v1");
    let slow = timeout(LIMIT, slow).await.unwrap().unwrap().unwrap();
    assert_eq!(slow.into_body().collect().await.unwrap().to_bytes(), "v1");
    assert!(timeout(LIMIT, client.connection).await.unwrap().unwrap(), "GOAWAY ended it");
}

/// Its body has ended for the proxy long before the client has it.
#[tokio::test]
async fn a_slow_reader_gets_all_of_its_stream_though_the_worker_is_replaced() {
    let patient = [("CUTOVER_TEST_GRACE_MS", "20000")];
    let (proxy, upstream) =
        (Proxy::start_with(tempfile::tempdir().unwrap(), &patient).await, Upstream::start("v1").await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[upstream.addr])])).await;
    let before = proxy.worker_pid().await;
    let mut frames = Frames::connect(proxy.addr).await;
    let path = b"/big/4000";
    let head = [&b"\x82\x86\x41\x09shop.test\x04"[..], &[path.len() as u8], path].concat();
    // The window of the stream is 100 bytes, until much later.
    frames.write(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 100])).await.unwrap();
    frames.write(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await.unwrap();
    let mut taken = frames.until(DATA).await.unwrap().payload.len();
    signal(proxy.holder.id(), Signal::HUP);
    until_seen(&proxy, "the successor", |seen| seen.worker_pid != before).await;
    // Longer than a client without a stream has after GOAWAY.
    tokio::time::sleep(Duration::from_millis(6_000)).await;
    frames.write(&frame(8, 0, 1, &4_000_u32.to_be_bytes())).await.unwrap();
    while taken < 4_000 {
        taken += frames.until(DATA).await.expect("the stream is not cut").payload.len();
    }
    assert_eq!(taken, 4_000);
}

/// Whether the proxy closed the connection, and why it said so.
async fn refused(mut frames: Frames) -> Option<u32> {
    let goaway = frames.until(GOAWAY).await?;
    while frames.read().await.is_some() {}
    Some(u32::from_be_bytes(goaway.payload[4..8].try_into().unwrap()))
}

async fn serves_on(proxy: &Proxy) {
    assert_eq!(proxy.get("/id").await.text(), "v1");
    until_seen(proxy, "nothing is left of the flood", |seen| {
        seen.connections == 0 && seen.services[SERVICE].revisions["v1"].in_flight == 0
    })
    .await;
}

#[tokio::test]
async fn streams_at_once_are_limited() {
    let (proxy, _upstream) = one("v1").await;
    let mut frames = Frames::connect(proxy.addr).await;
    let settings = frames.until(SETTINGS).await.unwrap();
    let setting = |id: u16| {
        let mut pairs = settings.payload.chunks(6);
        let pair = pairs.find(|pair| u16::from_be_bytes([pair[0], pair[1]]) == id);
        pair.map(|pair| u32::from_be_bytes(pair[2..6].try_into().unwrap()))
    };
    assert_eq!((setting(3), setting(6)), (Some(128), Some(32 << 10)), "streams, bytes of headers");
    // One more is refused, as not processed: its client may ask again.
    let slow = b"\x82\x86\x44\x0b/slow/60000\x41\x09shop.test";
    for at in 0..129_u32 {
        frames.write(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, slow)).await.unwrap();
    }
    let reset = frames.until(RST_STREAM).await.unwrap();
    let refused_stream = 7_u32;
    assert_eq!((reset.stream, reset.payload), (257, refused_stream.to_be_bytes().to_vec()));
    drop(frames);
    serves_on(&proxy).await;
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let (proxy, _upstream) = one("v1").await;
    // As fast as it can be written: the proxy has hardly looked at a stream before it is reset.
    let mut frames = Frames::connect(proxy.addr).await;
    let mut flood = Vec::new();
    for at in 0..10_000_u32 {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, HEAD));
        flood.extend(frame(RST_STREAM, 0, 2 * at + 1, &8_u32.to_be_bytes()));
    }
    let _ = frames.write(&flood).await;
    let enhance_your_calm = 11;
    // The reset of a socket with unread data may overtake the frame.
    let code = refused(frames).await;
    assert!(code.is_none_or(|code| code == enhance_your_calm), "{code:?}");
    serves_on(&proxy).await;
}

#[tokio::test]
async fn a_patient_flood_of_resets_ends_the_connection_too() {
    let (proxy, _upstream) = one("v1").await;
    let mut frames = Frames::connect(proxy.addr).await;
    let slow = b"\x82\x86\x44\x0b/slow/60000\x41\x09shop.test";
    let mut opened = 0;
    'flood: for at in 0..2_000_u32 {
        if frames.write(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, slow)).await.is_err() {
            break;
        }
        // Each stream is let through to the target before it is reset.
        while opened <= u64::from(at) {
            let seen = proxy.client.observe().await.unwrap();
            if at > 0 && seen.connections == 0 {
                break 'flood;
            }
            opened = counts(&seen, "v1", Arm::Stable).claimed;
        }
        let reset = frame(RST_STREAM, 0, 2 * at + 1, &8_u32.to_be_bytes());
        if frames.write(&reset).await.is_err() {
            break;
        }
    }
    // The last one may be gone before it was seen.
    assert!((499..=510).contains(&opened), "closed when it was judged: {opened}");
    serves_on(&proxy).await;
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let (proxy, upstream) = one("v1").await;
    let mut frames = Frames::connect(proxy.addr).await;
    frames.write(&frame(HEADERS, END_STREAM, 1, HEAD)).await.unwrap();
    // A field of its own in each, never the last: literal, not indexed.
    let mut more = b"\x00\x01a\x7f\x81\x7f".to_vec();
    more.extend(vec![b'x'; 256]);
    let mut written = 0_u64;
    for _ in 0..100_000 {
        if frames.write(&frame(CONTINUATION, 0, 1, &more)).await.is_err() {
            break;
        }
        written += more.len() as u64;
    }
    assert!(written < 20_000_000, "{written} bytes were taken");
    assert_eq!(upstream.requests(), 0);
    drop(frames);
    // A list that ends, but is too long, is answered.
    let client = H2::connect(proxy.addr).await;
    let request = Request::get("http://shop.test/id").header("x-long", "x".repeat(40_000));
    let refused = client.ask(request.body(empty()).unwrap()).await;
    assert!(refused.as_ref().map_or(true, |answer| answer.status == 431), "{refused:?}");
    assert_eq!(upstream.requests(), 0);
    drop(client);
    serves_on(&proxy).await;
}

#[tokio::test]
async fn a_reader_that_stops_holds_no_more_than_its_windows() {
    let (proxy, _upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    // The bodies are never read: the proxy stops asking the target for more, and other streams pass.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(client.send(get("/stream/100000")).await.unwrap());
    }
    assert_eq!(client.ask(get("/id")).await.unwrap().body, "v1");
    drop(held);
    until_seen(&proxy, "all are given up", |seen| seen.services[SERVICE].revisions["v1"].in_flight == 0)
        .await;
    tokio::time::timeout(Duration::from_secs(5), client.ask(get("/id"))).await.unwrap().unwrap();
}

/// Opens a WebSocket in a stream.
async fn websocket(client: &H2, path: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, u16> {
    let mut request = Request::builder()
        .method("CONNECT")
        .uri(format!("http://shop.test{path}"))
        .header("sec-websocket-version", "13")
        .body(empty())
        .unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let response = client.send(request).await.unwrap();
    if response.status() != 200 {
        return Err(response.status().as_u16());
    }
    assert!(!response.headers().contains_key("sec-websocket-accept"), "{:?}", response.headers());
    Ok(TokioIo::new(timeout(LIMIT, hyper::upgrade::on(response)).await.unwrap().unwrap()))
}

async fn echo(stream: &mut TokioIo<hyper::upgrade::Upgraded>, text: &str) {
    tokio::io::AsyncWriteExt::write_all(stream, &ws_frame(1, text.as_bytes(), true)).await.unwrap();
    let (opcode, payload) = timeout(LIMIT, read_frame(stream)).await.unwrap().unwrap();
    assert_eq!((opcode, payload.as_slice()), (1, text.as_bytes()));
}

#[tokio::test]
async fn a_stream_becomes_a_websocket_beside_other_streams() {
    let (proxy, _upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    // The proxy's settings, which say that it can, come with the first answer.
    assert_eq!(client.ask(get("/id")).await.unwrap().body, "v1");
    let (mut one, mut two) =
        (websocket(&client, "/ws").await.unwrap(), websocket(&client, "/ws").await.unwrap());
    for text in ["a", &"b".repeat(70_000)] {
        echo(&mut one, text).await;
        assert_eq!(client.ask(get("/id")).await.unwrap().body, "v1");
        echo(&mut two, text).await;
    }
    let seen = proxy.client.observe().await.unwrap();
    assert_eq!(seen.services[SERVICE].revisions["v1"].websockets, 2);
    // One ends, and says so; the other one stays.
    tokio::io::AsyncWriteExt::write_all(&mut one, &ws_frame(8, &[3, 232], true)).await.unwrap();
    assert_eq!(timeout(LIMIT, read_frame(&mut one)).await.unwrap().unwrap(), (8, vec![3, 232]));
    until_seen(&proxy, "one is over", |seen| seen.services[SERVICE].revisions["v1"].websockets == 1).await;
    echo(&mut two, "still there").await;
}

#[tokio::test]
async fn a_drain_closes_the_websocket_of_a_stream_with_a_frame() {
    let (proxy, upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    assert_eq!(client.ask(get("/id")).await.unwrap().body, "v1");
    let mut stream = websocket(&client, "/ws").await.unwrap();
    echo(&mut stream, "a").await;
    let tracks = vec![track("v1", 0, &[upstream.addr]), track("v2", 10_000, &[upstream.addr])];
    proxy.set(1, &table(tracks)).await;
    let drain = proxy.client.drain(SERVICE, "v1", Duration::from_millis(400));
    let (drained, (opcode, payload)) = tokio::join!(drain, async {
        let close = timeout(LIMIT, read_frame(&mut stream)).await.unwrap().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &ws_frame(8, &close.1, true)).await.unwrap();
        close
    });
    assert_eq!((opcode, u16::from_be_bytes([payload[0], payload[1]])), (8, 1001));
    let drained = drained.unwrap();
    assert_eq!((drained.clean, drained.cut, drained.websockets_closed), (true, 0, 1));
    // The connection stays for the other streams.
    assert_eq!(client.ask(get("/id")).await.unwrap().body, "v1");
}

#[tokio::test]
async fn what_is_no_websocket_is_no_tunnel() {
    let (proxy, _upstream) = one("v1").await;
    let client = H2::connect(proxy.addr).await;
    assert_eq!(client.ask(get("/id")).await.unwrap().body, "v1");
    let mut request = Request::builder().method("CONNECT").uri("http://shop.test/x").body(empty()).unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("connect-udp"));
    assert_eq!(client.send(request).await.unwrap().status(), 501);
    // A target that takes no notice of the upgrade: its 200 must not look like one.
    let addr = scripted(|mut stream, _| async move {
        let _ = super::upstream::read_request(&mut stream).await;
        write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    })
    .await;
    proxy.set(1, &table(vec![track("v1", 10_000, &[addr])])).await;
    assert_eq!(websocket(&client, "/ws").await.err(), Some(502));
}
