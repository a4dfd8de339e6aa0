//! Whole releases: good ones, bad ones, and what comes after.

use std::time::Duration;

use cutover_core::{CheckKind, Command, Ending, RevisionId, Weight};
use cutover_engine::{EngineErrorKind, Started};
use cutover_ports::fake::{Behavior, Call};

use crate::harness::{House, at_step, decided, ended, replayed, request, shop, started, story};

#[tokio::test(start_paused = true)]
async fn blue_green_goes_through() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.settled(&["r-1"]);
    let id = started(engine.deploy(request("r-2", "")).await);
    let machine = decided(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(0), "{}", story(&engine, &id).await);
    house.settled(&["r-2", "r-1"]);
    assert!(!house.world.leased("shop"), "what is decided has no lease");
    let state = engine.services().await.unwrap().remove(0);
    assert_eq!(state.stable, Some(RevisionId::new("r-2")));
    assert_eq!((state.previous, state.previous_warm), (Some(RevisionId::new("r-1")), true));
    assert!(state.current.is_none() && state.tails.len() == 1);
    assert!(
        state.tails[0].warm_left_ms.is_some_and(|left| (1..=20_000).contains(&left)),
        "{:?}",
        state.tails
    );
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.ending(), Some(&Ending::Released));
    house.settled(&["r-2"]);
    let records = engine.records(&id, 0).await.unwrap();
    assert_eq!(replayed(&records), machine);
    let report = cutover_core::text::Report::of(&records).unwrap();
    assert!(report.requests > 400 && report.failed == 0 && report.failed_by_router == 0, "{report:?}");
    let history = engine.history(Some(&shop()), 10).await.unwrap();
    assert_eq!(history.len(), 2);
    assert!(history[0].ready_ms.is_some_and(|ms| (40..500).contains(&ms)), "{history:?}");
    assert_eq!(history[0].outcome, "released");
}

#[tokio::test(start_paused = true)]
async fn the_same_revision_again_is_up_to_date() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let again = engine.deploy(request("r-1", "")).await.unwrap();
    assert_eq!(again, Started::UpToDate { service: shop(), revision: RevisionId::new("r-1") });
}

#[tokio::test(start_paused = true)]
async fn a_plan_changes_nothing() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let (calls, history) = (house.world.calls().len(), engine.history(None, 10).await.unwrap().len());
    let (release, plan) = engine.plan(request("r-2", "")).await.unwrap();
    assert_eq!((release.id.as_str(), plan.stable), ("shop-2", Some(RevisionId::new("r-1"))));
    assert_eq!((calls, history), (house.world.calls().len(), engine.history(None, 10).await.unwrap().len()));
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_candidate_is_refused() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.world.behave("r-2", Behavior { unhealthy: Some("answered 500".into()), ..Behavior::default() });
    let id = started(engine.deploy(request("r-2", "checks: {within: 3s}\n")).await);
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(3));
    let told = story(&engine, &id).await;
    assert!(told.contains("GET /health: answered 500") && told.contains("listens"), "{told}");
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_exits_is_refused_at_once() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let exits = Some(("exit status 1".to_string(), vec!["panic: no config".to_string()]));
    house.world.behave("r-2", Behavior { exits, ..Behavior::default() });
    let begun = tokio::time::Instant::now();
    let id = started(engine.deploy(request("r-2", "")).await);
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(3));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let told = story(&engine, &id).await;
    assert!(told.contains("exit status 1") && told.contains("panic: no config"), "{told}");
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_on_the_wrong_port_is_told_early() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.world.behave("r-2", Behavior { wrong_port: true, ..Behavior::default() });
    let begun = tokio::time::Instant::now();
    let id = started(engine.deploy(request("r-2", "")).await);
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(3));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let told = story(&engine, &id).await;
    assert!(told.contains("instead of $PORT"), "{told}");
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_is_waited_for() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.world.behave("r-2", Behavior { start: Duration::from_secs(30), ..Behavior::default() });
    let id = started(engine.deploy(request("r-2", "")).await);
    assert_eq!(decided(&engine, &id).await.exit_code(), Some(0));
    house.settled(&["r-2", "r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_guard_goes_back_and_is_remembered() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.world.behave("r-2", Behavior { failing: 20, ..Behavior::default() });
    let id = started(engine.deploy(request("r-2", "")).await);
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(4), "{}", story(&engine, &id).await);
    house.settled(&["r-1"]);
    let refused = engine.deploy(request("r-2", "")).await.unwrap_err();
    assert_eq!(refused.kind(), EngineErrorKind::Refused);
    assert!(refused.hint().contains("--again"), "{}", refused.hint());
    house.world.behave("r-2", Behavior::default());
    let mut again = request("r-2", "");
    again.again = true;
    let id = started(engine.deploy(again).await);
    assert_eq!(decided(&engine, &id).await.exit_code(), Some(0));
    assert_eq!(engine.services().await.unwrap()[0].rolled_back, None);
}

