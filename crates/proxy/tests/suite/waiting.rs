//! Requests that wait: for room at a target, for an operator. Nothing that nobody has seen is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cutover_proxy::{
    ErrorKind, Limits, PIN_HEADER, PinKey, REASON_HEADER, ServiceTable, Traffic, Waiting, sign_pin,
};
use rustix::process::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::harness::{Proxy, Response, SERVICE, Wire, signal, table, track, until, until_seen};
use super::upstream::{Upstream, read_request, scripted, write};

const LONG: Waiting = Waiting { limit: 100, wait_ms: 60_000 };

fn limited(addresses: &[SocketAddr], per_target: u32, queue: Option<Waiting>) -> ServiceTable {
    let mut service = table(vec![track("v1", 10_000, addresses)]);
    service.limits = Limits { per_target: Some(per_target), queue, ..Limits::default() };
    service
}

/// A request on a connection of its own.
fn ask(proxy: &Proxy) -> JoinHandle<std::io::Result<Response>> {
    post(proxy, "")
}

fn post(proxy: &Proxy, body: &str) -> JoinHandle<std::io::Result<Response>> {
    let (addr, body) = (proxy.addr, body.to_owned());
    tokio::spawn(async move { Wire::connect(addr).await.post("/post", &body).await })
}

async fn until_waiting(proxy: &Proxy, count: u32) {
    let waiting = |seen: &cutover_proxy::Observation| seen.services[SERVICE].waiting == count;
    until_seen(proxy, &format!("{count} wait"), waiting).await;
}

/// A target that answers when it is let, and knows how many requests it had at once.
struct Held {
    addr: SocketAddr,
    answers: Arc<Semaphore>,
    most: Arc<AtomicUsize>,
    now: Arc<AtomicUsize>,
}

async fn held() -> Held {
    let (answers, most, now) =
        (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let own = (answers.clone(), most.clone(), now.clone());
    let addr = scripted(move |mut stream, _| {
        let (answers, most, now) = own.clone();
        async move {
            while read_request(&mut stream).await.is_some() {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                answers.acquire().await.unwrap().forget();
                now.fetch_sub(1, Ordering::SeqCst);
                write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nheld").await;
            }
        }
    })
    .await;
    Held { addr, answers, most, now }
}

impl Held {
    async fn until_busy(&self) {
        self.until_has(1).await;
    }

    async fn until_has(&self, count: usize) {
        let has = || (self.now.load(Ordering::SeqCst) >= count).then_some(());
        until("the target has its requests", has).await;
    }
}

#[tokio::test]
async fn a_target_has_no_more_requests_than_it_may_over_all_threads() {
    let (proxy, target) = (Proxy::start().await, held().await);
    assert_eq!(proxy.client.hello().await.unwrap().threads, 2);
    proxy.set(0, &limited(&[target.addr], 3, Some(LONG))).await;
    let asked: Vec<_> = (0..20).map(|_| ask(&proxy)).collect();
    until_waiting(&proxy, 17).await;
    target.until_has(3).await;
    target.answers.add_permits(20);
    for answer in asked {
        assert_eq!(answer.await.unwrap().unwrap().text(), "held");
    }
    assert_eq!(target.most.load(Ordering::SeqCst), 3);
    until_waiting(&proxy, 0).await;
}

#[tokio::test]
async fn one_more_than_may_wait_is_told_so_at_once() {
    let (proxy, target) = (Proxy::start().await, held().await);
    proxy.set(0, &limited(&[target.addr], 1, Some(Waiting { limit: 1, ..LONG }))).await;
    let first = ask(&proxy);
    target.until_busy().await;
    let second = ask(&proxy);
    until_waiting(&proxy, 1).await;
    let third = proxy.get("/").await;
    assert_eq!((third.status, third.header(REASON_HEADER)), (503, Some("targets-full")));
    assert_eq!(third.header("retry-after"), Some("1"));
    target.answers.add_permits(2);
    for served in [first, second] {
        assert_eq!(served.await.unwrap().unwrap().status, 200);
    }
    assert_eq!(proxy.client.observe().await.unwrap().unrouted["targets-full"], 1);
}

#[tokio::test]
async fn without_a_queue_nobody_waits() {
    let (proxy, target) = (Proxy::start().await, held().await);
    proxy.set(0, &limited(&[target.addr], 1, None)).await;
    let first = ask(&proxy);
    target.until_busy().await;
    let second = proxy.get("/").await;
    assert_eq!((second.status, second.header(REASON_HEADER)), (503, Some("targets-full")));
    target.answers.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status, 200);
}

