//! Load tests of a release: after the checks, and before traffic.

use cutover_core::text::Report;
use cutover_core::{Command, LoadOutcome, Record};
use cutover_ports::fake::Mishap;
use std::time::Duration;

use super::harness::*;
use cutover_ports::fake::Call;

fn report(records: &[Record]) -> Report {
    Report::of(records).unwrap()
}

const TWO: &str = "checks: {load: [{path: /, concurrency: 2}, {path: /other, rate: 5/s, against: both}]}\n";

#[tokio::test(start_paused = true)]
async fn a_candidate_that_holds_its_load_tests_is_released() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", TWO)).await);
    ended(&engine, &id).await;
    let report = report(&engine.records(&id, 0).await.unwrap());
    let held: Vec<_> = report.loads.iter().map(|load| (load.test.as_str(), load.outcome)).collect();
    let passed = LoadOutcome::Passed;
    assert_eq!(
        held,
        [("GET /, 2 clients for 30s", passed), ("GET /other, 5/s for 30s, stable beside", passed)]
    );
    house.settled(&["r-2"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_is_refused_before_any_traffic_moves() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id =
        started(engine.deploy(request("r-2", "checks: {load: [{path: /false, concurrency: 2}]}\n")).await);
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(3), "{}", story(&engine, &id).await);
    let report = report(&engine.records(&id, 0).await.unwrap());
    assert_eq!(report.loads[0].outcome, LoadOutcome::Failed);
    assert!(report.why.contains("load test GET /false, 2 clients for 30s failed"), "{}", report.why);
    house.settled(&["r-1"]);
}

/// An abort does not wait for the load to end.
#[tokio::test(start_paused = true)]
async fn an_abort_ends_a_load_test() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.world.spoil(Call::Load, Mishap::Delay(Duration::from_secs(3600)));
    let id = started(
        engine
            .deploy(request("r-2", "checks: {load: [{path: /, concurrency: 2, for: 1h}]}\ndeadline: 1d\n"))
            .await,
    );
    at_step(&engine, &id, "load").await;
    engine.command(&shop(), Command::Abort, "bob").await.unwrap();
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(7), "{}", story(&engine, &id).await);
    assert_eq!(engine.load_progress(&id), None);
    house.settled(&["r-1"]);
}

/// The server that takes a release over sends the load again.
#[tokio::test(start_paused = true)]
async fn a_load_test_is_repeated_after_a_crash() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.world.spoil(Call::Load, Mishap::Delay(Duration::from_secs(20)));
    let id = started(engine.deploy(request("r-2", "checks: {load: [{path: /, concurrency: 2}]}\n")).await);
    at_step(&engine, &id, "load").await;
    engine.crash().await;
    let (engine, _) = house.engine("second", true).await;
    engine.recover().await.unwrap();
    ended(&engine, &id).await;
    assert_eq!(report(&engine.records(&id, 0).await.unwrap()).loads.len(), 1);
    house.settled(&["r-2"]);
}
