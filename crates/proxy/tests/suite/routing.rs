//! Which service and which revision a request goes to: by path, by seat, by chance.

use cutover_proxy::{
    Arm, ErrorKind, Guard, MIRROR_HEADER, PIN_COOKIE, PIN_HEADER, Passing, PinKey, SEAT_COOKIE, ServiceTable,
    Sticky, Track, sign_pin,
};

use super::harness::{Proxy, SERVICE, Wire, candidate, counts, table, track, until_seen};
use super::upstream::Upstream;

const KEY: &str = "00112233445566778899aabbccddeeff";
const OTHER_KEY: &str = "ffeeddccbbaa99887766554433221100";

fn below(paths: &[&str], tracks: Vec<Track>) -> ServiceTable {
    ServiceTable { paths: paths.iter().map(|path| (*path).to_owned()).collect(), ..table(tracks) }
}

#[tokio::test]
async fn the_longest_prefix_of_the_path_is_the_service() {
    let (proxy, shop, api, old) = (
        Proxy::start().await,
        Upstream::start("shop").await,
        Upstream::start("api").await,
        Upstream::start("old").await,
    );
    let whole = |name: &str, upstream: &Upstream| vec![track(name, 10_000, &[upstream.addr])];
    proxy.set(0, &table(whole("shop", &shop))).await;
    proxy.client.set("api", 0, 1, &below(&["/api"], whole("api", &api))).await.unwrap();
    proxy.client.set("old", 0, 1, &below(&["/api/v1/"], whole("old", &old))).await.unwrap();
    let mut wire = Wire::connect(proxy.addr).await;
    for (path, served_by) in [
        ("/", "shop"),
        ("/apiary", "shop"),
        ("/api", "api"),
        ("/api?x=/api/v1", "api"),
        ("/api/v2/id", "api"),
        ("/api/v1", "old"),
        ("/api/v1/id", "old"),
        ("/api/v10", "api"),
    ] {
        let response = wire.get(path).await;
        assert_eq!(response.header("x-served-by"), Some(served_by), "{path}: {}", response.head);
    }
    let error =
        proxy.client.set("more", 0, 1, &below(&["/x", "/api/"], whole("x", &shop))).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Invalid);
    assert!(error.to_string().contains("path \"/api\" is already served by service \"api\""), "{error}");
    // Nobody serves the rest once the service of all paths is gone.
    proxy.client.remove_service(SERVICE, 1, 1).await.unwrap();
    let response = wire.get("/").await;
    assert_eq!((response.status, response.header("x-cutover-reason")), (404, Some("no-service")));
}

fn sticky(sticky: Sticky, weight: u16, addresses: [std::net::SocketAddr; 2]) -> ServiceTable {
    let tracks = vec![track("v1", 10_000 - weight, &addresses[..1]), track("v2", weight, &addresses[1..])];
    ServiceTable {
        candidate: candidate("shop-2", "v2", 60_000, None),
        pin_key: Some(PinKey(KEY.into())),
        sticky: Some(sticky),
        ..table(tracks)
    }
}

/// A browser: it keeps the cookie that it is given.
#[derive(Default, Clone)]
struct Browser {
    cookie: Option<String>,
    given: u32,
}

impl Browser {
    /// Asks once; returns who answered.
    async fn ask(&mut self, wire: &mut Wire) -> String {
        let cookie =
            self.cookie.as_ref().map_or(String::new(), |cookie| format!("cookie: a=1; {cookie}\r\n"));
        wire.send(format!("GET /id HTTP/1.1\r\nhost: shop.test\r\n{cookie}\r\n")).await;
        let response = wire.response(false).await.unwrap();
        if let Some(given) = response.header("set-cookie") {
            assert!(
                given.starts_with(SEAT_COOKIE) && given.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
                "{given}"
            );
            self.cookie = given.split(';').next().map(str::to_owned);
            self.given += 1;
        }
        response.text()
    }
}

#[tokio::test]
async fn clients_come_to_the_candidate_as_its_weight_grows_and_none_goes_back() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let by_cookie = || Sticky::Cookie { name: SEAT_COOKIE.into() };
    let mut wire = Wire::connect(proxy.addr).await;
    let mut browsers = vec![Browser::default(); 60];
    let mut before: Vec<bool> = vec![false; browsers.len()];
    for (generation, weight) in [0, 3_000, 6_000, 10_000].into_iter().enumerate() {
        proxy.set(generation as u64, &sticky(by_cookie(), weight, [v1.addr, v2.addr])).await;
        for (browser, was_there) in browsers.iter_mut().zip(&mut before) {
            let first = browser.ask(&mut wire).await;
            for _ in 0..3 {
                assert_eq!(browser.ask(&mut wire).await, first, "it stays where it is");
            }
            assert!(!*was_there || first == "v2", "raising the weight moved a client back");
            *was_there = first == "v2";
        }
        let there = before.iter().filter(|there| **there).count();
        match weight {
            0 => assert_eq!(there, 0),
            10_000 => assert_eq!(there, browsers.len()),
            _ => assert!(there > 0 && there < browsers.len(), "{there} of 60 at {weight}"),
        }
    }
    assert!(browsers.iter().all(|browser| browser.given == 1), "one cookie each");
    // Taken back: all of them, at once.
    proxy.client.back(SERVICE, "bad").await.unwrap();
    for browser in &mut browsers {
        assert_eq!(browser.ask(&mut wire).await, "v1");
    }
}

