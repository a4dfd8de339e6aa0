//! TLS: certificates by host, renewed under traffic, refused when they are no good.

use std::io::BufRead;
use std::net::SocketAddr;

use cutover_proxy::{
    ErrorKind, EventKind, PinKey, REASON_HEADER, SEAT_COOKIE, ServiceTable, Sticky, TlsRoute,
};
use rustix::process::Signal;
use tempfile::TempDir;

use super::h2_client::{H2, get};
use super::harness::{LIMIT, Proxy, SERVICE, Wire, any, candidate, signal, table, track, until, until_seen};
use super::tls_client::{Authority, Pair, ask, shown};
use super::upstream::Upstream;

const GET: &str = "GET /headers HTTP/1.1\r\nhost: a.test\r\n\r\n";

struct Tls {
    proxy: Proxy,
    _upstream: Upstream,
    authority: Authority,
    files: TempDir,
    addr: SocketAddr,
    service: ServiceTable,
}

fn route(addr: SocketAddr, host: &str, (cert, key): (String, String)) -> TlsRoute {
    TlsRoute { listen: addr, host: Some(host.into()), cert, key, acme: None, hsts_s: None }
}

impl Tls {
    /// A proxy with a plain listener and one with a certificate for a.test.
    async fn start() -> Self {
        let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
        let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
        let addr = proxy.client.listen(any()).await.unwrap();
        let mut service = table(vec![track("v1", 10_000, &[upstream.addr])]);
        service.tls = vec![route(addr, "a.test", authority.issue("a.test").write(files.path(), "a"))];
        proxy.set(0, &service).await;
        Self { proxy, _upstream: upstream, authority, files, addr, service }
    }

    async fn get(&self) -> std::io::Result<String> {
        let mut stream = self.authority.connect(self.addr, "a.test", &[]).await?;
        Ok(ask(&mut stream, GET).await)
    }

    fn renew(&self, pair: &Pair) {
        pair.write(self.files.path(), "a");
    }

