//! Metrics and counters beside the traffic: what fails, what holds, what goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::file::{Counters, Metric};
use cutover_core::machine::{BackReason, HoldReason};
use cutover_core::{Command, Ending, Event, Machine, Mode, RevisionId};
use cutover_engine::Store;
use cutover_judge::Scraped;
use cutover_sources::{AskError, Found, Reading, Setting, Source, Sources};

use crate::harness::{House, at_step, ended, request, shop, started, steady, story, until};

type Says = Box<dyn FnMut(&Setting) -> Result<Reading, AskError> + Send>;

/// Sources that say what a test wants.
#[derive(Clone, Default)]
struct Script {
    says: Arc<Mutex<BTreeMap<String, Says>>>,
    asked: Arc<Mutex<u32>>,
}

struct Scripted {
    script: Script,
    name: String,
    setting: Setting,
}

impl Script {
    fn says(&self, name: &str, says: impl FnMut(&Setting) -> Result<Reading, AskError> + Send + 'static) {
        self.says.lock().unwrap().insert(name.into(), Box::new(says));
    }

    fn source(&self, name: &str, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
        Ok(Box::new(Scripted { script: self.clone(), name: name.into(), setting: setting.clone() }))
    }
}

impl Sources for Script {
    fn metric(&self, metric: &Metric, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
        self.source(&metric.name, setting)
    }

    fn counters(&self, _: &Counters, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
        self.source("counters", setting)
    }
}

#[async_trait]
impl Source for Scripted {
    async fn ask(&self) -> Result<Reading, AskError> {
        *self.script.asked.lock().unwrap() += 1;
        let mut says = self.script.says.lock().unwrap();
        says.get_mut(&self.name)
            .map_or_else(|| Err(AskError::no_data("nobody said anything")), |says| says(&self.setting))
    }
}

fn value(value: f64) -> Result<Reading, AskError> {
    Ok(Reading { found: Found::Value(value), sampled_at_ms: None, lag_ms: Some(2_000), ahead_ms: None })
}

fn down() -> Result<Reading, AskError> {
    Err(AskError::down("http://p:9090 does not answer: connection refused"))
}

/// A house with stable, whose releases measure `errors`.
async fn house() -> (House, Script, Arc<cutover_engine::Engine>) {
    let script = Script::default();
    let house = House { sources: Arc::new(script.clone()), ..House::new() };
    let (engine, _) = house.with_stable().await;
    (house, script, engine)
}

fn metric(more: &str) -> String {
    format!(
        "bake: 60s\nguard: {{on_inconclusive: hold, metrics: [{{name: errors, run: ./errors, max: 1, interval: 7s{more}}}]}}\n"
    )
}

fn is_unmeasured(machine: &Machine) -> bool {
    matches!(machine.mode(), Mode::Held(hold) if matches!(hold.why, HoldReason::Unmeasured { .. }))
}

