//! Processes beside the routed one.

use cutover_core::{Blame, ProcessCounts, RevisionId, Size, Span, file};
use cutover_local::LocalPlatform;
use cutover_ports::{InstanceState, ObservedWorker, Platform, RevisionSpec};
use rustix::process::Signal;

use super::harness::*;

fn beside(command: &[&str]) -> file::Process {
    let command = command.iter().map(ToString::to_string).collect();
    file::Process { command, replicas: 1, overlap: true, stop_grace: None }
}

/// A routed process that just runs, and beside it a worker and a clock that do.
fn staffed(world: &World) -> RevisionSpec {
    let mut spec = world.sleeper();
    spec.processes.insert("worker".into(), beside(&["sleep", "100002"]));
    spec.processes.insert("clock".into(), beside(&["sleep", "100003"]));
    spec
}

fn counts(run: &[(&str, u32)]) -> ProcessCounts {
    run.iter().map(|(name, count)| ((*name).into(), *count)).collect()
}

/// Waits until exactly these run, and returns them by name.
async fn working(
    platform: &LocalPlatform,
    revision: &RevisionId,
    run: &[(&str, u32)],
) -> Vec<ObservedWorker> {
    let seen = observed(platform, revision, |seen| {
        let up = |one: &ObservedWorker| one.state == InstanceState::Running && one.pid.is_some();
        let there = seen.processes.iter().filter(|process| !process.instances.is_empty());
        let there: ProcessCounts = there
            .map(|process| {
                let count = process.instances.iter().filter(|one| up(one)).count();
                (process.name.clone(), u32::try_from(count).unwrap())
            })
            .collect();
        there == counts(run)
    });
    seen.await.processes.into_iter().flat_map(|process| process.instances).collect()
}

#[tokio::test]
async fn they_have_no_port_and_their_name_in_their_log() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = staffed(&world);
    spec.processes.insert("worker".into(), beside(&["sh", "-c", "echo ${PORT:-no port}; exec sleep 100002"]));
    let revision = store(&platform, &spec).await;
    platform.ensure_processes(fence(1), &shop(), &revision, &counts(&[("worker", 2)])).await.unwrap();
    let workers = working(&platform, &revision, &[("worker", 2)]).await;
    assert!(workers.iter().all(|worker| worker.id.as_str().contains("-worker-")), "{workers:?}");
    let environment = environment(workers[0].pid.unwrap());
    assert!(!environment.iter().any(|variable| variable.starts_with("PORT=")), "{environment:?}");
    assert!(environment.contains(&format!("CUTOVER_REVISION={revision}")), "{environment:?}");
    observed(&platform, &revision, |seen| {
        seen.processes[0].instances.iter().all(|worker| worker.log == ["no port"])
    })
    .await;
    let logs = platform.logs(&shop(), &revision, 5).await.unwrap();
    assert!(
        logs.iter().all(|(id, lines)| id.as_str().contains("-worker-") && lines == &["no port"]),
        "{logs:?}"
    );
    assert!(platform.observe(&shop()).await.unwrap()[0].instances.is_empty(), "none of them is routed");
    assert!(platform.vouch(&shop(), &workers[0].id).await.is_err());
}

#[tokio::test]
async fn what_is_too_much_has_ended_when_the_call_returns() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = staffed(&world);
    // It takes its time, and says that it is ready to be stopped.
    let slow = "trap 'sleep 0.3; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    spec.processes.insert("clock".into(), beside(&["sh", "-c", slow]));
    let (revision, routed) = start(&platform, &spec, 1).await;
    let all = [("worker", 1), ("clock", 1)];
    platform.ensure_processes(fence(1), &shop(), &revision, &counts(&all)).await.unwrap();
    let before = working(&platform, &revision, &all).await;
    observed(&platform, &revision, |seen| seen.processes[0].instances[0].log == ["ready"]).await;
    platform.ensure_processes(fence(2), &shop(), &revision, &counts(&[("worker", 1)])).await.unwrap();
    assert!(!alive(before[0].pid.unwrap()), "the clock ended before the call returned");
    let after = working(&platform, &revision, &[("worker", 1)]).await;
    assert_eq!(after[0].pid, before[1].pid, "the worker was left alone");
    assert_eq!(running(&platform, &revision, 1).await[0].pid, routed[0].pid, "and so was the routed one");
    platform.retire(fence(3), &shop(), &revision).await.unwrap();
    assert_eq!(world.processes(), [0u32; 0], "retire ends all of a revision");
}

#[tokio::test]
async fn they_are_adopted_watched_and_started_again() {
    let world = World::new();
    let platform = world.open().await;
    let revision = store(&platform, &staffed(&world)).await;
    let all = [("worker", 2), ("clock", 1)];
    platform.ensure_processes(fence(1), &shop(), &revision, &counts(&all)).await.unwrap();
    let before = working(&platform, &revision, &all).await;
    platform.shutdown().await;
    assert_eq!(world.processes().len(), 3, "a shutdown ends none");
    kill(before[0].pid.unwrap(), Signal::KILL);
    until("its end", || !alive(before[0].pid.unwrap())).await;
    let platform = world.open().await;
    let after = working(&platform, &revision, &all).await;
    let ids = |workers: &[ObservedWorker]| workers.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&before));
    assert!(after[0].pid != before[0].pid && after[1].pid == before[1].pid && after[2].pid == before[2].pid);
    kill(after[2].pid.unwrap(), Signal::KILL);
    observed(&platform, &revision, |seen| {
        let worker = &seen.processes[1].instances[1];
        worker.restarts == 1 && worker.state == InstanceState::Running
    })
    .await;
}