    /// Waits until new clients get another certificate.
    async fn until_renewed(&self, before: &[u8]) {
        let end = std::time::Instant::now() + LIMIT;
        while shown(&self.authority.connect(self.addr, "a.test", &[]).await.unwrap()) == before {
            assert!(std::time::Instant::now() < end, "the certificate is not renewed");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    async fn problem(&self) -> String {
        let problem = |seen: &cutover_proxy::Observation| {
            seen.services[SERVICE].certificates.iter().find_map(|seen| seen.problem.clone())
        };
        problem(&until_seen(&self.proxy, "a problem", |seen| problem(seen).is_some()).await).unwrap()
    }
}

#[tokio::test]
async fn each_host_has_its_certificate_and_the_target_learns_of_https() {
    let mut tls = Tls::start().await;
    let b = tls.authority.issue("b.test");
    let mut second = route(tls.addr, "b.test", b.write(tls.files.path(), "b"));
    second.hsts_s = Some(31_536_000);
    tls.service.tls.push(second);
    tls.proxy.set(1, &tls.service).await;
    // The client verifies the name: only the right certificate passes.
    for host in ["a.test", "b.test"] {
        let mut stream = tls.authority.connect(tls.addr, host, &["http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let answer = ask(&mut stream, GET).await;
        assert!(answer.contains("\nx-forwarded-proto: https"), "{answer}");
        assert!(answer.contains("strict-transport-security: max-age=31536000\r\n"), "{answer}");
    }
    let error = tls.authority.connect(tls.addr, "c.test", &[]).await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
    let plain = tls.proxy.get("/headers").await;
    assert!(
        plain.text().contains("x-forwarded-proto: http")
            && plain.header("strict-transport-security").is_none()
    );
    let seen = tls.proxy.client.observe_service(SERVICE).await.unwrap();
    let certificates = &seen.services[SERVICE].certificates;
    assert!(certificates.iter().all(|seen| seen.not_after == Some(3_786_912_000) && seen.problem.is_none()));
}

#[tokio::test]
async fn http_2_is_agreed_on_by_alpn() {
    let tls = Tls::start().await;
    let stream = tls.authority.connect(tls.addr, "a.test", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = H2::over(stream).await;
    let answers = futures_util::future::join_all((0..50).map(|_| client.ask(get("/headers")))).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert!(answer.status == 200 && answer.body.contains("x-forwarded-proto: https"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_used_at_once_and_drops_no_connection() {
    let tls = Tls::start().await;
    let mut kept = tls.authority.connect(tls.addr, "a.test", &[]).await.unwrap();
    assert!(ask(&mut kept, GET).await.starts_with("HTTP/1.1 200"));
    for _ in 0..2 {
        let before = shown(&tls.authority.connect(tls.addr, "a.test", &[]).await.unwrap());
        tls.renew(&tls.authority.issue("a.test"));
        tls.until_renewed(&before).await;
        assert!(ask(&mut kept, GET).await.starts_with("HTTP/1.1 200"), "the connection lives on");
    }
    assert!(tls.proxy.client.events(0).await.unwrap().is_empty());
}

#[tokio::test]
async fn files_that_are_no_good_are_refused_in_words() {
    let mut tls = Tls::start().await;
    let authority = &tls.authority;
    let (good, other) = (authority.issue("b.test"), authority.issue("b.test"));
    let none = Pair { cert: "no certificate".into(), ..good.clone() };
    let cases = [
        ("expired", authority.issue_between("b.test", 2020, 2021), "expired on 2021-01-01; renew it"),
        ("early", authority.issue_between("b.test", 2080, 2081), "is not valid before 2080-01-01"),
        ("name", authority.issue("c.test"), "is not for host \"b.test\"; give one that names it"),
        ("pair", Pair { key: other.key, ..good.clone() }, "is not the one of certificate"),
        ("none", none, "holds none; give the chain in PEM"),
        ("key", Pair { key: good.cert.clone(), ..good.clone() }, "holds no private key in PEM"),
        ("torn", Pair { cert: good.cert[..200].into(), ..good.clone() }, "is not PEM"),
    ];
    for (name, pair, words) in cases {
        let mut wanted = tls.service.clone();
        wanted.tls.push(route(tls.addr, "b.test", pair.write(tls.files.path(), name)));
        let error = tls.proxy.client.set(SERVICE, 1, 1, &wanted).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Invalid);
        let text = error.to_string();
        let path = format!("{}/{name}.", tls.files.path().display());
        assert!(
            text.contains(words) && text.contains(&path) && text.contains("TLS for b.test on"),
            "{name}: {text}"
        );
        assert!(!text.contains("PRIVATE"), "{text}");
    }
    tls.service.tls[0].cert = "/nowhere/cert.pem".into();
    let error = tls.proxy.client.set(SERVICE, 1, 1, &tls.service).await.unwrap_err();
    assert!(
        error.to_string().contains("cannot read certificate \"/nowhere/cert.pem\": No such file"),
        "{error}"
    );
    // Nothing changed.
    assert!(tls.get().await.unwrap().starts_with("HTTP/1.1 200"));
    for entry in std::fs::read_dir(tls.proxy.dir.path()).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("PRIVATE KEY"), "keys are never stored");
    }
}

#[tokio::test]
async fn a_renewal_that_is_no_good_leaves_the_certificate_before_in_use() {
    let tls = Tls::start().await;
    let before = shown(&tls.authority.connect(tls.addr, "a.test", &[]).await.unwrap());
    let mut told = 0;
    for (bad, words) in [
        (tls.authority.issue_between("a.test", 2020, 2021), "expired on 2021-01-01"),
        (tls.authority.issue("b.test"), "is not for host \"a.test\""),
        (
            Pair { key: tls.authority.issue("a.test").key, ..tls.authority.issue("a.test") },
            "is not the one of",
        ),
    ] {
        tls.renew(&bad);
        let end = std::time::Instant::now() + LIMIT;
        while !tls.problem().await.contains(words) {
            assert!(std::time::Instant::now() < end, "{words}: {}", tls.problem().await);
        }
        assert_eq!(shown(&tls.authority.connect(tls.addr, "a.test", &[]).await.unwrap()), before);
        // It is told as an event, once.
        let events = tls.proxy.client.watch(told, LIMIT).await.unwrap();
        assert!(events.len() == 1 && events[0].kind == EventKind::Alert, "{events:#?}");
        assert!(events[0].why.contains(words), "{}", events[0].why);
        assert!(events[0].why.contains("the certificate before stays in use"), "{}", events[0].why);
        told = events[0].number;
        // Weights can still be changed.
        let now = tls.proxy.client.observe_service(SERVICE).await.unwrap().services[SERVICE].table.generation;
        let mut service = tls.service.clone();
        service.response_timeout_ms = Some(10_000 + now);
        assert!(tls.proxy.set(now, &service).await.changed);
    }
    tls.renew(&tls.authority.issue("a.test"));
    tls.until_renewed(&before).await;
    until_seen(&tls.proxy, "no problem", |seen| {
        seen.services[SERVICE].certificates.iter().all(|seen| seen.problem.is_none())
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_cannot_read_its_certificate_refuses_rather_than_speak_plain_text() {
    let tls = Tls::start().await;
    let pair = tls.authority.issue("a.test");
    std::fs::remove_file(tls.files.path().join("a.key.pem")).unwrap();
    let before = tls.proxy.worker_pid().await;
    signal(before, Signal::KILL);
    until_seen(&tls.proxy, "the next worker", |seen| seen.worker_pid != before).await;
    assert!(tls.get().await.is_err(), "no certificate, no handshake");
    let plain = Wire::connect(tls.addr).await.get("/id").await;
    assert_eq!((plain.status, plain.header(REASON_HEADER)), (400, Some("plain-text")));
    let events = tls.proxy.client.events(0).await.unwrap();
    let told = events.iter().any(|event| event.kind == EventKind::Alert && event.why.contains("a.key.pem"));
    assert!(told, "{events:#?}");
    // It is tried again as soon as the files change.
    tls.renew(&pair);
    let end = std::time::Instant::now() + LIMIT;
    while tls.get().await.is_err() {
        assert!(std::time::Instant::now() < end, "the certificate is back, and not used");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Waits until a line that the holder or a worker of it has written holds some words.
async fn until_written(lines: &std::sync::mpsc::Receiver<String>, words: &str) {
    until(words, || lines.try_iter().find(|line| line.contains(words))).await;
}

#[tokio::test]
async fn a_successor_that_cannot_read_a_certificate_leaves_the_worker_before_in_charge() {
    let mut tls = Tls::start().await;
    let pair = tls.authority.issue("a.test");
    let stderr = std::io::BufReader::new(tls.proxy.holder.stderr.take().unwrap());
    let (write, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| write.send(line)));
    let mut kept = tls.authority.connect(tls.addr, "a.test", &[]).await.unwrap();
    let before = tls.proxy.worker_pid().await;
    std::fs::remove_file(tls.files.path().join("a.key.pem")).unwrap();
    signal(tls.proxy.holder.id(), Signal::HUP);
    until_written(&lines, "has a certificate that this one cannot read, and goes on serving").await;
    // It goes on in every respect: it serves new clients and old ones, and may be changed.
    assert!(ask(&mut kept, GET).await.starts_with("HTTP/1.1 200"));
    assert!(tls.get().await.unwrap().starts_with("HTTP/1.1 200"));
    tls.service.response_timeout_ms = Some(10_000);
    let end = std::time::Instant::now() + LIMIT;
    // Until the holder has noticed that the successor ended.
    while let Err(error) = tls.proxy.client.set(SERVICE, 1, 1, &tls.service).await {
        assert!(*error.kind() == ErrorKind::Closing && std::time::Instant::now() < end, "{error}");
    }
    assert_eq!(tls.proxy.worker_pid().await, before);
    // Once the file is there again, the next one takes over.
    tls.renew(&pair);
    signal(tls.proxy.holder.id(), Signal::HUP);
    let replaced =
        until_seen(&tls.proxy, "the next worker", |seen| seen.worker_pid != before).await.worker_pid;
    assert!(tls.get().await.unwrap().starts_with("HTTP/1.1 200"));
    // What the worker in charge has lost itself holds up no upgrade.
    std::fs::remove_file(tls.files.path().join("a.key.pem")).unwrap();
    signal(replaced, Signal::KILL);
    let without = until_seen(&tls.proxy, "one without", |seen| seen.worker_pid != replaced).await.worker_pid;
    signal(tls.proxy.holder.id(), Signal::HUP);
    until_seen(&tls.proxy, "another one", |seen| seen.worker_pid != without).await;
}

#[tokio::test]
async fn who_mistakes_the_protocol_is_told() {
    let tls = Tls::start().await;
    let mut wire = Wire::connect(tls.addr).await;
    let refused = wire.get("/id").await;
    assert_eq!((refused.status, refused.header(REASON_HEADER)), (400, Some("plain-text")));
    assert!(refused.text().contains("use https") && wire.is_closed().await);
    assert!(tls.authority.connect(tls.proxy.addr, "a.test", &[]).await.is_err());
}

#[tokio::test]
async fn a_plain_listener_redirects_where_it_is_told_to() {
    let mut tls = Tls::start().await;
    tls.service.redirect = vec![tls.addr];
    let error = tls.proxy.client.set(SERVICE, 1, 1, &tls.service).await.unwrap_err();
    assert!(error.to_string().contains("redirects to HTTPS and speaks it"), "{error}");
    tls.service.redirect = vec![tls.proxy.addr];
    tls.proxy.set(1, &tls.service).await;
    let port = tls.addr.port();
    for (request, location) in [
        ("GET /a?b=c HTTP/1.1\r\nhost: a.test:80\r\n\r\n", format!("https://a.test:{port}/a?b=c")),
        (
            "POST /a HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1\r\n\r\nx",
            format!("https://a.test:{port}/a"),
        ),
        ("GET http://b.test//evil HTTP/1.1\r\nhost: a.test\r\n\r\n", format!("https://b.test:{port}//evil")),
    ] {
        let mut wire = Wire::connect(tls.proxy.addr).await;
        wire.send(request).await;
        let answer = wire.response(false).await.unwrap();
        assert_eq!((answer.status, answer.header("location")), (308, Some(location.as_str())));
    }
    assert!(tls.get().await.unwrap().starts_with("HTTP/1.1 200"));
    let seen = tls.proxy.client.observe().await.unwrap();
    assert_eq!(seen.unrouted["https-redirect"], 3);
}

#[tokio::test]
async fn a_seat_that_is_given_by_https_stays_there() {
    let mut tls = Tls::start().await;
    let v2 = Upstream::start("v2").await;
    tls.service.tracks[0].weight_bp = 5_000;
    tls.service.tracks.push(track("v2", 5_000, &[v2.addr]));
    tls.service.candidate = candidate("shop-2", "v2", 60_000, None);
    tls.service.pin_key = Some(PinKey("00112233445566778899aabbccddeeff".into()));
    tls.service.sticky = Some(Sticky::Cookie { name: SEAT_COOKIE.into() });
    tls.proxy.set(1, &tls.service).await;
    let given = tls.get().await.unwrap();
    let cookie = given.lines().find(|line| line.starts_with("set-cookie: ")).expect(&given);
    assert!(cookie.contains("; HttpOnly") && cookie.contains("; Secure"), "{cookie}");
    // In the clear such a cookie would never come back.
    let plain = Wire::connect(tls.proxy.addr).await.get("/id").await;
    assert!(!plain.header("set-cookie").unwrap().contains("Secure"), "{}", plain.head);
}

#[tokio::test]
async fn a_load_balancer_says_whose_connection_it_brings_before_the_handshake() {
    let mut tls = Tls::start().await;
    tls.service.passing.proxy_protocol = vec![tls.addr];
    tls.proxy.set(1, &tls.service).await;
    let one = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
    let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    two.extend([192, 0, 2, 8, 198, 51, 100, 1, 1, 2, 3, 4]);
    for (first, ip) in [(&one[..], "192.0.2.7"), (&two, "192.0.2.8")] {
        let mut stream = tls.authority.connect_after(first, tls.addr, "a.test").await.unwrap();
        let seen = ask(&mut stream, GET).await;
        assert!(seen.contains(&format!("x-forwarded-for: {ip}")), "{seen}");
        assert!(seen.contains("x-forwarded-proto: https"), "{seen}");
    }
    assert!(tls.get().await.is_err(), "without it there is no handshake");
}
