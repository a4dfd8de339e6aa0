//! The process dies at each append of a release, before it and after it; the next engine finishes or goes back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover_core::{Machine, RevisionId};
use cutover_engine::Started;
use cutover_ports::fake::Behavior;

use crate::harness::{House, PROCESSES, When, ended, replayed, request, staff, started, story};

/// How a killed release went on; none when the release was over before it could be killed.
async fn killed_at(append: usize, when: When, down: Duration, bad: bool, more: &str) -> Option<Machine> {
    let house = House::new();
    let (engine, cut) = house.with_stable_of(if more == PROCESSES { more } else { "" }).await;
    if bad {
        house.world.behave("r-2", Behavior { failing: 50, ..Behavior::default() });
    }
    cut.die_at(append, when);
    let whole = async {
        let id = started(engine.deploy(request("r-2", more)).await);
        ended(&engine, &id).await;
    };
    let over = tokio::select! {
        () = whole => true,
        () = cut.died.notified() => false,
    };
    if over {
        assert!(append >= cut.appends.load(Ordering::SeqCst), "append {append} was never reached");
        return None;
    }
    engine.crash().await;
    tokio::time::sleep(down).await;
    let (engine, _) = house.engine("host:2", true).await;
    let taken = engine.recover().await.unwrap();
    let id = match engine.deploy(request("r-2", more)).await {
        // The release was never journaled, or is decided already.
        Ok(Started::Release { id, .. }) => id,
        Ok(Started::UpToDate { .. }) | Err(_) => cutover_core::ReleaseId::new("shop-2"),
    };
    let machine = ended(&engine, &id).await;
    let story = story(&engine, &id).await;
    let place = format!("append {append} {when:?}, {taken:?} taken over\n{story}");
    // What the dead engine left in flight comes to its end too.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let stable = if machine.decided().is_some() { "r-2" } else { "r-1" };
    let running: Vec<RevisionId> = house.world.running("shop").into_keys().collect();
    assert_eq!(running, vec![RevisionId::new(stable)], "{place}");
    assert_eq!(house.world.running("shop")[&RevisionId::new(stable)], 2, "{place}");
    house.settled(&[stable]);
    if more == PROCESSES {
        assert_eq!(house.world.processes("shop"), staff(stable), "{place}");
    }
    let records = engine.records(&id, 0).await.unwrap();
    assert_eq!(replayed(&records), machine, "{place}");
    assert_eq!(engine.services().await.unwrap()[0].stable, Some(RevisionId::new(stable)), "{place}");
    Some(machine)
}

async fn everywhere(down: Duration, bad: bool, more: &str) -> (usize, usize) {
    let (mut released, mut back) = (0, 0);
    for append in 0.. {
        let mut over = false;
        for when in [When::Before, When::After] {
            match killed_at(append, when, down, bad, more).await {
                Some(machine) if machine.decided().is_some() => released += 1,
                Some(_) => back += 1,
                None => over = true,
            }
        }
        if over {
            assert!(append > 10, "only {append} appends");
            return (released, back);
        }
    }
    (released, back)
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_a_good_release_is_finished() {
    let (released, back) = everywhere(Duration::ZERO, false, "").await;
    assert!(released > 20 && back == 0, "{released} released, {back} went back");
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_for_long_a_release_ends_one_way_or_the_other() {
    // Longer than the candidate's lease: where it had traffic, the router has taken it away.
    let (released, back) = everywhere(Duration::from_secs(40), false, "").await;
    assert!(released > 10 && back > 2, "{released} released, {back} went back");
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_a_bad_release_goes_back() {
    let (released, back) = everywhere(Duration::ZERO, true, "").await;
    assert!(released == 0 && back > 20, "{released} released, {back} went back");
}

/// At every append, in turn before and after it: a longer release has both at each kind of step.
async fn in_turn(down: Duration, bad: bool, strategy: &str) -> (usize, usize) {
    let (mut released, mut back) = (0, 0);
    for append in 0.. {
        let when = if append % 2 == 0 { When::Before } else { When::After };
        match killed_at(append, when, down, bad, strategy).await {
            Some(machine) if machine.decided().is_some() => released += 1,
            Some(_) => back += 1,
            None => break,
        }
    }
    println!("{strategy}: {released} released, {back} went back");
    (released, back)
}

const CANARY: &str = "strategy: {canary: {weights: [10%, 100%], bake: 2s}}\ngate: ['true']\n";
const ROLLING: &str = "strategy: {rolling: {max_surge: 1, bake: 2s}}\n";

#[tokio::test(start_paused = true)]
async fn killed_anywhere_a_canary_ends_whole() {
    let (released, back) = in_turn(Duration::ZERO, false, CANARY).await;
    assert!(released > 10 && back == 0);
    let (released, back) = in_turn(Duration::ZERO, true, CANARY).await;
    assert!(released == 0 && back > 10);
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_a_rolling_release_ends_whole() {
    let (released, back) = in_turn(Duration::ZERO, false, ROLLING).await;
    assert!(released > 15 && back == 0);
    let (released, back) = in_turn(Duration::ZERO, true, ROLLING).await;
    assert!(released == 0 && back > 10);
}

#[tokio::test(start_paused = true)]
async fn killed_anywhere_for_long_a_rolling_release_ends_whole() {
    let without_surge = "strategy: {rolling: {max_surge: 0, max_unavailable: 1, bake: 2s}}\n";
    let (released, back) = in_turn(Duration::from_secs(40), false, without_surge).await;
    assert!(released > 5 && back > 2);
}

/// A clock that is to be alone is alone whatever dies: the fakes note it as a violation if it is not.
#[tokio::test(start_paused = true)]
async fn killed_anywhere_the_processes_of_one_revision_run_in_the_end() {
    let (released, back) = everywhere(Duration::from_secs(40), false, PROCESSES).await;
    assert!(released > 10 && back > 2, "{released} released, {back} went back");
    let (released, back) = everywhere(Duration::ZERO, true, PROCESSES).await;
    assert!(released == 0 && back > 20, "{released} released, {back} went back");
}
