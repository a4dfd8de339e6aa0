//! Limits by control groups, and what is said of an instance that the kernel killed for memory.

use std::fs;
use std::path::PathBuf;

use cutover_core::{Cores, Size};
use cutover_local::{LocalPlatform, Options};
use cutover_ports::{InstanceState, Platform, RevisionSpec};

use super::harness::*;

/// Tells whether this machine limits what the spec asks for; says it in one line where it does not.
async fn limited(test: &str, platform: &LocalPlatform, spec: &RevisionSpec) -> bool {
    let losses = platform.losses(spec).await.unwrap();
    let not = losses.iter().find(|loss| loss.starts_with("not limited on this machine"));
    if let Some(not) = not {
        println!("skipped: {test}: {not}");
    }
    not.is_none()
}

/// Returns the instance's folder in the hierarchy that has the file.
fn group(pid: u32, file: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let paths: Vec<&str> = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mounts =
        mounts.lines().filter(|line| line.contains(" cgroup")).filter_map(|line| line.split(' ').nth(1));
    mounts
        .flat_map(|mount| paths.iter().map(move |path| PathBuf::from(format!("{mount}{path}"))))
        .find(|folder| folder.to_string_lossy().contains("/cutover-") && folder.join(file).exists())
}

#[tokio::test]
async fn an_instance_beyond_its_memory_is_killed_and_that_is_what_is_said() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&["sh", "-c", "echo begins; exec tail /dev/zero"]);
    local(&mut spec).memory = Some(Size::from_bytes(24 << 20));
    if !limited("an_instance_beyond_its_memory", &platform, &spec).await {
        return;
    }
    let losses = platform.losses(&spec).await.unwrap();
    assert!(
        losses.iter().any(|loss| loss.starts_with("an instance that goes beyond 24Mi of memory is killed"))
    );
    let (revision, _) = (store(&platform, &spec).await, ());
    platform.ensure(fence(1), &shop(), &revision, 1).await.unwrap();
    let seen = observed(&platform, &revision, |seen| {
        matches!(seen.instances[0].state, InstanceState::Restarting | InstanceState::CrashLoop)
            && seen.instances[0].why.contains("memory")
    })
    .await;
    assert_eq!(
        seen.instances[0].why,
        "killed by signal 9 (KILL), out of memory: it went beyond its limit of 24Mi (platform.local.memory)"
    );
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
}

#[tokio::test]
async fn an_adopted_instance_keeps_its_limit_and_its_reason() {
    let world = World::new();
    let platform = world.open().await;
    let go = world.base().join("go");
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done; exec tail /dev/zero", go.display());
    let mut spec = world.spec(&["sh", "-c", &waits]);
    local(&mut spec).memory = Some(Size::from_bytes(24 << 20));
    if !limited("an_adopted_instance_keeps_its_limit", &platform, &spec).await {
        return;
    }
    let (revision, _) = start(&platform, &spec, 1).await;
    platform.shutdown().await;
    let platform = world.open().await;
    running(&platform, &revision, 1).await;
    fs::write(&go, "").unwrap();
    let seen = observed(&platform, &revision, |seen| seen.instances[0].why.contains("memory")).await;
    assert!(seen.instances[0].why.contains("beyond its limit of 24Mi"), "{seen:?}");
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
}

#[tokio::test]
async fn a_killed_worker_of_an_instance_that_lives_on_is_noted_in_its_log() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&["sh", "-c", "tail /dev/zero; echo my worker is gone; exec sleep 100000"]);
    local(&mut spec).memory = Some(Size::from_bytes(24 << 20));
    if !limited("a_killed_worker_of_an_instance", &platform, &spec).await {
        return;
    }
    let (revision, before) = start(&platform, &spec, 1).await;
    let seen = observed(&platform, &revision, |seen| {
        seen.instances[0].log.iter().any(|line| line.starts_with("[cutover] one of its processes was killed"))
    })
    .await;
    assert_eq!((seen.instances[0].pid, seen.instances[0].restarts), (before[0].pid, 0));
    assert!(seen.instances[0].why.is_empty(), "it runs");
}

#[tokio::test]
async fn processor_time_and_processes_are_limited() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&["sh", "-c", "while :; do :; done"]);
    local(&mut spec).cpu = Some(Cores::from_milli(50));
    local(&mut spec).pids = Some(7);
    if !limited("processor_time_and_processes_are_limited", &platform, &spec).await {
        return;
    }
    let (revision, instances) = start(&platform, &spec, 1).await;
    let pid = instances[0].pid.unwrap();
    let pids = group(pid, "pids.max").unwrap();
    assert_eq!(fs::read_to_string(pids.join("pids.max")).unwrap().trim(), "7");
    // Only the processor's group counts how often it had to wait.
    let throttled = || {
        let groups = ["cpu.max", "cpu.cfs_quota_us"].into_iter().find_map(|file| group(pid, file)).unwrap();
        let stat = fs::read_to_string(groups.join("cpu.stat")).unwrap();
        let times = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        times.and_then(|times| times.trim().parse::<u64>().ok()).unwrap()
    };
    until("it to be held back", || throttled() > 2).await;
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert!(!pids.exists(), "its groups go with it");
}

#[tokio::test]
async fn what_left_session_and_environment_is_still_stopped_with_its_instance() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&["sh", "-c", "env -i setsid -f sleep 98765; exec sleep 100000"]);
    local(&mut spec).pids = Some(50);
    if !limited("what_left_session_and_environment", &platform, &spec).await {
        return;
    }
    let stray = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut found = pids.filter(|pid| group(*pid, "pids.max").is_some());
        found.find(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x0098765\0")
        })
    };
    let (revision, _) = start(&platform, &spec, 1).await;
    until("the stray", || stray().is_some()).await;
    let pid = stray().unwrap();
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert!(!alive(pid));
}

#[tokio::test]
async fn where_nothing_can_be_limited_the_plan_says_so() {
    let world = World::new();
    let options = Options { cgroups: false, shared_cgroup: Some("/job/7".into()), ..quick() };
    let platform = LocalPlatform::open(world.state(), options).await.unwrap();
    let mut spec = world.sleeper();
    (local(&mut spec).memory, local(&mut spec).cpu) =
        (Some(Size::from_bytes(64 << 20)), Some(Cores::from_milli(500)));
    let losses = platform.losses(&spec).await.unwrap().split_off(1);
    assert_eq!(losses.len(), 2);
    assert!(losses[0].starts_with("not limited on this machine: memory: 64Mi, cpu: 0.5; "), "{losses:?}");
    assert!(losses[1].starts_with("cutover shares the cgroup /job/7 with what started it: "), "{losses:?}");
    let (revision, _) = start(&platform, &spec, 1).await;
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
}
