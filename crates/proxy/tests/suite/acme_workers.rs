//! Certificates by ACME while workers die and are replaced: an order is taken up, never ordered again.

use std::time::Duration;

use cutover_acme_server::{Fault, Place};
use rustix::process::Signal;

use super::acme_harness::{Asking, LONG};
use super::harness::{signal, until, until_seen};

/// Long enough for all that happens meanwhile; it is cut short by the test.
const HELD: Duration = Duration::from_secs(600);

async fn next_worker(asking: &Asking, before: u32) -> u32 {
    until_seen(&asking.proxy, "the next worker", |seen| seen.worker_pid != before).await.worker_pid
}

#[tokio::test]
async fn an_order_that_a_crash_interrupted_is_taken_up() {
    let mut asking = Asking::start(LONG).await;
    asking.resolve("a.test");
    // While a challenge is looked at, and while it is signed.
    asking.authority.change(|behaviour| {
        (behaviour.validation_lag, behaviour.signing_lag) =
            (Duration::from_millis(700), Duration::from_millis(700));
    });
    asking.ask_for(&["a.test"]).await;
    let mut pid = asking.proxy.worker_pid().await;
    // From here on its number is known: one whose number is lost is another case.
    let is_known = || asking.files().iter().any(|path| path.ends_with("a.test.order.json"));
    until("an order", || is_known().then_some(())).await;
    for _ in 0..3 {
        signal(pid, Signal::KILL);
        pid = next_worker(&asking, pid).await;
        asking
            .until_seen("a.test", "it is taken up", |seen| {
                seen.acme.as_ref().is_some_and(|acme| acme.under_way || seen.not_after.is_some())
            })
            .await;
    }
    asking.until_served("a.test", &[]).await;
    let seen = asking.authority.seen();
    assert_eq!((seen.accounts, seen.orders, seen.signed), (1, 1, 1), "{seen:?}");
}

#[tokio::test]
async fn a_worker_that_dies_before_its_order_is_known_does_not_order_again_at_once() {
    let mut asking = Asking::start(LONG).await;
    asking.resolve("a.test");
    // It asks for an order, and dies before it knows whether there is one.
    (0..2).for_each(|_| asking.authority.fault(Place::NewOrder, Fault::Hang));
    asking.ask_for(&["a.test"]).await;
    until("it asks", || (asking.authority.faults_left() == 1).then_some(())).await;
    for _ in 0..3 {
        let pid = asking.proxy.worker_pid().await;
        signal(pid, Signal::KILL);
        next_worker(&asking, pid).await;
        let told = asking.until_seen("a.test", "it knows when", |seen| {
            seen.acme.as_ref().is_some_and(|acme| acme.next_ms.is_some())
        });
        let told = told.await.acme.unwrap();
        assert!(told.failures == 1 && !told.under_way, "{told:?}");
    }
    assert_eq!(asking.authority.faults_left(), 1, "nothing was ordered since");
}

#[tokio::test]
async fn an_order_that_failed_while_nobody_looked_is_not_followed_by_another_at_once() {
    let mut asking = Asking::start(LONG).await;
    asking.authority.change(|behaviour| behaviour.validation_lag = HELD);
    asking.ask_for(&["a.test"]).await;
    until("the authority is told to look", || (asking.authority.seen().told == 1).then_some(())).await;
    // The worker is dead, and its holder cannot start another one, while the authority looks in vain.
    let pid = asking.proxy.worker_pid().await;
    signal(asking.proxy.holder.id(), Signal::STOP);
    signal(pid, Signal::KILL);
    asking.authority.change(|behaviour| behaviour.validation_lag = Duration::ZERO);
    until("it looked", || (asking.authority.seen().looked == 1).then_some(())).await;
    signal(asking.proxy.holder.id(), Signal::CONT);
    next_worker(&asking, pid).await;
    asking.until_problem("a.test").await;
    let told = asking.certificate("a.test").await.acme.unwrap();
    assert!(told.failures == 1 && !told.under_way, "{told:?}");
    assert_eq!(asking.authority.seen().orders, 1);
}

#[tokio::test]
async fn nothing_is_ordered_while_another_worker_does() {
    let mut asking = Asking::start(LONG).await;
    ["a.test", "b.test", "c.test"].iter().for_each(|host| asking.resolve(host));
    asking.ask_for(&["a.test"]).await;
    asking.until_served("a.test", &[]).await;
    // What a worker has that did not notice its successor.
    let folder =
        std::path::PathBuf::from(asking.certificate("a.test").await.cert).parent().unwrap().to_owned();
    let lock = std::fs::File::open(folder.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    // Beside it another authority, whose certificate says that time has passed.
    let other = cutover_acme_server::AcmeServer::start();
    other.resolve("c.test", asking.proxy.addr);
    std::fs::write(asking.proxy.path("other.pem"), other.root_pem()).unwrap();
    let mut beside = asking.route("c.test");
    let issuer = beside.acme.as_mut().unwrap();
    issuer.directory = other.directory();
    issuer.root = asking.proxy.path("other.pem").to_str().map(str::to_owned);
    asking.service.tls.push(beside);
    asking.ask_for(&["b.test"]).await;
    asking.until_seen("c.test", "the other one's", |seen| seen.not_after.is_some()).await;
    assert_eq!(asking.authority.seen().orders, 1);
    drop(lock);
    asking.until_served("b.test", &[]).await;
    assert_eq!(asking.authority.seen().orders, 2);
}

#[tokio::test]
async fn an_upgrade_hands_the_order_over() {
    let mut asking = Asking::start(LONG).await;
    asking.resolve("a.test");
    asking.authority.change(|behaviour| behaviour.validation_lag = HELD);
    asking.ask_for(&["a.test"]).await;
    let challenges = asking.proxy.path("acme/challenges");
    let is_published = || std::fs::read_dir(&challenges).is_ok_and(|mut folder| folder.next().is_some());
    until("a challenge", || is_published().then_some(())).await;
    let before = asking.proxy.worker_pid().await;
    signal(asking.proxy.holder.id(), Signal::HUP);
    next_worker(&asking, before).await;
    asking
        .until_seen("a.test", "it is taken up", |seen| seen.acme.as_ref().is_some_and(|acme| acme.under_way))
        .await;
    assert!(is_published(), "whichever worker the authority reaches, it finds the answer");
    assert_eq!(asking.authority.seen().looked, 0);
    asking.authority.change(|behaviour| behaviour.validation_lag = Duration::ZERO);
    asking.until_served("a.test", &[]).await;
    let seen = asking.authority.seen();
    assert_eq!((seen.accounts, seen.orders, seen.signed), (1, 1, 1), "{seen:?}");
}

#[tokio::test]
async fn a_new_worker_serves_the_certificate_at_once() {
    let mut asking = Asking::start(LONG).await;
    asking.resolve("a.test");
    asking.ask_for(&["a.test"]).await;
    asking.until_served("a.test", &[]).await;
    for kind in [Signal::KILL, Signal::HUP] {
        let before = asking.proxy.worker_pid().await;
        signal(if kind == Signal::KILL { before } else { asking.proxy.holder.id() }, kind);
        next_worker(&asking, before).await;
        assert!(asking.connect("a.test").await.is_ok());
    }
    let seen = asking.authority.seen();
    assert_eq!((seen.accounts, seen.orders), (1, 1), "{seen:?}");
}