#[tokio::test]
async fn who_waits_too_long_is_told_so() {
    let (proxy, target) = (Proxy::start().await, held().await);
    proxy.set(0, &limited(&[target.addr], 1, Some(Waiting { wait_ms: 50, ..LONG }))).await;
    let first = ask(&proxy);
    target.until_busy().await;
    let second = proxy.get("/").await;
    assert_eq!((second.status, second.header(REASON_HEADER)), (503, Some("targets-busy")));
    target.answers.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status, 200);
    until_waiting(&proxy, 0).await;
}

#[tokio::test]
async fn a_client_that_goes_leaves_the_line() {
    let (proxy, target) = (Proxy::start().await, held().await);
    proxy.set(0, &limited(&[target.addr], 1, Some(LONG))).await;
    let first = ask(&proxy);
    target.until_busy().await;
    let mut goes = Wire::connect(proxy.addr).await;
    goes.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until_waiting(&proxy, 1).await;
    drop(goes);
    until_waiting(&proxy, 0).await;
    target.answers.add_permits(2);
    assert_eq!(first.await.unwrap().unwrap().status, 200);
    assert_eq!(proxy.get("/").await.status, 200, "its place is nobody's");
}

#[tokio::test]
async fn what_waits_when_its_track_is_drained_goes_to_the_other_one() {
    let (proxy, old, new) = (Proxy::start().await, held().await, Upstream::start("v2").await);
    let mut service = limited(&[old.addr], 1, Some(LONG));
    service.tracks.push(track("v2", 0, &[new.addr]));
    proxy.set(0, &service).await;
    let stuck = ask(&proxy);
    old.until_busy().await;
    let waits: Vec<_> = (0..5).map(|at| post(&proxy, &at.to_string())).collect();
    until_waiting(&proxy, 5).await;
    (service.tracks[0].weight_bp, service.tracks[1].weight_bp) = (0, 10_000);
    proxy.set(1, &service).await;
    for answer in waits {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "v2"));
    }
    assert_eq!(new.shared.posted.lock().unwrap().len(), 5);
    let drained = proxy.client.drain(SERVICE, "v1", Duration::from_millis(100)).await.unwrap();
    assert_eq!((drained.cut, drained.left), (1, 0), "only what the target had");
    assert_eq!(stuck.await.unwrap().unwrap().header(REASON_HEADER), Some("drain-deadline"));
}

#[tokio::test]
async fn room_elsewhere_is_found_at_once() {
    let (proxy, full, free) = (Proxy::start().await, held().await, Upstream::start("free").await);
    proxy.set(0, &limited(&[full.addr], 1, Some(LONG))).await;
    let first = ask(&proxy);
    full.until_busy().await;
    let second = ask(&proxy);
    until_waiting(&proxy, 1).await;
    proxy.set(1, &limited(&[full.addr, free.addr], 1, Some(LONG))).await;
    assert_eq!(second.await.unwrap().unwrap().text(), "free");
    full.answers.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status, 200);
}

async fn shop() -> (Proxy, Upstream) {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    (proxy, v1)
}

async fn say(proxy: &Proxy, traffic: Traffic) {
    proxy.client.traffic(SERVICE, &traffic).await.unwrap();
}