#[tokio::test]
async fn a_seat_outlives_the_worker_and_a_change_of_the_key_and_ends_with_its_release() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let by_cookie = || Sticky::Cookie { name: SEAT_COOKIE.into() };
    let mut service = sticky(by_cookie(), 5_000, [v1.addr, v2.addr]);
    proxy.set(0, &service).await;
    let mut browser = Browser::default();
    let seat = browser.ask(&mut Wire::connect(proxy.addr).await).await;
    // The next worker holds the candidate back until somebody renews its lease.
    super::harness::signal(proxy.worker_pid().await, rustix::process::Signal::KILL);
    proxy.client.renew(SERVICE, "shop-2", 1).await.unwrap();
    let mut wire = Wire::connect(proxy.addr).await;
    assert_eq!(browser.ask(&mut wire).await, seat);
    service.pin_key = Some(PinKey(OTHER_KEY.into()));
    proxy.set(1, &service).await;
    assert_eq!((browser.ask(&mut wire).await, browser.given), (seat, 1));
    // Another release draws anew, so that it is not always the same who try what is new.
    service.candidate = candidate("shop-3", "v2", 60_000, None);
    proxy.set(2, &service).await;
    browser.ask(&mut wire).await;
    assert_eq!(browser.given, 2);
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    let shown = format!("{seen:?}");
    assert!(!shown.contains(KEY) && !shown.contains(OTHER_KEY), "keys are not shown");
}

#[tokio::test]
async fn the_seat_is_kept_from_the_target_and_a_forged_one_is_worth_nothing() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let by_cookie = Sticky::Cookie { name: SEAT_COOKIE.into() };
    proxy.set(0, &sticky(by_cookie, 1, [v1.addr, v2.addr])).await;
    let mut wire = Wire::connect(proxy.addr).await;
    // Seat 0 would be the candidate's.
    let forged = format!("{SEAT_COOKIE}=shop-2.0.{}", "0".repeat(64));
    let mut there = 0;
    for _ in 0..50 {
        wire.send(format!("GET /headers HTTP/1.1\r\nhost: shop.test\r\ncookie: a=1; {forged}; b=2\r\n\r\n"))
            .await;
        let response = wire.response(false).await.unwrap();
        assert!(response.header("set-cookie").is_some(), "it gets a seat of its own");
        let seen = response.text();
        assert!(seen.contains("a=1; b=2") && !seen.contains(SEAT_COOKIE), "{seen}");
        there += u32::from(response.header("x-served-by") == Some("v2"));
    }
    assert!(there < 5, "{there} of 50 at 0.01%");
}

#[tokio::test]
async fn a_header_keeps_a_user_where_it_is() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let by_header = Sticky::Header { name: "x-user".into() };
    proxy.set(0, &sticky(by_header, 5_000, [v1.addr, v2.addr])).await;
    let mut wire = Wire::connect(proxy.addr).await;
    let mut there = 0;
    for user in 0..60 {
        let mut first = None;
        for _ in 0..4 {
            wire.send(format!("GET /id HTTP/1.1\r\nhost: shop.test\r\nx-user: {user}\r\n\r\n")).await;
            let response = wire.response(false).await.unwrap();
            assert_eq!(response.header("set-cookie"), None);
            assert_eq!(*first.get_or_insert(response.text()), response.text());
        }
        there += u32::from(first.as_deref() == Some("v2"));
    }
    assert!((10..50).contains(&there), "{there} of 60");
}

