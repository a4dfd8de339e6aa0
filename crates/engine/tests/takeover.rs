//! Two engines on one journal, and time that does what it wants.

use std::time::Duration;

use cutover_core::{Command, Event};
use cutover_engine::EngineErrorKind;
use cutover_ports::fake::{Call, Mishap};

use crate::harness::{House, at_step, decided, ended, replayed, request, shop, started, story};

#[tokio::test(start_paused = true)]
async fn of_two_deploys_one_wins() {
    let house = House::new();
    house.with_stable().await.0.shutdown().await;
    let (engine, _) = house.engine("host:1", false).await;
    let (other, _) = house.engine("host:2", false).await;
    let (here, there) = tokio::join!(engine.deploy(request("r-2", "")), other.deploy(request("r-3", "")));
    let (won, lost, owner) = match (here, there) {
        (Ok(won), Err(lost)) => (won, lost, "host:1"),
        (Err(lost), Ok(won)) => (won, lost, "host:2"),
        both => panic!("{both:?}"),
    };
    assert_eq!((lost.kind(), lost.exit_code()), (EngineErrorKind::Busy, 6), "{lost}");
    assert_eq!(lost.holder().map(|(release, owner)| (release.as_str(), owner)), Some(("shop-2", owner)));
    assert!(lost.to_string().contains("shop-2 holds shop, begun by ann, driven by host"), "{lost}");
    let engine = if owner == "host:1" { engine } else { other };
    assert_eq!(decided(&engine, &started(Ok(won))).await.exit_code(), Some(0));
    house.unhurt();
}

#[tokio::test(start_paused = true)]
async fn of_two_deploys_in_one_engine_one_wins() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let (here, there) = tokio::join!(engine.deploy(request("r-2", "")), engine.deploy(request("r-3", "")));
    let lost = here.err().or(there.err()).unwrap();
    assert_eq!(lost.kind(), EngineErrorKind::Busy);
    assert_eq!(lost.holder().map(|(_, owner)| owner), Some("host:1"));
}