fn verdict(machine: &Machine) -> String {
    machine.verdicts().last().map(ToString::to_string).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_number_that_holds_passes_and_one_that_does_not_takes_the_release_back() {
    let (house, script, engine) = house().await;
    script.says("errors", |_| value(0.5));
    let id = started(engine.deploy(request("r-2", &metric(""))).await);
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(0));
    assert!(verdict(&machine).starts_with("pass: "), "{}", verdict(&machine));
    assert!(
        verdict(&machine).contains("; metric errors: 0.5 (sampled 2s before); 8 of 8 measurements succeeded"),
        "{}",
        verdict(&machine)
    );
    let mut asked = 0;
    script.says("errors", move |_| {
        asked += 1;
        value(if asked > 4 { 1.5 } else { 0.5 })
    });
    let id = started(engine.deploy(request("r-3", &metric(", failure_limit: 1"))).await);
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(4));
    let Some(Ending::RolledBack { why: BackReason::Verdict { verdict } }) = machine.ending() else {
        panic!("{:?}", machine.ending());
    };
    assert_eq!(
        verdict.why,
        "metric errors: 1.5 is more than 1 (sampled 2s before); 2 of 5 measurements failed, 1 forgiven"
    );
    assert!(verdict.counts.requests > 0, "the traffic stands beside it");
    house.settled(&["r-2"]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_holds_the_release_is_told_once_and_ends_by_itself() {
    let (house, script, engine) = house().await;
    script.says("errors", |_| down());
    let id = started(engine.deploy(request("r-2", &metric(""))).await);
    let machine = until(&engine, &id, is_unmeasured).await;
    assert_eq!(machine.step().name(), "bake");
    let told = story(&engine, &id).await;
    assert!(
        told.contains("metric errors cannot be measured: http://p:9090 does not answer"),
        "preflight says it: {told}"
    );
    assert!(
        told.contains("held        not measured (measure metric errors: http://p:9090 does not answer"),
        "{told}"
    );
    let watched = |record: &cutover_core::Record| matches!(&record.event, Event::Failed { effect, fault } if effect.name == cutover_core::EffectName::Watch && fault.what.contains("5 times in a row"));
    let records = engine.records(&id, 0).await.unwrap();
    assert_eq!(records.iter().filter(|record| watched(record)).count(), 1, "{told}");
    // It stays so, with its traffic, for as long as the store is away.
    tokio::time::sleep(Duration::from_secs(180)).await;
    assert!(is_unmeasured(&engine.machine(&id).await.unwrap()));
    script.says("errors", |_| value(0.0));
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(0), "{}", story(&engine, &id).await);
    house.settled(&["r-2"]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_ends_with_a_failure_is_a_failure() {
    let (house, script, engine) = house().await;
    script.says("errors", |_| down());
    let id = started(engine.deploy(request("r-2", &metric(""))).await);
    until(&engine, &id, is_unmeasured).await;
    script.says("errors", |_| value(7.0));
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(4));
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_who_measures_until_the_deadline_is_no_verdict() {
    let (house, script, engine) = house().await;
    script.says("errors", |_| down());
    let id = started(engine.deploy(request("r-2", &metric(""))).await);
    let machine = ended(&engine, &id).await;
    let Some(Ending::RolledBack { why: BackReason::Deadline { what } }) = machine.ending() else {
        panic!("{:?}", machine.ending());
    };
    assert!(what.contains("not measured: measure metric errors: http://p:9090 does not answer"), "{what}");
    assert!(machine.verdicts().is_empty(), "{:?}", machine.verdicts());
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_person_or_the_file_goes_on_without_the_store() {
    let (house, script, engine) = house().await;
    script.says("errors", |_| down());
    let id = started(engine.deploy(request("r-2", &metric(""))).await);
    until(&engine, &id, is_unmeasured).await;
    engine.command(&shop(), Command::Resume, "ann").await.unwrap();
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(0));
    let id = started(engine.deploy(request("r-3", &metric(", on_outage: advance"))).await);
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(0));
    assert!(verdict(&machine).contains("and the release file goes on without it"), "{}", verdict(&machine));
    house.settled(&["r-3"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_an_outage_and_hides_no_bad_traffic() {
    let (house, script, engine) = house().await;
    // Slow is who never answers: the question has its own deadline.
    struct Slow;
    #[async_trait]
    impl Source for Slow {
        async fn ask(&self) -> Result<Reading, AskError> {
            std::future::pending().await
        }
    }
    struct AllSlow;
    impl Sources for AllSlow {
        fn metric(&self, _: &Metric, _: &Setting) -> Result<Box<dyn Source>, AskError> {
            Ok(Box::new(Slow))
        }
        fn counters(&self, _: &Counters, _: &Setting) -> Result<Box<dyn Source>, AskError> {
            Ok(Box::new(Slow))
        }
    }
    script.says("errors", |_| value(0.0));
    engine.shutdown().await;
    let house = House { sources: Arc::new(AllSlow), ..house };
    let (engine, _) = house.engine("host:1", true).await;
    let id = started(engine.deploy(request("r-2", &metric(", timeout: 3s"))).await);
    let machine = until(&engine, &id, is_unmeasured).await;
    let Mode::Held(hold) = machine.mode() else { panic!("{machine:?}") };
    let HoldReason::Unmeasured { what } = &hold.why else { panic!("{hold:?}") };
    assert_eq!(what, "measure metric errors: no answer within 3s");
    engine.command(&shop(), Command::Abort, "ann").await.unwrap();
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(7));
    house.world.behave("r-3", cutover_ports::fake::Behavior { failing: 50, ..Default::default() });
    let id = started(engine.deploy(request("r-3", &metric(", timeout: 3s"))).await);
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(4));
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn no_data_is_inconclusive() {
    let (house, script, engine) = house().await;
    script.says("errors", |_| Err(AskError::no_data("the query finds no series")));
    let id = started(engine.deploy(request("r-2", &metric(""))).await);
    let inconclusive = |machine: &Machine| matches!(machine.mode(), Mode::Held(hold) if hold.why == HoldReason::Inconclusive);
    let machine = until(&engine, &id, inconclusive).await;
    assert!(verdict(&machine).starts_with("inconclusive: "), "{}", verdict(&machine));
    assert!(
        verdict(&machine).ends_with("; metric errors: the query finds no series; 0 measurements, 1 needed"),
        "{}",
        verdict(&machine)
    );
    engine.command(&shop(), Command::Abort, "ann").await.unwrap();
    ended(&engine, &id).await;
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_cannot_be_asked_is_found_before_anything_moves() {
    let (house, script, engine) = house().await;
    script.says("errors", |_| {
        Err(AskError::wrong("http://p:9090 refuses the query: \"parse error\"", "try it in its web page"))
    });
    let id = started(engine.deploy(request("r-2", &metric(""))).await);
    let machine = ended(&engine, &id).await;
    assert_eq!((machine.exit_code(), machine.moved()), (Some(3), false));
    let Some(Ending::Refused { why: BackReason::Fault { fault } }) = machine.ending() else {
        panic!("{machine:?}")
    };
    assert_eq!(fault.what, "measure metric errors: http://p:9090 refuses the query: \"parse error\"");
    assert_eq!(fault.hint, "try it in its web page");
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_rollback_to_a_warm_predecessor_asks_nobody() {
    let (_house, script, engine) = house().await;
    script.says("errors", |_| value(0.0));
    let more = format!("{}keep_warm: 10m\n", metric(""));
    let id = started(engine.deploy(request("r-2", &more)).await);
    crate::harness::decided(&engine, &id).await;
    script.says("errors", |_| Err(AskError::wrong("nobody understands this", "")));
    let before = *script.asked.lock().unwrap();
    let back = started(engine.rollback(&shop(), "ann").await);
    let machine = crate::harness::decided(&engine, &back).await;
    assert_eq!(machine.exit_code(), Some(0), "{}", story(&engine, &back).await);
    assert_eq!(machine.plan().candidate, RevisionId::new("r-1"));
    assert_eq!(*script.asked.lock().unwrap(), before);
}

/// The driver dies at each measurement of a bake in turn; what it had seen counts for the next one.
#[tokio::test(start_paused = true)]
async fn a_driver_that_takes_over_goes_on_with_what_was_measured() {
    for dies_after in 1..=3 {
        let (house, script, engine) = house().await;
        let asked = Arc::new(Mutex::new(0));
        let counted = asked.clone();
        // Three are forgiven; the dead driver saw no more than that.
        script.says("errors", move |_| {
            *counted.lock().unwrap() += 1;
            value(9.0)
        });
        let id = started(engine.deploy(request("r-2", &metric(", failure_limit: 3"))).await);
        while *asked.lock().unwrap() < dies_after {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The answer is there; it is kept a moment later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        engine.crash().await;
        let (other, _) = house.engine("host:2", true).await;
        other.recover().await.unwrap();
        let machine = ended(&other, &id).await;
        let Some(Ending::RolledBack { why: BackReason::Verdict { verdict } }) = machine.ending() else {
            panic!("{:?}", machine.ending());
        };
        assert!(
            verdict.why.ends_with("4 of 4 measurements failed, 3 forgiven"),
            "after {dies_after}: {}",
            verdict.why
        );
        assert_eq!(*asked.lock().unwrap(), 4 + 1, "preflight, and four measurements by both together");
        house.settled(&["r-1"]);
    }
}

/// What was proven bad stays so, though all that is measured afterwards is good.
#[tokio::test(start_paused = true)]
async fn a_failure_that_a_dead_driver_saw_is_not_forgotten() {
    let (house, script, engine) = house().await;
    let mut asked = 0;
    script.says("errors", move |_| {
        asked += 1;
        // The first is preflight's.
        value(if asked == 2 || asked == 4 { 9.0 } else { 0.0 })
    });
    let id = started(engine.deploy(request("r-2", &metric(", failure_limit: 1"))).await);
    at_step(&engine, &id, "bake").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    engine.crash().await;
    let (other, _) = house.engine("host:2", true).await;
    other.recover().await.unwrap();
    let machine = ended(&other, &id).await;
    let Some(Ending::RolledBack { why: BackReason::Verdict { verdict } }) = machine.ending() else {
        panic!("{:?}", machine.ending());
    };
    assert!(verdict.why.contains("2 of 3 measurements failed, 1 forgiven"), "{}", verdict.why);
    house.settled(&["r-1"]);
}

/// A bake that is over is over: its failures are not the next one's, whoever drives.
#[tokio::test(start_paused = true)]
async fn another_bake_begins_anew_also_after_a_takeover() {
    let (house, script, engine) = house().await;
    let mut asked = 0;
    script.says("errors", move |_| {
        asked += 1;
        value(if asked == 2 { 9.0 } else { 0.0 })
    });
    let more = "bake: 60s\nstrategy: {canary: {weights: [10%, 100%], bake: 20s}}\nguard: {metrics: [{name: errors, run: ./errors, \
                max: 1, interval: 7s, failure_limit: 1}]}\n";
    let id = started(engine.deploy(request("r-2", more)).await);
    until(&engine, &id, |machine| machine.step().name() == "bake" && !machine.verdicts().is_empty()).await;
    engine.crash().await;
    let (other, _) = house.engine("host:2", true).await;
    other.recover().await.unwrap();
    let machine = ended(&other, &id).await;
    assert_eq!(machine.exit_code(), Some(0), "{}", story(&other, &id).await);
    let last = verdict(&machine);
    let measured = last.split("0 (sampled 2s before); ").nth(1).unwrap_or_else(|| panic!("{last}"));
    let counts: Vec<&str> = measured.split(' ').collect();
    assert_eq!(counts[0], counts[2], "none of them failed: {last}");
    // Nothing is kept of a release that is over.
    let store = steady(Store::open(&house.folder.path().join("journal.db"))).await.unwrap();
    assert!(steady(store.remembered(&id)).await.unwrap().is_empty());
    house.settled(&["r-2"]);
}

const COUNTERS: &str = "bake: 60s
strategy: {canary: {weights: [10%, 50%, 100%], bake: 60s}}
guard: {counters: {interval: 5s, prometheus: {address: \"http://p:9090\", preset: istio, namespace: web, stable: shop, candidate: canary}}}
";

/// Counters that grow with each look: stable's 900 requests with one failure, the candidate's 100 with `errors`.
fn growing(errors: u64) -> impl FnMut(&Setting) -> Result<Reading, AskError> + Send {
    let mut looks = 0;
    move |_| {
        looks += 1;
        let arm = |requests, errors| {
            [("a".to_string(), Scraped { requests: looks * requests, errors: looks * errors })].into()
        };
        Ok(Reading {
            found: Found::Counters([arm(900, 1), arm(100, errors)]),
            sampled_at_ms: Some(looks * 5_000),
            lag_ms: Some(1_000),
            ahead_ms: None,
        })
    }
}

#[tokio::test(start_paused = true)]
async fn counters_of_another_router_take_a_bad_candidate_back() {
    let (house, script, engine) = house().await;
    script.says("counters", growing(20));
    let id = started(engine.deploy(request("r-2", COUNTERS)).await);
    let machine = ended(&engine, &id).await;
    let Some(Ending::RolledBack { why: BackReason::Verdict { verdict } }) = machine.ending() else {
        panic!("{}", story(&engine, &id).await);
    };
    assert!(verdict.why.starts_with("counters: fail: the candidate is worse, as with"), "{}", verdict.why);
    assert!(
        verdict.why.contains("requests failed at the candidate")
            && verdict.why.ends_with("(sampled 1s before)"),
        "{}",
        verdict.why
    );
    assert_eq!(
        machine.plan().weight_at(machine.at()).map(|weight| weight.bp()),
        Some(1_000),
        "at its first weight"
    );
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn counters_pass_a_good_candidate_and_their_outage_holds_it() {
    let (house, script, engine) = house().await;
    script.says("counters", growing(0));
    let id = started(engine.deploy(request("r-2", COUNTERS)).await);
    at_step(&engine, &id, "bake").await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    let machine = engine.machine(&id).await.unwrap();
    assert!(
        verdict(&machine)
            .contains("counters: pass: the candidate does not fail 5 percentage points more often"),
        "{}",
        verdict(&machine)
    );
    script.says("counters", |_| down());
    until(&engine, &id, is_unmeasured).await;
    script.says("counters", growing(0));
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(0), "{}", story(&engine, &id).await);
    house.settled(&["r-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_takes_over_goes_on_with_the_judge_of_the_counters() {
    let (house, script, engine) = house().await;
    // Bad enough to be proven by several looks, and by none alone.
    script.says("counters", growing(2));
    let id = started(engine.deploy(request("r-2", COUNTERS)).await);
    at_step(&engine, &id, "bake").await;
    let mut engine = engine;
    let mut drivers = 1;
    let verdict = loop {
        tokio::time::sleep(Duration::from_secs(8)).await;
        let machine = engine.machine(&id).await.unwrap();
        if let Some(Ending::RolledBack { why: BackReason::Verdict { verdict } }) = machine.ending() {
            break verdict.clone();
        }
        assert!(machine.ending().is_none() && drivers < 12, "{}", story(&engine, &id).await);
        if matches!(machine.mode(), Mode::Back(_)) {
            continue;
        }
        drivers += 1;
        engine.crash().await;
        (engine, _) = house.engine(&format!("host:{drivers}"), true).await;
        engine.recover().await.unwrap();
    };
    // No driver lived for more than two looks; the verdict is on all that they counted.
    assert!(drivers >= 2, "it was too easy");
    assert!(verdict.why.starts_with("counters: fail: the candidate is worse"), "{}", verdict.why);
    assert!(!verdict.why.contains("began again"), "{}", verdict.why);
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn traffic_that_is_proven_early_does_not_have_a_metric_measured_before_its_time() {
    let (house, script, engine) = house().await;
    house.world.prove();
    let begun = tokio::time::Instant::now();
    // A cold cache is slow, and `initial_delay` says so.
    script.says("errors", move |_| value(if begun.elapsed() < Duration::from_secs(30) { 1.5 } else { 0.5 }));
    let file = "strategy: {canary: {weights: [50%, 100%], bake: auto}}\nbake: 0s\nguard: {metrics: [{name: errors, \
                run: ./errors, max: 1, interval: 7s, initial_delay: 40s}]}\n";
    let id = started(engine.deploy(request("r-2", file)).await);
    let machine = ended(&engine, &id).await;
    assert_eq!(machine.exit_code(), Some(0), "{}", story(&engine, &id).await);
    assert!(verdict(&machine).contains("metric errors: 0.5"), "{}", verdict(&machine));
    house.settled(&["r-2"]);
}