#[tokio::test]
async fn a_queue_holds_requests_over_a_release_and_loses_none() {
    let (proxy, v1) = shop().await;
    let v2 = Upstream::start("v2").await;
    say(&proxy, Traffic::Queue(LONG)).await;
    let waits: Vec<_> = (0..20).map(|at| post(&proxy, &at.to_string())).collect();
    until_waiting(&proxy, 20).await;
    proxy.set(1, &table(vec![track("v1", 0, &[v1.addr]), track("v2", 10_000, &[v2.addr])])).await;
    let drained = proxy.client.drain(SERVICE, "v1", Duration::from_secs(10)).await.unwrap();
    assert!(drained.clean && drained.cut == 0, "held requests are nobody's yet: {drained:?}");
    assert_eq!((v1.requests(), v2.requests()), (0, 0));
    say(&proxy, Traffic::Open).await;
    for answer in waits {
        assert_eq!(answer.await.unwrap().unwrap().text(), "v2");
    }
    assert_eq!(v2.shared.posted.lock().unwrap().len(), 20);
    assert_eq!(proxy.get("/id").await.text(), "v2");
}

#[tokio::test]
async fn a_queue_is_bounded_and_has_a_deadline() {
    let (proxy, _v1) = shop().await;
    say(&proxy, Traffic::Queue(Waiting { limit: 1, wait_ms: 60_000 })).await;
    let waits = ask(&proxy);
    until_waiting(&proxy, 1).await;
    let refused = proxy.get("/").await;
    assert_eq!((refused.status, refused.header(REASON_HEADER)), (503, Some("queue-full")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    say(&proxy, Traffic::Open).await;
    assert_eq!(waits.await.unwrap().unwrap().status, 200);
    say(&proxy, Traffic::Queue(Waiting { limit: 1, wait_ms: 50 })).await;
    let late = proxy.get("/").await;
    assert_eq!((late.status, late.header(REASON_HEADER)), (503, Some("queue-timeout")));
}

/// Length of the longest part of a sequence that is in order.
fn in_order(numbers: &[usize]) -> usize {
    let mut longest: Vec<usize> = Vec::new();
    for (at, number) in numbers.iter().enumerate() {
        let before = (0..at).filter(|other| numbers[*other] < *number).map(|other| longest[other]).max();
        longest.push(before.unwrap_or(0) + 1);
    }
    longest.into_iter().max().unwrap_or(0)
}

#[tokio::test]
async fn a_flow_lets_requests_through_in_order_and_no_faster_than_said() {
    let (proxy, v1) = shop().await;
    say(&proxy, Traffic::Queue(LONG)).await;
    let mut waits = Vec::new();
    for at in 0..20 {
        waits.push(post(&proxy, &at.to_string()));
        until_waiting(&proxy, at + 1).await;
    }
    let begun = Instant::now();
    say(&proxy, Traffic::Flow { per_second: 25, waiting: LONG }).await;
    for answer in waits {
        assert_eq!(answer.await.unwrap().unwrap().status, 200);
    }
    // 25 per second: the twentieth comes 19 intervals after the first.
    assert!(begun.elapsed() >= Duration::from_millis(19 * 40 - 50), "{:?}", begun.elapsed());
    let came: Vec<usize> =
        v1.shared.posted.lock().unwrap().iter().map(|body| body.parse().unwrap()).collect();
    // Two threads send them: one that the machine keeps waiting may be overtaken. By chance it would be about 8.
    assert!(in_order(&came) >= 16, "{came:?}");
    assert_eq!(proxy.get("/id").await.status, 200, "who comes later flows too");
    assert!(matches!(
        proxy.client.observe().await.unwrap().services[SERVICE].traffic,
        Traffic::Flow { per_second: 25, .. }
    ));
}

fn page() -> Traffic {
    Traffic::Maintenance {
        page: "<h1>back at noon</h1>".into(),
        content_type: "text/html; charset=utf-8".into(),
        retry_after_s: 120,
    }
}

#[tokio::test]
async fn maintenance_shows_the_operators_page_and_a_pin_passes() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[v1.addr])]);
    service.pin_key = Some(PinKey("00112233445566778899aabbccddeeff".into()));
    proxy.set(0, &service).await;
    say(&proxy, page()).await;
    let closed = proxy.get("/id").await;
    assert_eq!((closed.status, closed.text().as_str()), (503, "<h1>back at noon</h1>"));
    assert_eq!(closed.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(
        (closed.header("retry-after"), closed.header(REASON_HEADER)),
        (Some("120"), Some("maintenance"))
    );
    let pin = sign_pin("00112233445566778899aabbccddeeff", SERVICE, "v1");
    let mut wire = Wire::connect(proxy.addr).await;
    wire.send(format!("GET /id HTTP/1.1\r\nhost: a\r\n{PIN_HEADER}: {pin}\r\n\r\n")).await;
    assert_eq!(wire.response(false).await.unwrap().text(), "v1");
    say(&proxy, Traffic::Open).await;
    assert_eq!(proxy.get("/id").await.text(), "v1");
}

