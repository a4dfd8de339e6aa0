//! Edges that fail, lose answers, repeat and panic; a journal that cannot be written for a while.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover_ports::fake::{Call, Mishap};

use crate::harness::{House, at_step, decided, ended, request, started, story};

#[tokio::test(start_paused = true)]
async fn each_answer_may_be_lost_once() {
    let calls = [
        Call::Preflight,
        Call::Build,
        Call::Ensure,
        Call::ObserveInstances,
        Call::Vouch,
        Call::Check,
        Call::Set,
        Call::Renew,
        Call::Counts,
        Call::ObserveRouter,
        Call::Drain,
        Call::Retire,
        Call::Trips,
    ];
    let late = Duration::from_secs(3);
    let mishaps = [
        Mishap::LoseAnswer,
        Mishap::Unknown,
        Mishap::Late(late),
        Mishap::Duplicate(late),
        Mishap::FailRetry,
        Mishap::Delay(late),
        Mishap::Panic,
    ];
    for call in calls {
        for mishap in &mishaps {
            // Deploy itself looks once before it journals: that panic is its caller's.
            if call == Call::ObserveInstances && *mishap == Mishap::Panic {
                continue;
            }
            let house = House::new();
            let (engine, _) = house.with_stable().await;
            house.world.spoil(call, mishap.clone());
            let id = started(engine.deploy(request("r-2", "")).await);
            let machine = ended(&engine, &id).await;
            assert_eq!(machine.exit_code(), Some(0), "{call:?} {mishap:?}\n{}", story(&engine, &id).await);
            tokio::time::sleep(late * 2).await;
            house.settled(&["r-2"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_final_fault_goes_back() {
    for (call, code) in
        [(Call::Preflight, 3), (Call::Build, 3), (Call::Ensure, 3), (Call::Check, 3), (Call::Set, 4)]
    {
        let house = House::new();
        let (engine, _) = house.with_stable().await;
        house.world.spoil(call, Mishap::FailFinal);
        let id = started(engine.deploy(request("r-2", "")).await);
        assert_eq!(ended(&engine, &id).await.exit_code(), Some(code), "{call:?}");
        house.settled(&["r-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_the_release_and_nothing_else() {
    let house = House::new();
    let (engine, cut) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    at_step(&engine, &id, "bake").await;
    cut.full.store(30, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(engine.machine(&id).await.unwrap().holds_service(), "nothing happens that is not journaled");
    assert!(house.world.leased("shop"), "the lease is renewed meanwhile");
    let asked = engine.command(&crate::harness::shop(), cutover_core::Command::Advance, "ann").await;
    assert!(asked.unwrap_err().to_string().contains("full"), "who asks is told, and need not wait");
    assert_eq!(decided(&engine, &id).await.exit_code(), Some(0), "{}", story(&engine, &id).await);
    house.settled(&["r-2", "r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_platform_that_is_away_is_waited_for_going_back() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    at_step(&engine, &id, "bake").await;
    for _ in 0..9 {
        house.world.spoil(Call::Retire, Mishap::FailRetry);
    }
    house.world.trip("shop", "it broke");
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(4));
    assert!(story(&engine, &id).await.contains("needs a person"));
    house.settled(&["r-1"]);
}