#[tokio::test(start_paused = true)]
async fn a_trip_goes_back_and_is_acknowledged() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    at_step(&engine, &id, "bake").await;
    house.world.trip("shop", "9 of 10 requests failed");
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(4));
    assert!(story(&engine, &id).await.contains("9 of 10 requests failed"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(house.world.open_trips(), 0);
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn rollback_while_warm_adopts_the_predecessor() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let deployed = started(engine.deploy(request("r-2", "")).await);
    decided(&engine, &deployed).await;
    let addresses = |view: cutover_ports::RouterView| -> Vec<String> {
        let tracks = view.tracks.into_iter().filter(|track| track.revision.as_str() == "r-1");
        tracks.flat_map(|track| track.targets).map(|target| target.address.to_string()).collect()
    };
    let before = addresses(house.world.view("shop"));
    assert_eq!(before.len(), 2, "the warm predecessor stays a target");
    let back = started(engine.rollback(&shop(), "bob").await);
    assert_eq!(decided(&engine, &back).await.exit_code(), Some(0), "{}", story(&engine, &back).await);
    assert_eq!(addresses(house.world.view("shop")), before, "the same instances serve again");
    assert!(story(&engine, &deployed).await.contains("taken over by shop-3"));
    ended(&engine, &back).await;
    house.settled(&["r-1"]);
    let state = engine.services().await.unwrap().remove(0);
    assert_eq!((state.previous, state.rolled_back), (None, Some(RevisionId::new("r-2"))));
    let refused = engine.rollback(&shop(), "bob").await.unwrap_err();
    assert_eq!(refused.kind(), EngineErrorKind::NoPredecessor);
    assert!(refused.to_string().contains("shop-3 returned to r-1 already"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn rollback_after_warm_starts_the_predecessor_again() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    ended(&engine, &id).await;
    house.settled(&["r-2"]);
    let back = started(engine.rollback(&shop(), "bob").await);
    ended(&engine, &back).await;
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn the_first_release_has_no_predecessor() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let refused = engine.rollback(&shop(), "bob").await.unwrap_err();
    assert_eq!(refused.kind(), EngineErrorKind::NoPredecessor);
    assert!(refused.to_string().contains("shop-1 was the first release"), "{refused}");
}

/// Whoever sees a bad release at 3 AM says rollback, whether it is decided or not.
#[tokio::test(start_paused = true)]
async fn a_rollback_of_what_is_under_way_names_what_takes_it_back() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let first = started(engine.deploy(request("r-2", "approve: [before_promote]\n")).await);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let refused = engine.rollback(&shop(), "bob").await.unwrap_err();
    let hint = "shop-2 is under way; to take it back: cutover abort shop";
    assert_eq!((refused.kind(), refused.hint()), (EngineErrorKind::NoPredecessor, hint));
    engine.command(&shop(), Command::Approve, "ann").await.unwrap();
    ended(&engine, &first).await;
    let second = started(engine.deploy(request("r-3", "approve: [before_promote]\n")).await);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let refused = engine.rollback(&shop(), "bob").await.unwrap_err();
    let hint = "shop-3 is under way; to take it back: cutover abort shop";
    assert_eq!((refused.kind(), refused.hint()), (EngineErrorKind::Busy, hint));
    engine.command(&shop(), Command::Abort, "bob").await.unwrap();
    ended(&engine, &second).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_release_hurries_the_last_tail() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let second = started(engine.deploy(request("r-2", "keep_warm: 10m\n")).await);
    decided(&engine, &second).await;
    let third = started(engine.deploy(request("r-3", "keep_warm: 10m\n")).await);
    decided(&engine, &third).await;
    ended(&engine, &second).await;
    house.settled(&["r-3", "r-2"]);
    assert!(story(&engine, &second).await.contains("shop-3 was promoted"));
}

#[tokio::test(start_paused = true)]
async fn a_predecessor_that_drains_already_is_started_again() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let second = started(engine.deploy(request("r-2", "keep_warm: 0s\n")).await);
    house.world.spoil(Call::Drain, cutover_ports::fake::Mishap::Delay(Duration::from_secs(4)));
    at_step(&engine, &second, "drain").await;
    let back = started(engine.rollback(&shop(), "bob").await);
    assert_eq!(decided(&engine, &back).await.exit_code(), Some(0));
    ended(&engine, &second).await;
    ended(&engine, &back).await;
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_drained_is_no_target_of_the_next_shift() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    house.world.spoil(Call::Retire, cutover_ports::fake::Mishap::Delay(Duration::from_secs(30)));
    let second = started(engine.deploy(request("r-2", "keep_warm: 0s\n")).await);
    at_step(&engine, &second, "retire").await;
    let calls = house.world.calls().len();
    let third = started(engine.deploy(request("r-3", "keep_warm: 10m\n")).await);
    decided(&engine, &third).await;
    assert!(!engine.machine(&second).await.unwrap().ended(), "it is still being stopped");
    let sets: Vec<String> = house.world.calls().split_off(calls).into_iter().map(|call| call.what).collect();
    assert!(sets.iter().any(|what| what.contains("r-3=100%")), "{sets:?}");
    assert!(!sets.iter().any(|what| what.contains("r-1=")), "{sets:?}");
    ended(&engine, &second).await;
    house.settled(&["r-3", "r-2"]);
}

#[tokio::test(start_paused = true)]
async fn targets_follow_an_instance_to_another_port() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    // Long enough for the targets to be found right, and not to be looked at again before something changes.
    tokio::time::sleep(Duration::from_secs(10)).await;
    house.world.move_instance("shop", "r-1");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let view = house.world.view("shop");
    let running = house.world.edges().platform.observe(&shop()).await.unwrap();
    let wanted: Vec<_> = running[0].instances.iter().map(|instance| instance.address).collect();
    let targets: Vec<_> = view.tracks[0].targets.iter().map(|target| target.address).collect();
    assert_eq!(targets, wanted);
    assert_eq!(house.world.weights("shop"), vec![(RevisionId::new("r-1"), Weight::FULL)]);
    drop(engine);
}