#[tokio::test(start_paused = true)]
async fn a_living_driver_is_not_disturbed() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "bake: 2m\n")).await);
    at_step(&engine, &id, "bake").await;
    let (other, _) = house.engine("host:2", false).await;
    assert_eq!(other.recover().await.unwrap(), vec![]);
    let busy = other.command(&shop(), Command::Abort, "bob").await.unwrap_err();
    assert_eq!(busy.holder().map(|(_, owner)| owner), Some("host:1"));
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(0), "{}", story(&engine, &id).await);
    let taken = |record: &cutover_core::Record| matches!(record.event, Event::TakenOver { .. });
    assert!(!engine.records(&id, 0).await.unwrap().iter().any(taken));
    house.settled(&["r-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_driver_is_replaced_when_its_lease_is_over() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "bake: 2m\n")).await);
    at_step(&engine, &id, "bake").await;
    engine.crash().await;
    let (other, _) = house.engine("host:2", false).await;
    assert_eq!(other.recover().await.unwrap(), vec![], "its lease still holds");
    // Nobody renews the candidate's lease in the meantime: the router takes its traffic away by itself.
    let machine = ended(&other, &id).await;
    assert_eq!(machine.exit_code(), Some(4), "{}", story(&other, &id).await);
    let told = story(&other, &id).await;
    assert!(told.contains("taken over by host:2") && told.contains("the lease lapsed"), "{told}");
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_sole_engine_takes_over_at_once_and_the_old_one_is_fenced() {
    let house = House::new();
    let (old, _) = house.with_stable().await;
    let id = started(old.deploy(request("r-2", "bake: 10s\n")).await);
    at_step(&old, &id, "bake").await;
    let (new, _) = house.engine("host:2", true).await;
    assert_eq!(new.recover().await.unwrap(), vec![id.clone()]);
    // The old engine believes that it still drives; neither journal nor edges take its word.
    let machine = decided(&new, &id).await;
    assert_eq!(machine.exit_code(), Some(0), "{}", story(&new, &id).await);
    let error = old.command(&shop(), Command::Abort, "ann").await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::NothingUnderWay, "{error}");
    ended(&new, &id).await;
    let records = new.records(&id, 0).await.unwrap();
    assert_eq!(replayed(&records), new.machine(&id).await.unwrap());
    let epochs: Vec<u64> = records.iter().map(|record| record.epoch).collect();
    assert!(epochs.is_sorted() && epochs.first() < epochs.last(), "{epochs:?}");
    house.settled(&["r-2"]);
    // Every effect that came through after the takeover carried the new epoch.
    let calls = house.world.calls();
    let fences = calls.iter().filter(|call| call.refused.is_none()).filter_map(|call| call.fence);
    for edge in [true, false] {
        let router = |call: Call| matches!(call, Call::Set | Call::SetTargets | Call::Renew | Call::Drain);
        let of_edge = calls.iter().filter(|call| call.refused.is_none() && router(call.call) == edge);
        let fences: Vec<_> = of_edge.filter_map(|call| call.fence).collect();
        assert!(fences.is_sorted(), "{fences:?}");
    }
    drop(fences);
}

#[tokio::test(start_paused = true)]
async fn a_late_effect_of_the_old_driver_changes_nothing() {
    let house = House::new();
    let (old, _) = house.with_stable().await;
    // The old driver's shift takes hold 5 s after it is gone; by then the release was taken back.
    house.world.spoil(Call::Set, Mishap::Late(Duration::from_secs(5)));
    let id = started(old.deploy(request("r-2", "")).await);
    at_step(&old, &id, "shift 100%").await;
    old.crash().await;
    let (new, _) = house.engine("host:2", true).await;
    new.recover().await.unwrap();
    new.command(&shop(), Command::Abort, "ann").await.unwrap();
    assert_eq!(ended(&new, &id).await.exit_code(), Some(7));
    tokio::time::sleep(Duration::from_secs(10)).await;
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_deploy_elsewhere_takes_the_tail_along() {
    let house = House::new();
    let (old, _) = house.with_stable().await;
    let second = started(old.deploy(request("r-2", "keep_warm: 10m\n")).await);
    decided(&old, &second).await;
    let (new, _) = house.engine("host:2", false).await;
    let third = started(new.deploy(request("r-3", "")).await);
    assert_eq!(decided(&new, &third).await.exit_code(), Some(0), "{}", story(&new, &third).await);
    ended(&new, &second).await;
    house.settled(&["r-3", "r-2"]);
    assert!(story(&new, &second).await.contains("taken over by host:2"));
}

#[tokio::test(start_paused = true)]
async fn shutdown_undoes_nothing_and_the_next_engine_goes_on() {
    let house = House::new();
    let (old, _) = house.with_stable().await;
    let id = started(old.deploy(request("r-2", "")).await);
    at_step(&old, &id, "bake").await;
    let weights = house.world.weights("shop");
    old.shutdown().await;
    assert_eq!(house.world.weights("shop"), weights);
    let (new, _) = house.engine("host:2", false).await;
    assert_eq!(new.recover().await.unwrap(), vec![id.clone()], "the lease was given back");
    assert_eq!(ended(&new, &id).await.exit_code(), Some(0), "{}", story(&new, &id).await);
    house.settled(&["r-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_wall_clock_does_not_matter() {
    for step in [3_600_000, -3_600_000] {
        let house = House::new();
        let (engine, _) = house.with_stable().await;
        let begun = tokio::time::Instant::now();
        let id = started(engine.deploy(request("r-2", "bake: 20s\n")).await);
        at_step(&engine, &id, "bake").await;
        house.clock.step_wall(step);
        assert_eq!(decided(&engine, &id).await.exit_code(), Some(0), "{}", story(&engine, &id).await);
        let took = begun.elapsed().as_secs();
        assert!((20..25).contains(&took), "{took} s");
        let records = engine.records(&id, 0).await.unwrap();
        assert!(records.iter().map(|record| record.at).is_sorted());
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_stable_runs_again() {
    let house = House::new();
    let (old, _) = house.with_stable().await;
    old.crash().await;
    house.world.reboot();
    house.clock.reboot("boot-2");
    let (new, _) = house.engine("host:2", true).await;
    new.recover().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(house.world.running("shop").values().sum::<usize>(), 2);
    let targets = house.world.view("shop").tracks.remove(0).targets;
    let running = house.world.edges().platform.observe(&shop()).await.unwrap();
    assert!(targets.iter().all(|target| running[0].instances.iter().any(|i| i.address == target.address)));
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_had_traffic_before_a_reboot_has_none_after() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    at_step(&engine, &id, "bake").await;
    engine.crash().await;
    house.world.reboot();
    house.clock.reboot("boot-2");
    let (engine, _) = house.engine("host:2", true).await;
    engine.recover().await.unwrap();
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(4));
    let told = story(&engine, &id).await;
    assert!(told.contains("the machine was started again while the candidate had traffic"), "{told}");
    let weights = vec![(cutover_core::RevisionId::new("r-1"), cutover_core::Weight::FULL)];
    assert_eq!(house.world.weights("shop"), weights);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_in_the_middle_ends_one_way_or_the_other() {
    for step in ["check", "bake", "warm"] {
        let house = House::new();
        let (old, _) = house.with_stable().await;
        house.world.spoil(Call::Check, Mishap::Delay(Duration::from_secs(2)));
        let id = started(old.deploy(request("r-2", "")).await);
        at_step(&old, &id, step).await;
        old.crash().await;
        house.world.reboot();
        house.clock.reboot("boot-2");
        let (new, _) = house.engine("host:2", true).await;
        new.recover().await.unwrap();
        let machine = ended(&new, &id).await;
        let stable = if machine.decided().is_some() { "r-2" } else { "r-1" };
        tokio::time::sleep(Duration::from_secs(5)).await;
        let running: Vec<String> = house.world.running("shop").keys().map(ToString::to_string).collect();
        assert_eq!(running, vec![stable], "{step}: {}", story(&new, &id).await);
        let targets = house.world.view("shop").tracks.remove(0).targets;
        let running = house.world.edges().platform.observe(&shop()).await.unwrap();
        assert!(
            targets.iter().all(|target| running[0].instances.iter().any(|i| i.address == target.address))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_table_is_restored() {
    let house = House::new();
    let (old, _) = house.with_stable().await;
    old.shutdown().await;
    house.world.lose_table("shop");
    let (new, _) = house.engine("host:2", true).await;
    new.recover().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_decided_while_its_service_is_brought_back_stays_decided() {
    let house = House::new();
    let (old, _) = house.with_stable().await;
    let id = started(old.deploy(request("r-2", "bake: 5s\nkeep_warm: 10m\n")).await);
    at_step(&old, &id, "bake").await;
    old.crash().await;
    let (new, _) = house.engine("host:2", true).await;
    // Stable is looked after for longer than the bake takes: by then another revision is stable.
    house.world.spoil(Call::Ensure, Mishap::Delay(Duration::from_secs(8)));
    new.recover().await.unwrap();
    assert_eq!(decided(&new, &id).await.exit_code(), Some(0), "{}", story(&new, &id).await);
    tokio::time::sleep(Duration::from_secs(20)).await;
    house.settled(&["r-2", "r-1"]);
}
