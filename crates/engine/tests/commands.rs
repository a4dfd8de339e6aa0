//! What people say to a release.

use std::time::Duration;

use cutover_core::machine::HoldReason;
use cutover_core::{Command, Ending, HoldDefault, Machine, Mode, Span};
use cutover_engine::EngineErrorKind;

use crate::harness::{House, at_step, decided, ended, request, shop, started, story, until};

fn held(machine: &Machine) -> bool {
    matches!(machine.mode(), Mode::Held(_))
}

#[tokio::test(start_paused = true)]
async fn pause_and_resume() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    at_step(&engine, &id, "bake").await;
    let pause = Command::Pause { span: Span::from_secs(60), then: HoldDefault::Abort };
    assert_eq!(engine.command(&shop(), pause, "ann").await.unwrap(), id);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let machine = engine.machine(&id).await.unwrap();
    assert!(held(&machine) && house.world.leased("shop"), "the lease is renewed while it waits");
    engine.command(&shop(), Command::Resume, "ann").await.unwrap();
    assert_eq!(decided(&engine, &id).await.exit_code(), Some(0));
    house.settled(&["r-2", "r-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_nobody_ends_goes_back() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let id = started(engine.deploy(request("r-2", "")).await);
    at_step(&engine, &id, "bake").await;
    let pause = Command::Pause { span: Span::from_secs(60), then: HoldDefault::Abort };
    engine.command(&shop(), pause, "ann").await.unwrap();
    assert_eq!(ended(&engine, &id).await.exit_code(), Some(4));
    house.settled(&["r-1"]);
}

#[tokio::test(start_paused = true)]
async fn abort_in_every_step() {
    for step in ["preflight", "build", "provision", "check", "shift 100%", "bake"] {
        let house = House::new();
        let (engine, _) = house.with_stable().await;
        let slow = cutover_ports::fake::Mishap::Delay(Duration::from_secs(3));
        use cutover_ports::fake::Call;
        for call in [Call::Preflight, Call::Build, Call::Ensure, Call::Check, Call::Set] {
            house.world.spoil(call, slow.clone());
        }
        let id = started(engine.deploy(request("r-2", "")).await);
        at_step(&engine, &id, step).await;
        engine.command(&shop(), Command::Abort, "ann").await.unwrap();
        let machine = ended(&engine, &id).await;
        assert!(matches!(machine.ending(), Some(Ending::Withdrawn { .. })), "{step}: {:?}", machine.ending());
        assert_eq!(machine.exit_code(), Some(7));
        tokio::time::sleep(Duration::from_secs(5)).await;
        house.settled(&["r-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn approvals_advance_and_promote() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let more = "approve: [before_shift, before_promote]\nbake: 1h\ndeadline: 4h\n";
    let id = started(engine.deploy(request("r-2", more)).await);
    let waits = |machine: &Machine| matches!(machine.mode(), Mode::Held(hold) if matches!(hold.why, HoldReason::Approval { .. }));
    until(&engine, &id, waits).await;
    let illegal = engine.command(&shop(), Command::Promote, "ann").await.unwrap_err();
    assert_eq!(illegal.kind(), EngineErrorKind::Illegal);
    let records = engine.records(&id, 0).await.unwrap().len();
    assert_eq!(
        engine.command(&shop(), Command::Resume, "ann").await.unwrap_err().kind(),
        EngineErrorKind::Illegal
    );
    assert_eq!(records, engine.records(&id, 0).await.unwrap().len(), "what is illegal is not journaled");
    engine.command(&shop(), Command::Approve, "ann").await.unwrap();
    at_step(&engine, &id, "bake").await;
    engine.command(&shop(), Command::Advance, "ann").await.unwrap();
    until(&engine, &id, waits).await;
    engine.command(&shop(), Command::Approve, "ann").await.unwrap();
    assert_eq!(decided(&engine, &id).await.exit_code(), Some(0));

    let id = started(engine.deploy(request("r-3", "bake: 1h\ndeadline: 4h\n")).await);
    at_step(&engine, &id, "bake").await;
    engine.command(&shop(), Command::Promote, "ann").await.unwrap();
    assert_eq!(decided(&engine, &id).await.exit_code(), Some(0));
    house.unhurt();
}

#[tokio::test(start_paused = true)]
async fn nothing_under_way_is_said() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let error = engine.command(&shop(), Command::Abort, "ann").await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::NothingUnderWay);
    let id = started(engine.deploy(request("r-2", "")).await);
    decided(&engine, &id).await;
    let error = engine.command(&shop(), Command::Abort, "ann").await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Illegal);
    assert!(error.hint().contains("cutover rollback"), "{}", error.hint());
}

#[tokio::test(start_paused = true)]
async fn supersede_withdraws_the_holder_first() {
    let house = House::new();
    let (engine, _) = house.with_stable().await;
    let second = started(engine.deploy(request("r-2", "")).await);
    at_step(&engine, &second, "bake").await;
    let mut third = request("r-3", "");
    third.supersede = true;
    let third = started(engine.deploy(third).await);
    assert_eq!(engine.machine(&second).await.unwrap().exit_code(), Some(7));
    assert_eq!(decided(&engine, &third).await.exit_code(), Some(0), "{}", story(&engine, &third).await);
    house.settled(&["r-3", "r-1"]);
}
