//! Changing the table: compare-and-swap, fencing, leases, trips, events.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cutover_proxy::{Arm, ErrorKind, EventKind, Guard, ServiceTable};

use super::harness::{Proxy, SERVICE, Wire, candidate, table, track, until_seen};
use super::upstream::{Upstream, refusing};

async fn release(
    lease_ms: u64,
    share: u16,
    guard: Option<Guard>,
) -> (Proxy, Upstream, Upstream, ServiceTable) {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let mut service = table(vec![track("v1", 10_000 - share, &[v1.addr]), track("v2", share, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", lease_ms, guard);
    proxy.set(0, &service).await;
    (proxy, v1, v2, service)
}

#[tokio::test]
async fn a_set_is_compare_and_swap_and_repeating_it_changes_nothing() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let service = table(vec![track("v1", 10_000, &[v1.addr])]);
    let first = proxy.set(0, &service).await;
    assert_eq!((first.generation, first.changed), (1, true));
    let again = proxy.set(1, &service).await;
    assert_eq!((again.generation, again.changed), (1, false));
    let stale = proxy.client.set(SERVICE, 0, 1, &service).await.unwrap_err();
    assert_eq!(stale.kind(), &ErrorKind::Conflict { actual: 1 });
    let mut wrong = service.clone();
    wrong.tracks[0].weight_bp = 1;
    assert_eq!(proxy.client.set(SERVICE, 1, 1, &wrong).await.unwrap_err().kind(), &ErrorKind::Invalid);
    assert_eq!(proxy.client.observe_service("none").await.unwrap_err().kind(), &ErrorKind::UnknownService);
}

#[tokio::test]
async fn a_lower_epoch_changes_nothing_even_after_the_service_is_gone() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[v1.addr])]);
    proxy.client.set(SERVICE, 0, 7, &service).await.unwrap();
    service.hosts = vec!["shop.test".into()];
    let late = proxy.client.set(SERVICE, 1, 6, &service).await.unwrap_err();
    assert_eq!(late.kind(), &ErrorKind::Fenced { actual: 7 });
    // An equal table raises the epoch: the driver before is fenced from here on.
    proxy.client.set(SERVICE, 1, 8, &table(vec![track("v1", 10_000, &[v1.addr])])).await.unwrap();
    assert_eq!(
        proxy.client.set(SERVICE, 1, 7, &service).await.unwrap_err().kind(),
        &ErrorKind::Fenced { actual: 8 }
    );
    assert!(proxy.client.remove_service(SERVICE, 1, 8).await.unwrap().changed);
    assert_eq!(proxy.get("/id").await.status, 404);
    assert_eq!(
        proxy.client.set(SERVICE, 0, 7, &service).await.unwrap_err().kind(),
        &ErrorKind::Fenced { actual: 8 }
    );
    assert_eq!(proxy.client.set(SERVICE, 2, 8, &service).await.unwrap().generation, 3);
}