#[tokio::test(start_paused = true)]
async fn a_service_at_rest_is_left_alone_and_an_edit_is_seen() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let looks = || house.world.asked(Call::ObserveRouter);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = looks();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(looks(), before, "nothing changed");
    house.world.edit_table("shop");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(looks() > before);
    let before = looks();
    tokio::time::sleep(Duration::from_secs(130)).await;
    // Whatever is not said to have changed is looked at once a minute all the same.
    assert!((2..=3).contains(&(looks() - before)), "{} looks in 130 s", looks() - before);
    drop(engine);
}

#[tokio::test(start_paused = true)]
async fn destroy_leaves_nothing() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "keep_warm: 10m\n")).await);
    decided(&engine, &id).await;
    engine.destroy(&shop()).await.unwrap();
    assert!(house.world.running("shop").is_empty() && house.world.view("shop").tracks.is_empty());
    assert_eq!(house.world.violations(), Vec::<String>::new());
    assert_eq!(engine.services().await.unwrap()[0].stable, None);
    let id = started(engine.deploy(request("r-2", "")).await);
    assert_eq!((id.as_str(), ended(&engine, &id).await.exit_code()), ("shop-3", Some(0)));
    house.settled(&["r-2"]);
}

#[tokio::test(start_paused = true)]
async fn old_revisions_are_thrown_away_but_never_what_is_needed() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    for number in 2..=12 {
        // Every third is refused.
        let revision = format!("r-{number}");
        if number % 3 == 0 {
            let unhealthy = Some("answered 500".into());
            house.world.behave(&revision, Behavior { unhealthy, ..Behavior::default() });
        }
        let id = started(engine.deploy(request(&revision, "checks: {within: 3s}\nkeep_warm: 0s\n")).await);
        ended(&engine, &id).await;
    }
    let platform = house.world.edges().platform;
    let mut stored = Vec::new();
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stored = platform.stored(&shop()).await.unwrap();
    }
    let names: Vec<&str> = stored.iter().map(RevisionId::as_str).collect();
    assert_eq!(names, ["r-10", "r-11", "r-12", "r-8", "r-9"]);
    house.settled(&["r-11"]);
    let id = started(engine.rollback(&shop(), "ann").await);
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(0));
    house.settled(&["r-10"]);
    engine.destroy(&shop()).await.unwrap();
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(platform.stored(&shop()).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_failing_smoke_test_refuses_before_any_traffic() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let smoke = "checks: {smoke: [{get: /api}, {run: 'false'}, {get: /late}]}";
    let id = started(engine.deploy(request("r-2", smoke)).await);
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(3), "{}", story(&engine, &id).await);
    house.settled(&["r-1"]);
    let report = cutover_core::text::Report::of(&engine.records(&id, 0).await.unwrap()).unwrap();
    let smoke: Vec<(&str, bool)> = report
        .checks
        .iter()
        .filter(|result| result.kind == CheckKind::Smoke)
        .map(|result| (result.check.as_str(), result.passed()))
        .collect();
    assert_eq!(smoke, [("GET /api", true), ("run false", false), ("GET /late", true)]);
    assert_eq!(report.checks.len(), 5, "two instances passed their health checks: {report:?}");
    // What a release carries on of its fault are the words: the results stand in the journal once.
    let journal = serde_json::to_string(&engine.machine(&id).await.unwrap().ending()).unwrap();
    assert!(!journal.contains("results"), "{journal}");
}

