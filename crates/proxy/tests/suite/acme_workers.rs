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
    // The order is made, and its number never arrives.
    asking.authority.fault(Place::NewOrder, Fault::LostAnswer);
    asking.authority.fault(Place::NewOrder, Fault::Hang);
    asking.ask_for(&["a.test"]).await;
    asking.until_problem("a.test").await;
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
    assert_eq!(asking.authority.seen().orders, 1);
    assert_eq!(asking.authority.faults_left(), 1, "nothing was ordered since");
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