#[tokio::test]
async fn a_lease_that_lapses_takes_the_candidate_out_for_good() {
    let (proxy, _v1, _v2, service) = release(300, 5_000, None).await;
    let end = Instant::now() + Duration::from_millis(700);
    while Instant::now() < end {
        assert_eq!(proxy.client.renew(SERVICE, "r1", 1).await.unwrap().generation, 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let last = Instant::now();
    let events = proxy.client.watch(0, Duration::from_secs(10)).await.unwrap();
    let waited = last.elapsed();
    assert!(waited > Duration::from_millis(200) && waited < Duration::from_millis(1_500), "{waited:?}");
    assert_eq!((events[0].kind, events[0].number, events[0].generation), (EventKind::Lapse, 1, Some(2)));
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    let shop = &seen.services[SERVICE];
    assert_eq!((shop.effective["v1"], shop.effective["v2"], shop.table.generation), (10_000, 0, 2));
    assert_eq!(shop.tripped, ["r1"]);
    let tripped = ErrorKind::Tripped { release: "r1".into() };
    assert_eq!(proxy.client.renew(SERVICE, "r1", 1).await.unwrap_err().kind(), &tripped);
    assert_eq!(proxy.client.set(SERVICE, 2, 1, &service).await.unwrap_err().kind(), &tripped);
    // Promoting it by leaving the lease away is refused too; a new release begins anew.
    let mut promoted = table(vec![track("v2", 10_000, &[service.tracks[1].targets[0].address])]);
    assert_eq!(proxy.client.set(SERVICE, 2, 1, &promoted).await.unwrap_err().kind(), &tripped);
    promoted.candidate = candidate("r2", "v2", 60_000, None).map(|mut lease| {
        lease.fallback.clear();
        lease
    });
    assert_eq!(proxy.set(2, &promoted).await.generation, 3);
    proxy.client.ack(events[0].number).await.unwrap();
    assert!(proxy.client.events(0).await.unwrap().is_empty());
}

#[tokio::test]
async fn without_anybody_to_take_over_a_lapse_only_alerts() {
    let (proxy, v2) = (Proxy::start().await, Upstream::start("v2").await);
    let mut service = table(vec![track("v1", 0, &[refusing().await]), track("v2", 10_000, &[v2.addr])]);
    service.candidate = candidate("r1", "v2", 100, None);
    proxy.set(0, &service).await;
    let events = proxy.client.watch(0, Duration::from_secs(10)).await.unwrap();
    assert_eq!((events.len(), events[0].kind), (1, EventKind::Alert));
    assert_eq!(proxy.get("/id").await.text(), "v2");
    assert_eq!(proxy.client.observe().await.unwrap().services[SERVICE].effective["v2"], 10_000);
    // Told once, not every moment.
    assert!(proxy.client.watch(1, Duration::from_millis(1_300)).await.unwrap().is_empty());
    assert!(proxy.client.renew(SERVICE, "r1", 1).await.is_ok());
}

#[tokio::test]
async fn a_guard_trips_by_itself_and_nothing_is_claimed_after_it() {
    let guard = Guard { min_requests: 3, max_error_bp: Some(1_000), max_mean_ms: None, max_p95_ms: None };
    let (proxy, _v1, v2, service) = release(60_000, 5_000, Some(guard)).await;
    v2.shared.status.store(500, Ordering::SeqCst);
    let mut wire = Wire::connect(proxy.addr).await;
    let mut failed = 0;
    for _ in 0..200 {
        failed += u64::from(wire.get("/id").await.status == 500);
    }
    assert_eq!(failed, 3, "the third failure decides, and the very next request goes to stable");
    let events = proxy.client.watch(0, Duration::from_secs(10)).await.unwrap();
    let numbers = events[0].guard.clone().unwrap();
    assert_eq!((events[0].kind, numbers.requests, numbers.errors), (EventKind::Trip, 3, 3));
    assert!(events[0].why.contains("3 of 3 requests failed"), "{}", events[0].why);
    assert_eq!(proxy.counts("v2", Arm::Candidate).await.claimed, 3);
    let seen = proxy.client.observe().await.unwrap();
    assert_eq!(
        (seen.services[SERVICE].table.generation, seen.services[SERVICE].effective["v1"]),
        (2, 10_000)
    );
    // The driver that believes in generation 1 is told to look again.
    let stale = proxy.client.set(SERVICE, 1, 1, &service).await.unwrap_err();
    assert_eq!(stale.kind(), &ErrorKind::Conflict { actual: 2 });
}

#[tokio::test]
async fn a_slow_or_dead_candidate_trips_too() {
    let slow = Guard { min_requests: 5, max_error_bp: None, max_mean_ms: Some(20), max_p95_ms: None };
    let (proxy, _v1, v2, _) = release(60_000, 9_000, Some(slow)).await;
    v2.shared.delay_ms.store(30, Ordering::SeqCst);
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..20 {
        wire.get("/id").await;
    }
    let event = proxy.client.watch(0, Duration::from_secs(10)).await.unwrap().remove(0);
    assert!(event.why.contains("mean"), "{}", event.why);
    // Refuses connections: every request is saved by stable, and still the candidate is judged by first attempts.
    let proxy = Proxy::start().await;
    let v1 = Upstream::start("v1").await;
    let dead = Guard { min_requests: 5, max_error_bp: Some(100), max_mean_ms: None, max_p95_ms: None };
    let mut service = table(vec![track("v1", 5_000, &[v1.addr]), track("v2", 5_000, &[refusing().await])]);
    service.candidate = candidate("r1", "v2", 60_000, Some(dead));
    proxy.set(0, &service).await;
    let mut wire = Wire::connect(proxy.addr).await;
    for _ in 0..40 {
        assert_eq!(wire.get("/id").await.status, 200);
    }
    assert_eq!(proxy.counts("v2", Arm::Candidate).await.claimed, 5);
    until_seen(&proxy, "trip", |seen| !seen.services[SERVICE].tripped.is_empty()).await;
}

#[tokio::test]
async fn back_by_hand_needs_only_the_proxy() {
    let (proxy, _v1, _v2, _) = release(60_000, 10_000, None).await;
    assert_eq!(proxy.get("/id").await.text(), "v2");
    assert_eq!(proxy.client.back(SERVICE, "looks bad").await.unwrap(), 2);
    assert_eq!(proxy.get("/id").await.text(), "v1");
    assert_eq!(proxy.client.back(SERVICE, "twice").await.unwrap(), 2, "repeating it is harmless");
    let events = proxy.client.events(0).await.unwrap();
    assert_eq!((events.len(), events[0].kind, events[0].why.as_str()), (1, EventKind::Back, "looks bad"));
    assert_eq!(proxy.client.back("none", "x").await.unwrap_err().kind(), &ErrorKind::UnknownService);
}

#[tokio::test]
async fn a_listener_can_be_added_and_serves_its_own_service() {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let second = proxy.client.listen(super::harness::any()).await.unwrap();
    assert_eq!(proxy.client.listen(second).await.unwrap(), second, "asking again is harmless");
    let mut first = table(vec![track("v1", 10_000, &[v1.addr])]);
    first.listen = vec![proxy.addr];
    let mut other = table(vec![track("v2", 10_000, &[v2.addr])]);
    other.listen = vec![second];
    proxy.set(0, &first).await;
    proxy.client.set("other", 0, 1, &other).await.unwrap();
    assert_eq!(proxy.get("/id").await.text(), "v1");
    assert_eq!(Wire::connect(second).await.get("/id").await.text(), "v2");
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = proxy.client.listen(taken.local_addr().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Address);
    assert!(error.to_string().contains("another program listens there"), "{error}");
    other.listen = vec![taken.local_addr().unwrap()];
    assert_eq!(proxy.client.set("other", 1, 1, &other).await.unwrap_err().kind(), &ErrorKind::Invalid);
}

/// Whoever could talk to the proxy could move its traffic.
#[tokio::test]
async fn only_its_own_user_reaches_the_admin_socket() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let proxy = Proxy::start().await;
    let folder = std::fs::metadata(proxy.dir.path()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    assert_eq!(folder.uid(), rustix::process::geteuid().as_raw());
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can try it as another user");
        return;
    }
    // Even where the folder lets them in.
    std::fs::set_permissions(proxy.dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let socket = proxy.path("proxy.sock");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    let asked = |user: &str| {
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(10)\ns.connect(sys.argv[1])\n\
            s.sendall(b'{\"verb\":\"hello\",\"version\":1}\\n')\nprint(s.recv(4096))";
        let output = std::process::Command::new("setpriv")
            .args(["--reuid", user, "--clear-groups", "python3", "-c", script])
            .arg(&socket)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert!(asked("0").contains("worker_pid"), "{}", asked("0"));
    let refused = asked("65534");
    assert!(!refused.contains("worker_pid"), "{refused}");
    assert!(
        refused.contains("b''") || refused.contains("ConnectionResetError") || refused.contains("denied"),
        "{refused}"
    );
}