#[tokio::test(start_paused = true)]
async fn a_check_through_the_route_pins_the_candidate_and_takes_it_back() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let through = "checks: {health: [{path: /, through: route}], smoke: [{run: 'false'}]}";
    let id = started(engine.deploy(request("r-2", through)).await);
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(3), "{}", story(&engine, &id).await);
    assert!(house.world.asked(Call::Pin) > 0);
    house.settled(&["r-1"]);
    let tracks = house.world.view("shop").tracks;
    assert_eq!(tracks.len(), 1, "the router has forgotten the candidate: {tracks:?}");
}

#[tokio::test(start_paused = true)]
async fn instances_that_fail_their_checks_during_a_bake_are_a_verdict() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "bake: 5m")).await);
    at_step(&engine, &id, "bake").await;
    let unhealthy = Some("answered 500".to_string());
    house.world.behave("r-2", Behavior { unhealthy, ..Behavior::default() });
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(4), "{}", story(&engine, &id).await);
    let why = format!("{:?}", machine.ending());
    assert!(why.contains("2 of 2 instances fail their checks"), "{why}");
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_everywhere_during_a_bake_is_no_verdict() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "bake: 1m")).await);
    at_step(&engine, &id, "bake").await;
    for revision in ["r-1", "r-2"] {
        let unhealthy = Some("the database is away".to_string());
        house.world.behave(revision, Behavior { unhealthy, ..Behavior::default() });
    }
    assert_eq!(decided(&engine, &id).await.exit_code(), Some(0), "{}", story(&engine, &id).await);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_lives_no_more_is_started_again_one_at_a_time() {
    let house = House::new();
    let live = "checks: {live: [{path: /live, interval: 5s, fall: 3}]}";
    let (_engine, _) = house.with_stable_of(live).await;
    // It lives: nobody is started again.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(house.world.asked(Call::Restart), 0);
    let unhealthy = Some("no answer".to_string());
    house.world.behave("r-1", Behavior { unhealthy, ..Behavior::default() });
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(house.world.asked(Call::Restart), 1, "the other waits until the first lives, or had its time");
    house.world.behave("r-1", Behavior::default());
    let before = house.world.asked(Call::Restart);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(house.world.asked(Call::Restart), before, "who lives again is left alone");
}
