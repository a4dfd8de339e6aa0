//! Every moment of an upgrade, and whoever has part in it dies or hangs just then.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use rustix::process::Signal;

use super::harness::{LIMIT, Proxy, all_of, any, signal, spawn_holder, table, track, until};
use super::knocking::{Knocking, serving};
use super::upstream::Upstream;

/// Who has part in an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Holder,
    Old,
    Next,
}

/// The moments, and who is at each, in the order in which they come.
const MOMENTS: [(&str, Who); 17] = [
    ("holder-asks", Who::Holder),
    ("old-was-asked", Who::Old),
    ("old-gave-sockets", Who::Old),
    ("holder-has-sockets", Who::Holder),
    ("holder-began-next", Who::Holder),
    ("next-began", Who::Next),
    ("next-has-sockets", Who::Next),
    ("next-booted", Who::Next),
    ("next-listens", Who::Next),
    ("holder-hears-ready", Who::Holder),
    ("old-was-told", Who::Old),
    ("old-said-gone", Who::Old),
    ("old-leaves", Who::Old),
    ("holder-said-go", Who::Holder),
    ("next-may-serve", Who::Next),
    ("next-opened", Who::Next),
    ("next-serves", Who::Next),
];

/// What happens at a moment.
#[derive(Debug, Clone, Copy)]
enum What {
    /// Who is there dies.
    Death,
    /// Who is there stops, somebody else dies, and it goes on.
    DeathOf(Who),
    /// Who is there hangs, for good.
    Hang,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_or_hangs_at_any_moment_no_connection_is_refused_and_the_upgrade_can_be_had() {
    let mut cases = Vec::new();
    for (at, (moment, who)) in MOMENTS.into_iter().enumerate() {
        cases.push((moment, who, What::Death));
        // The next worker is there from the fifth moment on, the old one until it leaves.
        let there = |other: Who| match other {
            Who::Next => at > 5,
            Who::Old => at < 12,
            Who::Holder => true,
        };
        for other in [Who::Holder, Who::Old, Who::Next].into_iter().filter(|other| *other != who) {
            if there(other) {
                cases.push((moment, who, What::DeathOf(other)));
            }
        }
        if who == Who::Next && at < 9 {
            cases.push((moment, who, What::Hang));
        }
    }
    // All of them take half a minute: without CI every third.
    let step = if std::env::var_os("CI").is_some() { 1 } else { 3 };
    let cases = cases.into_iter().step_by(step).map(|(moment, who, what)| upgrade(moment, who, what));
    let mut under_way = stream::iter(cases).buffer_unordered(3);
    while under_way.next().await.is_some() {}
}

async fn upgrade(moment: &str, who: Who, what: What) {
    let case = format!("{moment} {what:?}");
    let (mut proxy, v1) = serving().await;
    let knocking = Knocking::start(proxy.addr);
    knocking.serve_more().await;
    let (holder, old) = (proxy.holder.id(), proxy.worker_pid().await);
    let dir = proxy.dir.path().to_owned();
    let pid = |who: Who| match who {
        Who::Holder => Some(holder),
        Who::Old => Some(old),
        Who::Next => all_of(&dir).into_iter().find(|pid| ![holder, old].contains(pid)),
    };
    let order = if matches!(what, What::Death) { "KILL" } else { "STOP" };
    std::fs::write(proxy.path("moment"), format!("{moment} {order}")).unwrap();
    signal(holder, Signal::HUP);
    until(&case, || (!proxy.path("moment").exists()).then_some(())).await;
    if let What::DeathOf(other) = what {
        let here = until(&case, || pid(who).filter(|pid| is_stopped(*pid))).await;
        signal(pid(other).unwrap_or_else(|| panic!("{case}: nobody is there")), Signal::KILL);
        signal(here, Signal::CONT);
    }
    let killed = match what {
        What::Death => who,
        What::DeathOf(other) => other,
        What::Hang => Who::Next,
    };
    if killed == Who::Holder {
        restart_holder(&mut proxy, &case).await;
    }
    let _v2 = settle(&mut proxy, &v1, &case).await;
    knocking.serve_more().await;
    let (refused, broken) = knocking.end().await;
    assert_eq!(refused, 0, "{case}");
    // Whoever accepts takes along what it has in its hands: one request of each client.
    let accepts = match killed {
        Who::Holder => false,
        Who::Old => true,
        Who::Next => ["next-opened", "next-serves", "old-said-gone", "old-leaves"].contains(&moment),
    };
    assert!(broken <= if accepts { 4 } else { 0 }, "{case}: {broken} requests broke");
}

/// What systemd does: starts a new holder until one stays.
async fn restart_holder(proxy: &mut Proxy, case: &str) {
    proxy.holder.wait().unwrap();
    let end = Instant::now() + LIMIT;
    loop {
        proxy.holder = spawn_holder(proxy.dir.path(), &[any()]);
        let id = proxy.holder.id();
        while proxy.holder.try_wait().unwrap().is_none() {
            if proxy.client.hello().await.is_ok_and(|hello| hello.holder_pid == Some(id)) {
                return;
            }
            assert!(Instant::now() < end, "{case}: the new holder gets no worker");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(Instant::now() < end, "{case}: no holder can be started");
    }
}

/// One worker serves in the end, does what it is told, and can be upgraded once more.
async fn settle(proxy: &mut Proxy, v1: &Upstream, case: &str) -> Upstream {
    let v2 = Upstream::start("v2").await;
    let moved = table(vec![track("v1", 0, &[v1.addr]), track("v2", 10_000, &[v2.addr])]);
    let end = Instant::now() + LIMIT;
    while let Err(error) = proxy.client.set("shop", 1, 1, &moved).await {
        // It was said once; a lost answer is told by the generation.
        if proxy.client.observe().await.is_ok_and(|seen| seen.services["shop"].table.generation == 2) {
            break;
        }
        assert!(Instant::now() < end, "{case}: {error}");
    }
    for _ in 0..20 {
        assert_eq!(proxy.get("/id").await.text(), "v2", "{case}: two workers serve");
    }
    one_worker(proxy.dir.path(), case).await;
    let before = proxy.worker_pid().await;
    signal(proxy.holder.id(), Signal::HUP);
    until(case, || (!all_of(proxy.dir.path()).contains(&before)).then_some(())).await;
    assert_eq!(proxy.get("/id").await.text(), "v2", "{case}");
    one_worker(proxy.dir.path(), case).await;
    v2
}

async fn one_worker(dir: &Path, case: &str) {
    until(&format!("{case}: one holder and one worker"), || (all_of(dir).len() == 2).then_some(())).await;
}

fn is_stopped(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
}
