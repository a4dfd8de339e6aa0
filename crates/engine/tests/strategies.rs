//! Canary, rolling and gates over the fakes: weights, instances, and the way back.

use cutover_core::{Machine, RevisionId, Weight};
use cutover_ports::fake::{Behavior, Call};

use crate::harness::{House, at_step, ended, request, started, story, until};

const CANARY: &str = "strategy: {canary: {weights: [10%, 50%, 100%], bake: 5s}}\n";
const ROLLING: &str = "strategy: {rolling: {max_surge: 1, max_unavailable: 0, bake: 5s}}\n";

fn weight(house: &House, revision: &str) -> Weight {
    let weights = house.world.weights("shop");
    weights.iter().find(|(r, _)| r.as_str() == revision).map_or(Weight::ZERO, |(_, weight)| *weight)
}

fn count(house: &House, revision: &str) -> usize {
    house.world.running("shop").get(&RevisionId::new(revision)).map_or(0, |count| *count)
}

/// Waits until the machine is in that bake.
async fn bakes_at(engine: &cutover_engine::Engine, id: &cutover_core::ReleaseId, bp: u16) -> Machine {
    let baking =
        |machine: &Machine| machine.step().name() == "bake" && machine.weight() == Some(Weight::from_bp(bp));
    until(engine, id, baking).await
}

#[tokio::test(start_paused = true)]
async fn a_canary_grows_with_room_for_its_next_weight() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", CANARY)).await);
    // One of two instances carries 10% and would carry 50%.
    for (bp, instances) in [(1_000, 1), (5_000, 2), (10_000, 2)] {
        bakes_at(&engine, &id, bp).await;
        assert_eq!(weight(&house, "r-2"), Weight::from_bp(bp), "{}", story(&engine, &id).await);
        assert_eq!((count(&house, "r-1"), count(&house, "r-2")), (2, instances));
    }
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(0));
    house.settled(&["r-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_breaks_loses_its_traffic_at_its_weight() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.world.behave("r-2", Behavior { failing: 50, ..Behavior::default() });
    let id = started(engine.deploy(request("r-2", CANARY)).await);
    let machine = ended(&engine, &id).await;
    assert_eq!((machine.exit_code(), machine.step().name().as_str()), (Some(4), "bake"));
    assert_eq!(machine.plan().weight_at(machine.at()), Some(Weight::from_bp(1_000)), "it never got more");
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn rolling_replaces_batch_by_batch() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", ROLLING)).await);
    bakes_at(&engine, &id, 5_000).await;
    assert_eq!(
        (count(&house, "r-1"), count(&house, "r-2")),
        (2, 1),
        "nothing stops before the batch has proved itself"
    );
    bakes_at(&engine, &id, 10_000).await;
    assert_eq!(
        (count(&house, "r-1"), count(&house, "r-2")),
        (1, 2),
        "the last of stable waits for the decision"
    );
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(0), "{}", story(&engine, &id).await);
    house.settled(&["r-2"]);
    // Every instance was drained before it was stopped: the router was asked first.
    let calls = house.world.calls();
    let position = |call| calls.iter().position(|called| called.call == call).unwrap();
    assert!(position(Call::DrainTargets) < position(Call::Retire));
}

#[tokio::test(start_paused = true)]
async fn a_rolling_release_that_breaks_late_brings_stable_back_whole() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", ROLLING)).await);
    bakes_at(&engine, &id, 10_000).await;
    house.world.behave("r-2", Behavior { failing: 50, ..Behavior::default() });
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(4), "{}", story(&engine, &id).await);
    house.settled(&["r-1"]);
    assert_eq!(count(&house, "r-1"), 2);
}

#[tokio::test(start_paused = true)]
async fn promote_skips_what_a_later_step_surpasses() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", CANARY)).await);
    bakes_at(&engine, &id, 1_000).await;
    engine.command(&crate::harness::shop(), cutover_core::Command::Promote, "ann").await.unwrap();
    at_step(&engine, &id, "warm").await;
    let told = story(&engine, &id).await;
    assert!(!told.contains("50%") && told.contains("2 × r-2"), "{told}");
    house.settled(&["r-2", "r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_fails_refuses_before_anything_moves() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "gate: ['true', 'false']\n")).await);
    let machine = ended(&engine, &id).await;
    let told = story(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(3), "{told}");
    assert!(told.contains("gate        `true`, exit status 0") && told.contains("exit status 1"), "{told}");
    house.settled(&["r-1"]);
    let id = started(engine.deploy(request("r-2", "gate: ['true']\n")).await);
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(0));
}