#[tokio::test]
async fn what_was_said_survives_a_crash_of_the_worker_and_a_set() {
    let (proxy, v1) = shop().await;
    say(&proxy, page()).await;
    let before = proxy.worker_pid().await;
    signal(before, Signal::KILL);
    until_seen(&proxy, "the next worker", |seen| seen.worker_pid != before).await;
    assert_eq!(proxy.get("/id").await.status, 503);
    // A driver that has seen nothing of it is not disturbed by it, and does not end it.
    proxy.set(1, &table(vec![track("v2", 10_000, &[v1.addr])])).await;
    assert_eq!(proxy.get("/id").await.status, 503);
    proxy.client.remove_service(SERVICE, 2, 1).await.unwrap();
    proxy.set(3, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    assert_eq!(proxy.get("/id").await.status, 200, "a service of the same name begins anew");
}

#[tokio::test]
async fn an_upgrade_loses_no_request_that_is_held() {
    let (proxy, v1) = shop().await;
    say(&proxy, Traffic::Queue(LONG)).await;
    let waits: Vec<_> = (0..10).map(|at| post(&proxy, &at.to_string())).collect();
    until_waiting(&proxy, 10).await;
    let before = proxy.worker_pid().await;
    signal(proxy.holder.id(), Signal::HUP);
    until_seen(&proxy, "the next worker", |seen| seen.worker_pid != before).await;
    let new = ask(&proxy);
    until_waiting(&proxy, 1).await;
    assert_eq!(v1.requests(), 0, "the new worker holds requests too, and the old one lets none go");
    say(&proxy, Traffic::Open).await;
    for answer in waits {
        assert_eq!(answer.await.unwrap().unwrap().status, 200, "the old worker hears of it");
    }
    assert_eq!(new.await.unwrap().unwrap().status, 200);
    assert_eq!(v1.shared.posted.lock().unwrap().len(), 11);
}

#[tokio::test]
async fn what_an_upgrade_holds_goes_by_the_table_that_its_successor_has() {
    let (proxy, v1) = shop().await;
    say(&proxy, Traffic::Queue(LONG)).await;
    let waits: Vec<_> = (0..10).map(|at| post(&proxy, &at.to_string())).collect();
    until_waiting(&proxy, 10).await;
    let before = proxy.worker_pid().await;
    signal(proxy.holder.id(), Signal::HUP);
    until_seen(&proxy, "the next worker", |seen| seen.worker_pid != before).await;
    let v2 = Upstream::start("v2").await;
    proxy.set(1, &table(vec![track("v1", 0, &[v1.addr]), track("v2", 10_000, &[v2.addr])])).await;
    say(&proxy, Traffic::Open).await;
    for answer in waits {
        assert_eq!(answer.await.unwrap().unwrap().text(), "v2");
    }
    assert_eq!(v1.requests(), 0, "acknowledged is acknowledged, whoever holds the request");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (proxy, _v1) = shop().await;
    for wrong in [
        Traffic::Flow { per_second: 0, waiting: LONG },
        Traffic::Queue(Waiting { limit: 1, wait_ms: 0 }),
        Traffic::Maintenance {
            page: "x".repeat(2 << 20),
            content_type: "text/plain".into(),
            retry_after_s: 1,
        },
    ] {
        let refused = proxy.client.traffic(SERVICE, &wrong).await.unwrap_err();
        assert_eq!(refused.kind(), &ErrorKind::Invalid);
    }
    let unknown = proxy.client.traffic("none", &Traffic::Open).await.unwrap_err();
    assert_eq!(unknown.kind(), &ErrorKind::UnknownService);
}