#[tokio::test]
async fn the_candidate_gets_copies_of_safe_requests_and_its_answers_are_compared_and_thrown_away() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let guard = Guard { min_requests: 1, max_error_bp: Some(0), max_mean_ms: None, max_p95_ms: None };
    let service = ServiceTable {
        candidate: candidate("shop-2", "v2", 60_000, Some(guard)),
        mirror_bp: 10_000,
        ..table(vec![track("v1", 10_000, &[v1.addr]), track("v2", 0, &[v2.addr])])
    };
    proxy.set(0, &service).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..10 {
        assert_eq!(wire.get("/id").await.text(), "v1");
    }
    for _ in 0..5 {
        assert_eq!(wire.post("/echo", "once").await.unwrap().status, 200);
    }
    let compared = |expected: u64, differs: u64| {
        move |seen: &cutover_proxy::Observation| {
            let counts = counts(seen, "v2", Arm::Mirrored);
            (counts.finished, counts.mirror_compared, counts.mirror_differs) == (expected, expected, differs)
        }
    };
    until_seen(&proxy, "copies of the ten GETs, and of no POST", compared(10, 0)).await;
    assert_eq!(v2.requests(), 10);
    // It fails: nobody notices, and no guard: it was never given a request.
    v2.shared.status.store(500, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(wire.get("/id").await.status, 200);
    }
    let seen = until_seen(&proxy, "the difference", compared(20, 10)).await;
    assert_eq!(counts(&seen, "v2", Arm::Candidate).claimed, 0);
    assert_eq!(counts(&seen, "v1", Arm::Stable).finished, 25);
    assert!(seen.services[SERVICE].tripped.is_empty());
    // It is slow: that is compared as well.
    v2.shared.delay_ms.store(100, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(wire.get("/id").await.text(), "v1");
    }
    let seen = until_seen(&proxy, "slow copies", compared(30, 20)).await;
    let slow = counts(&seen, "v2", Arm::Mirrored);
    assert!((10..=12).contains(&slow.mirror_slower), "{slow:?}");
    assert!(
        slow.mirror_latency_us >= 1_000_000 && slow.mirrored_latency_us < slow.mirror_latency_us,
        "{slow:?}"
    );
    v2.shared.delay_ms.store(0, std::sync::atomic::Ordering::SeqCst);
    // The target can tell a copy, and stable is asked without a word of it.
    let copies = v2.shared.copies.load(std::sync::atomic::Ordering::SeqCst);
    assert!(copies >= 30 && copies == v2.requests(), "{copies} of {}", v2.requests());
    v2.shared.status.store(200, std::sync::atomic::Ordering::SeqCst);
    assert!(!wire.get("/headers").await.text().contains(MIRROR_HEADER));
    // A target that hangs holds nobody up.
    v2.shared.delay_ms.store(60_000, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..100 {
        assert_eq!(wire.get("/id").await.text(), "v1");
    }
    assert!(v2.requests() < 100, "no more than a thread may have at a time");
    // Taken back, it gets no copies either.
    proxy.client.back(SERVICE, "bad").await.unwrap();
    let before = v2.requests();
    for _ in 0..10 {
        wire.get("/id").await;
    }
    assert_eq!(v2.requests(), before);
}

#[tokio::test]
async fn those_who_are_invited_see_the_candidate_first_and_nobody_else_does() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let service = ServiceTable {
        candidate: candidate("shop-2", "v2", 60_000, None),
        pin_key: Some(PinKey(KEY.into())),
        preview: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
        passing: Passing { trust: vec!["127.0.0.0/8".parse().unwrap()], ..Passing::default() },
        ..table(vec![track("v1", 10_000, &[v1.addr]), track("v2", 0, &[v2.addr])])
    };
    proxy.set(0, &service).await;
    let mut wire = Wire::connect(proxy.addr).await;
    let mut ask = async |headers: &str| {
        wire.send(format!("GET /headers HTTP/1.1\r\nhost: shop.test\r\n{headers}\r\n")).await;
        let response = wire.response(false).await.unwrap();
        let seen = response.text().to_ascii_lowercase();
        assert!(!seen.contains(PIN_COOKIE) && !seen.contains(PIN_HEADER), "the target sees it: {seen}");
        response.header("x-served-by").unwrap().to_owned()
    };
    let pin = sign_pin(KEY, SERVICE, "v2");
    let forged = sign_pin(OTHER_KEY, SERVICE, "v2");
    for (headers, served_by) in [
        (String::new(), "v1"),
        ("x-forwarded-for: 10.1.2.3\r\n".into(), "v2"),
        ("x-forwarded-for: fd00::7\r\n".into(), "v2"),
        // The last one is what our own load balancer saw; the others are anybody's word.
        ("x-forwarded-for: 10.1.2.3, 192.0.2.1\r\n".into(), "v1"),
        (format!("cookie: a=1; {PIN_COOKIE}={pin}\r\n"), "v2"),
        (format!("cookie: {PIN_COOKIE}={forged}\r\n"), "v1"),
        (format!("{PIN_HEADER}: {pin}\r\n"), "v2"),
        (format!("{PIN_HEADER}: {forged}\r\ncookie: {PIN_COOKIE}={pin}\r\n"), "v1"),
    ] {
        assert_eq!(ask(&headers).await, served_by, "{headers}");
    }
    // Without trust nobody's word counts; and once it is taken back the candidate is for nobody.
    proxy.set(1, &ServiceTable { passing: Passing::default(), ..service.clone() }).await;
    assert_eq!(ask("x-forwarded-for: 10.1.2.3\r\n").await, "v1");
    proxy.set(2, &ServiceTable { preview: vec!["127.0.0.1/32".parse().unwrap()], ..service }).await;
    assert_eq!(ask("").await, "v2");
    proxy.client.back(SERVICE, "bad").await.unwrap();
    assert_eq!(ask("").await, "v1");
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    assert_eq!(counts(&seen, "v2", Arm::Candidate).claimed, 0, "nothing they do is judged");
}
