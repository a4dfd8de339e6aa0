//! A next server finds what an earlier one left.

use std::fs;

use cutover_core::Span;
use cutover_local::LocalPlatform;
use cutover_ports::{InstanceState, Platform};
use rustix::process::Signal;

use super::harness::*;

#[tokio::test]
async fn what_runs_is_adopted_and_still_watched() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) = start(&platform, &world.sleeper(), 2).await;
    drop(platform);
    let platform = world.open().await;
    let after = running(&platform, &revision, 2).await;
    let places = |instances: &[cutover_ports::ObservedInstance]| {
        instances.iter().map(|one| (one.id.clone(), one.pid, one.address)).collect::<Vec<_>>()
    };
    assert_eq!(places(&after), places(&before));
    platform.shutdown().await;
    assert_eq!(world.processes().len(), 2, "a shutdown stops no instance");

    let platform = world.open().await;
    kill(before[0].pid.unwrap(), Signal::KILL);
    let again = observed(&platform, &revision, |seen| {
        seen.instances[0].restarts == 1 && seen.instances[0].pid.is_some()
    })
    .await;
    assert_eq!(again.instances[0].address, before[0].address);
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert_eq!(world.processes(), [0u32; 0], "adopted ones are stopped like others");
}

#[tokio::test]
async fn what_died_meanwhile_is_started_again() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) = start(&platform, &world.sleeper(), 2).await;
    platform.shutdown().await;
    kill(before[1].pid.unwrap(), Signal::KILL);
    until("its end", || !alive(before[1].pid.unwrap())).await;
    let platform = world.open().await;
    let after = running(&platform, &revision, 2).await;
    assert_eq!(after[0].pid, before[0].pid);
    assert!(after[1].id == before[1].id && after[1].pid != before[1].pid);
}

#[tokio::test]
async fn a_recycled_process_number_is_never_touched() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) = start(&platform, &world.sleeper(), 1).await;
    platform.shutdown().await;
    kill(before[0].pid.unwrap(), Signal::KILL);
    until("its end", || !alive(before[0].pid.unwrap())).await;
    let stranger = Stranger::new();
    let (path, mut record) = world.json("/instances/");
    record["process"]["pid"] = stranger.pid().into();
    record["process"]["start"] = (stranger.start() - 1).into();
    fs::write(&path, record.to_string()).unwrap();

    let platform = world.open().await;
    let after = running(&platform, &revision, 1).await;
    assert_ne!(after[0].pid, Some(stranger.pid()));
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert!(alive(stranger.pid()), "a stranger that got the number is left alone");
}

#[tokio::test]
async fn a_crash_between_start_and_record_orphans_nothing() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) =
        start(&platform, &world.spec(&["sh", "-c", "setsid sleep 100000 & wait"]), 1).await;
    until("its child", || world.processes().len() == 2).await;
    platform.shutdown().await;
    let (path, mut record) = world.json("/instances/");
    record["process"] = serde_json::Value::Null;
    fs::write(&path, record.to_string()).unwrap();

    let platform = world.open().await;
    let after = running(&platform, &revision, 1).await;
    assert_eq!(after[0].pid, before[0].pid, "found by its mark, and not taken for its child");
    assert_eq!(world.processes().len(), 2, "and not started twice");
}

#[tokio::test]
async fn a_crash_before_the_start_starts_once() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) = start(&platform, &world.sleeper(), 1).await;
    platform.shutdown().await;
    kill(before[0].pid.unwrap(), Signal::KILL);
    until("its end", || world.processes().is_empty()).await;
    let (path, mut record) = world.json("/instances/");
    record["process"] = serde_json::Value::Null;
    fs::write(&path, record.to_string()).unwrap();
    let platform = world.open().await;
    let after = running(&platform, &revision, 1).await;
    assert_eq!((&after[0].id, after[0].address), (&before[0].id, before[0].address));
    assert_eq!(world.processes().len(), 1);
}

#[tokio::test]
async fn after_a_reboot_all_that_is_wanted_starts_unaided() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) = start(&platform, &world.sleeper(), 1).await;
    platform.shutdown().await;
    kill(before[0].pid.unwrap(), Signal::KILL);
    until("its end", || world.processes().is_empty()).await;
    // A process of this boot that has the number and, by chance, the start time of one of an earlier boot.
    let stranger = Stranger::new();
    let (path, mut record) = world.json("/instances/");
    record["process"] =
        serde_json::json!({ "pid": stranger.pid(), "start": stranger.start(), "boot": "another boot" });
    fs::write(&path, record.to_string()).unwrap();
    let platform = world.open().await;
    running(&platform, &revision, 1).await;
    assert_eq!(world.processes().len(), 1);
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert!(alive(stranger.pid()));
}

#[tokio::test]
async fn a_stop_that_was_cut_short_is_finished() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
    local(&mut spec).stop_grace = Span::from_secs(2);
    let (revision, _) = start(&platform, &spec, 1).await;
    observed(&platform, &revision, |seen| seen.instances[0].log == ["ready"]).await;
    let service = shop();
    let retire = platform.retire(fence(1), &service, &revision);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(200), retire).await.is_err());
    let stopping = observed(&platform, &revision, |_| true).await;
    assert_eq!((stopping.desired, stopping.instances[0].state), (0, InstanceState::Stopping));
    platform.shutdown().await;
    assert!(!world.processes().is_empty());

    let platform = world.open().await;
    let stopping = observed(&platform, &revision, |_| true).await;
    assert_eq!(stopping.instances[0].state, InstanceState::Stopping);
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert_eq!(world.processes(), [0u32; 0]);
}

#[tokio::test]
async fn a_second_platform_in_the_same_folder_is_refused() {
    let world = World::new();
    let platform = world.open().await;
    let Err(fault) = LocalPlatform::open(world.state(), quick()).await else { panic!("two at once") };
    assert!(fault.what.contains("another cutover server"), "{fault}");
    platform.shutdown().await;
    world.open().await;
}

#[tokio::test]
async fn a_damaged_record_stops_the_open_and_not_the_instances() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) = start(&platform, &world.sleeper(), 1).await;
    platform.shutdown().await;
    let service = world.state().join("local/services/shop/service.json");
    let good = fs::read(&service).unwrap();
    fs::write(&service, "{\"half").unwrap();
    assert!(LocalPlatform::open(world.state(), quick()).await.is_err());
    fs::remove_file(&service).unwrap();
    assert!(LocalPlatform::open(world.state(), quick()).await.is_err());
    assert!(alive(before[0].pid.unwrap()));
    fs::write(&service, good).unwrap();
    let platform = world.open().await;
    assert_eq!(pids(&running(&platform, &revision, 1).await), pids(&before));
}