/// The wish was noted, and then the server died: the next one goes on with the stop, and starts nothing in its place.
#[tokio::test]
async fn a_stop_that_was_cut_short_is_finished() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = staffed(&world);
    spec.processes.insert(
        "clock".into(),
        beside(&["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.01; done"]),
    );
    spec.processes.get_mut(&"clock".into()).unwrap().stop_grace = Some(Span::from_ms(300));
    let revision = store(&platform, &spec).await;
    platform.ensure_processes(fence(1), &shop(), &revision, &counts(&[("clock", 1)])).await.unwrap();
    observed(&platform, &revision, |seen| seen.processes[0].instances.iter().any(|one| one.log == ["deaf"]))
        .await;
    let clock = working(&platform, &revision, &[("clock", 1)]).await[0].pid.unwrap();
    let (service, none) = (shop(), counts(&[]));
    tokio::select! {
        _ = platform.ensure_processes(fence(2), &service, &revision, &none) => panic!("it does not end at once"),
        () = until("the wish", || world.json("service.json").1.get("processes").is_none()) => {}
    }
    platform.shutdown().await;
    assert!(alive(clock));
    let platform = world.open().await;
    platform.ensure_processes(fence(3), &shop(), &revision, &none).await.unwrap();
    assert!(!alive(clock));
    assert_eq!(world.processes(), [0u32; 0]);
}

#[tokio::test]
async fn one_that_exits_says_why_and_is_tried_again() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = staffed(&world);
    spec.processes.insert("worker".into(), beside(&["sh", "-c", "echo no queue; exit 3"]));
    let revision = store(&platform, &spec).await;
    platform.ensure_processes(fence(1), &shop(), &revision, &counts(&[("worker", 1)])).await.unwrap();
    let seen = observed(&platform, &revision, |seen| {
        seen.processes[0].instances.iter().any(|one| one.state == InstanceState::CrashLoop)
    })
    .await;
    let worker = &seen.processes[0].instances[0];
    assert_eq!(worker.why, "exit status 3");
    assert!(worker.log.contains(&"no queue".to_string()), "{:?}", worker.log);
}

#[tokio::test]
async fn they_are_part_of_what_names_a_revision() {
    let world = World::new();
    let platform = world.open().await;
    world.script("work", "exec sleep 100002");
    let named = |change: fn(&mut file::Process)| {
        let mut spec = world.sleeper();
        spec.processes.insert("worker".into(), beside(&["./work"]));
        spec.processes.values_mut().for_each(change);
        spec
    };
    let same = platform.identify(&named(|_| ())).await.unwrap();
    let other = platform.identify(&world.sleeper()).await.unwrap();
    assert_ne!(same, other);
    for change in [(|process| process.command.push("--fast".into())) as fn(&mut file::Process), |process| {
        process.stop_grace = Some(Span::from_secs(1))
    }] {
        assert_ne!(platform.identify(&named(change)).await.unwrap(), same);
    }
    // How many there are, and how they are replaced, makes no other program of it.
    for change in
        [(|process| process.replicas = 5) as fn(&mut file::Process), |process| process.overlap = false]
    {
        assert_eq!(platform.identify(&named(change)).await.unwrap(), same);
    }
    world.script("work", "exec sleep 100004");
    assert_ne!(
        platform.identify(&named(|_| ())).await.unwrap(),
        same,
        "without an artifact its program counts"
    );
}

#[tokio::test]
async fn room_for_them_is_looked_for_before_anything_starts() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = staffed(&world);
    local(&mut spec).memory = Some(Size::from_bytes(4 << 20));
    spec.processes.get_mut(&"worker".into()).unwrap().replicas = 2;
    let revision = store(&platform, &spec).await;
    let line = platform.preflight(&spec, &revision).await.unwrap();
    assert!(line.starts_with("4 instances need 16Mi, "), "{line}");
    platform.ensure_processes(fence(1), &shop(), &revision, &counts(&[("worker", 2)])).await.unwrap();
    working(&platform, &revision, &[("worker", 2)]).await;
    let line = platform.preflight(&spec, &revision).await.unwrap();
    assert!(line.starts_with("2 instances need 8Mi, "), "{line}");
    let mut missing = staffed(&world);
    missing.processes.insert("clock".into(), beside(&["./not-there"]));
    let fault = platform.preflight(&missing, &"r-000000000000".into()).await.unwrap_err();
    assert!(
        fault.blame == Blame::Configuration && fault.what.contains("find program ./not-there"),
        "{fault}"
    );
}
