//! Processes beside the routed one: when they run, of which revision, and what brings them back. That a clock never
//! runs twice is the fakes' to see: `settled` fails on what they noted.

use std::time::Duration;

use cutover_core::{Command, Ending, ProcessName};
use cutover_ports::fake::{Behavior, Call, Mishap};

use crate::harness::{
    House, PROCESSES, at_step, decided, ended, request, shop, staff, started, story, until,
};

fn runs(house: &House, revision: &str) -> Vec<String> {
    let all = house.world.processes("shop");
    all.get(&revision.into())
        .map(|counts| counts.keys().map(ToString::to_string).collect())
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn they_follow_the_release_and_the_rollback() {
    let house = House::new();
    let (engine, _) = house.with_stable_of(PROCESSES).await;
    assert_eq!(house.world.processes("shop"), staff("r-1"), "a first release runs them too");
    let id = started(engine.deploy(request("r-2", PROCESSES)).await);
    at_step(&engine, &id, "bake").await;
    assert_eq!(
        (runs(&house, "r-1"), runs(&house, "r-2")),
        (vec!["worker".into()], vec!["clock".into(), "worker".into()])
    );
    at_step(&engine, &id, "warm").await;
    assert_eq!(house.world.processes("shop"), staff("r-2"), "none of a predecessor that is kept warm");
    let back = started(engine.rollback(&shop(), "bob").await);
    assert_eq!(decided(&engine, &back).await.exit_code(), Some(0));
    ended(&engine, &back).await;
    assert_eq!(house.world.processes("shop"), staff("r-1"), "{}", story(&engine, &back).await);
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_exits_is_refused_with_its_last_lines() {
    let house = House::new();
    let (engine, _) = house.with_stable_of(PROCESSES).await;
    let exits = (ProcessName::new("worker"), "exit status 1".to_string(), vec!["no queue".to_string()]);
    house.world.behave("r-2", Behavior { process_exits: Some(exits), ..Behavior::default() });
    let id = started(engine.deploy(request("r-2", PROCESSES)).await);
    let machine = ended(&engine, &id).await;
    assert_eq!((machine.exit_code(), machine.moved()), (Some(3), false));
    let told = story(&engine, &id).await;
    assert!(told.contains("process worker (shop-r-2-worker-1) does not stay up: exit status 1"), "{told}");
    assert!(told.contains("| no queue"), "{told}");
    assert_eq!(house.world.processes("shop"), staff("r-1"), "{told}");
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn an_abort_at_every_step_brings_the_old_ones_back() {
    for (nth, step) in [(0, "processes"), (1, "processes"), (0, "steady"), (0, "shift 100%"), (0, "bake")] {
        let house = House::new();
        let (engine, _) = house.with_stable_of(PROCESSES).await;
        for call in [Call::EnsureProcesses, Call::EnsureProcesses, Call::Set] {
            house.world.spoil(call, Mishap::Delay(Duration::from_secs(3)));
        }
        let id = started(engine.deploy(request("r-2", PROCESSES)).await);
        let first = at_step(&engine, &id, step).await.at();
        until(&engine, &id, |machine| machine.at() == first + nth).await;
        engine.command(&shop(), Command::Abort, "ann").await.unwrap();
        let machine = ended(&engine, &id).await;
        assert!(matches!(machine.ending(), Some(Ending::Withdrawn { .. })), "{step}: {:?}", machine.ending());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(house.world.processes("shop"), staff("r-1"), "{step}: {}", story(&engine, &id).await);
        house.settled(&["r-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn each_answer_about_them_may_be_lost_once() {
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
    for nth in 0..3 {
        for mishap in &mishaps {
            let house = House::new();
            let (engine, _) = house.with_stable_of(PROCESSES).await;
            house.world.spoil_after(Call::EnsureProcesses, nth, mishap.clone());
            let id = started(engine.deploy(request("r-2", PROCESSES)).await);
            let machine = ended(&engine, &id).await;
            let place = format!("call {nth}, {mishap:?}\n{}", story(&engine, &id).await);
            assert_eq!(machine.exit_code(), Some(0), "{place}");
            tokio::time::sleep(late * 2).await;
            assert_eq!(house.world.processes("shop"), staff("r-2"), "{place}");
            house.settled(&["r-2"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_the_right_ones_run_of_the_right_revision() {
    for step in ["preflight", "processes", "steady", "bake", "warm"] {
        let house = House::new();
        let (old, _) = house.with_stable_of(PROCESSES).await;
        house.world.spoil(Call::Preflight, Mishap::Delay(Duration::from_secs(3)));
        house.world.spoil(Call::EnsureProcesses, Mishap::Delay(Duration::from_secs(3)));
        let id = started(old.deploy(request("r-2", PROCESSES)).await);
        at_step(&old, &id, step).await;
        old.crash().await;
        house.world.reboot();
        house.clock.reboot("boot-2");
        let (new, _) = house.engine("host:2", true).await;
        new.recover().await.unwrap();
        let machine = ended(&new, &id).await;
        let stable = if machine.decided().is_some() { "r-2" } else { "r-1" };
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(house.world.processes("shop"), staff(stable), "{step}: {}", story(&new, &id).await);
        assert_eq!(house.world.violations(), Vec::<String>::new(), "{step}");
    }
}

/// With nothing under way, too.
#[tokio::test(start_paused = true)]
async fn after_a_reboot_stable_works_again() {
    let house = House::new();
    let (old, _) = house.with_stable_of(PROCESSES).await;
    old.crash().await;
    house.world.reboot();
    house.clock.reboot("boot-2");
    let (new, _) = house.engine("host:2", true).await;
    new.recover().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(house.world.processes("shop"), staff("r-1"));
}

/// A tail that still ends the workers of its predecessor does not let the next release's clock start beside them.
#[tokio::test(start_paused = true)]
async fn the_next_release_waits_for_the_last_ones_processes() {
    let house = House::new();
    let overlapping = PROCESSES.replace(", overlap: false", "");
    let (engine, _) = house.with_stable_of(&overlapping).await;
    // Its second call is the one that ends the predecessor's.
    house.world.spoil_after(Call::EnsureProcesses, 1, Mishap::Delay(Duration::from_secs(30)));
    let second = started(engine.deploy(request("r-2", &overlapping)).await);
    decided(&engine, &second).await;
    let third = started(engine.deploy(request("r-3", PROCESSES)).await);
    ended(&engine, &third).await;
    assert_eq!(house.world.processes("shop"), staff("r-3"), "{}", story(&engine, &third).await);
    ended(&engine, &second).await;
    house.settled(&["r-3"]);
}

#[tokio::test(start_paused = true)]
async fn destroy_ends_them() {
    let house = House::new();
    let (engine, _) = house.with_stable_of(PROCESSES).await;
    engine.destroy(&shop()).await.unwrap();
    assert!(house.world.processes("shop").is_empty());
}
