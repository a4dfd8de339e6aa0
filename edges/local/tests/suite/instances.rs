//! Starting, watching, restarting and stopping instances.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use cutover_core::{After, Blame, Fence, Size, Span};
use cutover_ports::{InstanceState, Platform};
use rustix::process::Signal;

use super::harness::*;

#[tokio::test]
async fn every_call_twice_is_as_once() {
    let world = World::new();
    let platform = world.open().await;
    let spec = world.sleeper();
    let revision = platform.identify(&spec).await.unwrap();
    for _ in 0..2 {
        assert_eq!(platform.identify(&spec).await.unwrap(), revision);
        platform.losses(&spec).await.unwrap();
        platform.preflight(&spec, &revision).await.unwrap();
        platform.build(fence(1), &spec, &revision).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        platform.ensure(fence(2), &shop(), &revision, 2).await.unwrap();
        seen.extend(pids(&running(&platform, &revision, 2).await));
        assert_eq!(platform.logs(&shop(), &revision, 5).await.unwrap().len(), 2);
    }
    assert_eq!(seen.len(), 2, "the second ensure starts nothing");
    let observed = platform.observe(&shop()).await.unwrap();
    assert_eq!((observed.len(), observed[0].desired, observed[0].instances[0].why.as_str()), (1, 2, ""));
    for _ in 0..2 {
        platform.retire(fence(3), &shop(), &revision).await.unwrap();
        assert!(platform.observe(&shop()).await.unwrap().is_empty());
        assert_eq!(world.processes(), [0u32; 0], "retire returns when none is left");
    }
    assert_eq!(platform.logs(&shop(), &revision, 5).await.unwrap().len(), 2, "logs outlive their instances");
}

#[tokio::test]
async fn an_instance_gets_a_cleared_environment_and_nothing_of_the_server() {
    let world = World::new();
    let platform = world.open().await;
    // A descriptor that is not closed on exec, as a library or whoever started the server may leave.
    let _inherited = rustix::io::dup(fs::File::open("/dev/null").unwrap()).unwrap();
    let (revision, instances) = start(&platform, &world.sleeper(), 1).await;
    let (pid, port) = (instances[0].pid.unwrap(), instances[0].address.port());
    let environment = environment(pid);
    let names: Vec<&str> = environment.iter().map(|variable| variable.split('=').next().unwrap()).collect();
    assert_eq!(
        names,
        ["CUTOVER_INSTANCE", "CUTOVER_REVISION", "CUTOVER_SERVICE", "HOME", "LANG", "PATH", "PORT", "WORLD"]
    );
    for expected in
        [format!("PORT={port}"), "CUTOVER_SERVICE=shop".into(), format!("CUTOVER_REVISION={revision}")]
    {
        assert!(environment.contains(&expected), "{expected}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"));
    let mut descriptors: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    descriptors.sort();
    assert_eq!(descriptors, ["0", "1", "2"]);
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap().to_str(), Some("/dev/null"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: u32 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, pid, "a session of its own");
}

#[tokio::test]
async fn the_port_is_in_the_arguments_and_the_output_in_the_log() {
    let world = World::new();
    let platform = world.open().await;
    let spec = world.spec(&[
        "sh",
        "-c",
        "echo got $0 $1; echo oops >&2; exec sleep 100000",
        "--port=$PORT",
        "${PORT}",
    ]);
    let (revision, instances) = start(&platform, &spec, 1).await;
    let port = instances[0].address.port();
    let expected = [format!("got --port={port} {port}"), "oops".to_string()];
    observed(&platform, &revision, |seen| seen.instances[0].log == expected).await;
}

#[tokio::test]
async fn what_dies_is_started_again_on_its_port() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) = start(&platform, &world.sleeper(), 2).await;
    kill(before[0].pid.unwrap(), Signal::SEGV);
    let after = observed(&platform, &revision, |seen| {
        seen.instances[0].restarts == 1 && seen.instances[0].pid.is_some()
    })
    .await;
    let (old, new) = (&before[0], &after.instances[0]);
    assert_eq!((&old.id, old.address), (&new.id, new.address));
    assert_ne!(old.pid, new.pid);
    assert_eq!(after.instances[1].pid, before[1].pid, "the other is not disturbed");
    observed(&platform, &revision, |seen| {
        seen.instances[0].log.iter().any(|line| line.contains("killed by signal 11 (SEGV)"))
    })
    .await;
}

#[tokio::test]
async fn a_crash_loop_is_told_with_its_reason_and_last_lines() {
    let world = World::new();
    let platform = world.open().await;
    let spec =
        world.spec(&["sh", "-c", "for i in 1 2 3 4 5 6 7; do echo line $i; done; echo no database; exit 3"]);
    let revision = store(&platform, &spec).await;
    platform.ensure(fence(1), &shop(), &revision, 1).await.unwrap();
    let restarting =
        observed(&platform, &revision, |seen| seen.instances[0].state == InstanceState::Restarting).await;
    assert_eq!((restarting.instances[0].why.as_str(), restarting.instances[0].pid), ("exit status 3", None));
    let looping =
        observed(&platform, &revision, |seen| seen.instances[0].state == InstanceState::CrashLoop).await;
    let instance = &looping.instances[0];
    assert_eq!(instance.why, "exit status 3");
    assert!(instance.restarts >= 4, "{instance:?}");
    assert!(
        instance.log.len() == 20 && instance.log.contains(&"no database".to_string()),
        "{:?}",
        instance.log
    );
    observed(&platform, &revision, |seen| seen.instances[0].restarts > instance.restarts).await;
    let fault = platform.vouch(&shop(), &instance.id).await;
    assert!(fault.is_err());
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert_eq!(world.processes(), [0u32; 0]);
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let world = World::new();
    let platform = world.open().await;
    let revision = store(&platform, &world.spec(&["./missing"])).await;
    for _ in 0..2 {
        let fault = platform.ensure(fence(1), &shop(), &revision, 1).await.unwrap_err();
        assert_eq!((fault.blame, fault.after), (Blame::Candidate, After::Final));
        assert_eq!(fault.what, "could not start ./missing: No such file or directory (os error 2)");
    }
    let seen = observed(&platform, &revision, |seen| seen.instances[0].state != InstanceState::Running).await;
    assert!(seen.instances[0].why.starts_with("could not start ./missing"), "{seen:?}");
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_ignores_its_stop_signal_is_killed_after_the_grace() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]);
    local(&mut spec).stop_grace = Span::from_ms(300);
    let (revision, _) = start(&platform, &spec, 1).await;
    observed(&platform, &revision, |seen| seen.instances[0].log == ["ready"]).await;
    let begin = Instant::now();
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert!(begin.elapsed().as_millis() >= 300, "the grace is given");
    assert_eq!(world.processes(), [0u32; 0]);
    let log = platform.logs(&shop(), &revision, 20).await.unwrap().remove(0).1;
    assert!(log.last().unwrap().contains("did not stop on signal 15 within 300 ms: killed"), "{log:?}");
}

#[tokio::test]
async fn the_stop_signal_of_the_file_is_sent_and_an_end_in_time_is_no_kill() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "trap 'echo bye; exit 0' USR1; trap '' TERM; echo ready; while :; do sleep 0.01; done",
    ]);
    local(&mut spec).stop_signal = cutover_core::file::StopSignal::Usr1;
    let (revision, _) = start(&platform, &spec, 1).await;
    observed(&platform, &revision, |seen| seen.instances[0].log == ["ready"]).await;
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    let log = platform.logs(&shop(), &revision, 20).await.unwrap().remove(0).1;
    assert!(
        log[1] == "bye" && log[2].contains("stopped after") && log[2].contains("exit status 0"),
        "{log:?}"
    );
}

#[tokio::test]
async fn children_die_with_their_instance_even_outside_its_session() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "sleep 100000 & setsid sleep 100000 & (trap '' TERM; setsid sleep 100001) & wait",
    ]);
    local(&mut spec).stop_grace = Span::from_ms(500);
    let (revision, _) = start(&platform, &spec, 1).await;
    // sh, its subshell where it stays, and three sleeps of which two lead sessions of their own.
    until("all its processes", || world.processes().len() >= 4).await;
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert_eq!(world.processes(), [0u32; 0]);
}

#[tokio::test]
async fn what_a_crash_leaves_behind_is_killed_before_the_restart() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, instances) = start(&platform, &world.spec(&["sh", "-c", "sleep 100000 & wait"]), 1).await;
    until("its child", || world.processes().len() == 2).await;
    let before = world.processes();
    kill(instances[0].pid.unwrap(), Signal::KILL);
    observed(&platform, &revision, |seen| seen.instances[0].restarts == 1 && seen.instances[0].pid.is_some())
        .await;
    assert!(before.iter().all(|pid| !alive(*pid)));
}

#[tokio::test]
async fn fewer_instances_are_wanted_and_the_rest_stops() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, three) = start(&platform, &world.sleeper(), 3).await;
    platform.ensure(fence(1), &shop(), &revision, 1).await.unwrap();
    let one = running(&platform, &revision, 1).await;
    assert_eq!(one[0].pid, three[0].pid, "the first stays");
    platform.ensure(fence(1), &shop(), &revision, 2).await.unwrap();
    let two = running(&platform, &revision, 2).await;
    assert_eq!(two[0].pid, three[0].pid);
    assert!(three.iter().skip(1).all(|old| old.id != two[1].id), "a new instance is no old one");
    platform.ensure(fence(1), &shop(), &revision, 0).await.unwrap();
    until("the end of all", || world.processes().is_empty()).await;
    // The last process is gone a moment before its record is.
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    assert!(platform.observe(&shop()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lower_fence_changes_nothing() {
    let world = World::new();
    let platform = world.open().await;
    let spec = world.sleeper();
    let (revision, before) = start(&platform, &spec, 1).await;
    platform.ensure(Fence { epoch: 2, sequence: 5 }, &shop(), &revision, 1).await.unwrap();
    for low in [Fence { epoch: 1, sequence: 99 }, Fence { epoch: 2, sequence: 4 }] {
        let faults = [
            platform.ensure(low, &shop(), &revision, 3).await.unwrap_err(),
            platform.retire(low, &shop(), &revision).await.unwrap_err(),
            platform.build(low, &spec, &revision).await.unwrap_err(),
        ];
        assert!(faults.iter().all(|fault| fault.after == After::Fenced), "{faults:?}");
    }
    assert_eq!(pids(&running(&platform, &revision, 1).await), pids(&before));
    platform.shutdown().await;
    let platform = world.open().await;
    let fault = platform.ensure(fence(99), &shop(), &revision, 3).await.unwrap_err();
    assert_eq!(fault.after, After::Fenced, "the next server knows it too");
    let other = "other".into();
    platform.retire(fence(1), &other, &revision).await.unwrap();
}

#[tokio::test]
async fn a_port_stays_with_its_instance_until_it_is_gone() {
    let world = World::new();
    let platform = world.open().await;
    // Nothing listens on any of these ports, so the operating system would offer them again.
    let (revision, first) = start(&platform, &world.sleeper(), 8).await;
    let ports: BTreeSet<u16> = first.iter().map(|one| one.address.port()).collect();
    assert_eq!(ports.len(), 8);
    let other = start(&platform, &world.spec(&["sleep", "100001"]), 8).await.1;
    assert!(other.iter().all(|one| !ports.contains(&one.address.port())));
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
}

#[tokio::test]
async fn a_port_that_a_stranger_took_is_given_up_at_the_restart() {
    let world = World::new();
    let platform = world.open().await;
    let (revision, before) = start(&platform, &world.sleeper(), 1).await;
    let stranger = std::net::TcpListener::bind(before[0].address).unwrap();
    kill(before[0].pid.unwrap(), Signal::KILL);
    let after = observed(&platform, &revision, |seen| {
        seen.instances[0].restarts == 1 && seen.instances[0].pid.is_some()
    })
    .await;
    let (id, address) = (&after.instances[0].id, after.instances[0].address);
    assert!(*id == before[0].id && address != stranger.local_addr().unwrap());
    assert!(environment(after.instances[0].pid.unwrap()).contains(&format!("PORT={}", address.port())));
}

#[tokio::test]
async fn a_log_keeps_within_its_size() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.spec(&[
        "sh",
        "-c",
        "i=0; while :; do echo line $i; i=$((i+1)); [ $((i % 200)) = 0 ] && sleep 0.01; done",
    ]);
    local(&mut spec).log_size = Size::from_bytes(40_000);
    let (revision, _) = start(&platform, &spec, 1).await;
    let logs = world.state().join("local/services/shop/logs");
    let number = |line: &String| line.strip_prefix("line ").and_then(|number| number.parse::<u64>().ok());
    let mut most = 0;
    let begin = Instant::now();
    loop {
        most = most.max(
            files(&logs)
                .iter()
                .filter_map(|path| fs::metadata(path).ok())
                .map(|file| file.len())
                .sum::<u64>(),
        );
        let seen = observed(&platform, &revision, |_| true).await;
        // 100,000 lines are more than thirty times the size.
        if seen.instances[0].log.iter().filter_map(number).any(|number| number > 100_000) {
            break;
        }
        assert!(begin.elapsed().as_secs() < 60);
    }
    // What comes in between two looks at the size goes over it.
    assert!(most < 150_000, "{most} bytes");
}

#[tokio::test]
async fn a_flood_of_a_gigabyte_ends_within_the_size_and_the_process_lives() {
    let world = World::new();
    let platform = world.open().await;
    let flood = "yes 'a line of the flood, as long as lines are' | head -c 1G; echo; echo the last line; exec sleep 100000";
    let mut spec = world.spec(&["sh", "-c", flood]);
    local(&mut spec).log_size = Size::from_bytes(8 << 20);
    let (revision, before) = start(&platform, &spec, 1).await;
    let logs = world.state().join("local/services/shop/logs");
    let size =
        || files(&logs).iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum::<u64>();
    let most = std::cell::Cell::new(0);
    let ended = observed(&platform, &revision, |seen| {
        most.set(size().max(most.get()));
        seen.instances[0].log.last().is_some_and(|line| line == "the last line")
    })
    .await;
    until("the log to be cut", || size() <= 8 << 20).await;
    println!("at most {} MiB of log while 1 GiB was written", most.get() >> 20);
    let after = observed(&platform, &revision, |_| true).await;
    assert_eq!((after.instances[0].pid, after.instances[0].restarts), (before[0].pid, 0));
    assert_eq!(after.instances[0].log.last().unwrap(), "the last line");
    assert!(ended.instances[0].log[1].contains("a line of the flood"), "{ended:?}");
}

#[tokio::test]
async fn a_user_is_taken_on_with_its_groups_where_the_server_may() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may run instances as another user");
        return;
    }
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.sleeper();
    local(&mut spec).user = Some("nobody".into());
    let (_, instances) = start(&platform, &spec, 1).await;
    let status = fs::read_to_string(format!("/proc/{}/status", instances[0].pid.unwrap())).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert!(field("Uid:").iter().all(|uid| *uid == "65534"), "{status}");
    assert!(field("Gid:").iter().all(|gid| *gid == "65534"), "{status}");
    assert!(!field("Groups:").contains(&"0"), "{status}");
    local(&mut spec).user = Some("no-such-user".into());
    let revision = store(&platform, &spec).await;
    let fault = platform.ensure(fence(1), &shop(), &revision, 1).await.unwrap_err();
    assert_eq!((fault.blame, fault.after), (Blame::Configuration, After::Final));
}

#[tokio::test]
async fn an_instance_that_is_started_again_is_stopped_first_and_keeps_its_port() {
    let world = World::new();
    let platform = world.open().await;
    world.script("serve", "trap 'echo asked; exit 0' TERM\nwhile :; do sleep 0.05; done\n");
    let (revision, before) = start(&platform, &world.spec(&["./serve"]), 2).await;
    let (old, other) = (before[0].pid.unwrap(), before[1].pid.unwrap());
    let why = "GET /live failed 3 times in a row: no answer within 2s";
    platform.restart(fence(2), &shop(), &before[0].id, why).await.unwrap();
    let again = observed(&platform, &revision, |seen| {
        seen.instances[0].pid.is_some_and(|pid| pid != old)
            && seen.instances[0].state == InstanceState::Running
    });
    let seen = again.await.instances;
    assert_eq!((seen[0].id.as_str(), seen[0].address), (before[0].id.as_str(), before[0].address));
    assert_eq!((seen[0].restarts, seen[0].ended.as_str(), seen[1].pid), (1, why, Some(other)));
    assert!(!alive(old), "nothing is left of the one before");
    let log = platform.logs(&shop(), &revision, 20).await.unwrap();
    let log = log.into_iter().find(|(id, _)| *id == before[0].id).unwrap().1.join("\n");
    assert!(log.contains("asked") && log.contains(why), "{log}");
    // An older driver starts nothing again, and nobody misses one that is gone.
    assert_eq!(
        platform.restart(fence(1), &shop(), &before[0].id, why).await.unwrap_err().after,
        After::Fenced
    );
    platform.restart(fence(3), &shop(), &"gone".into(), why).await.unwrap();
    platform.retire(fence(4), &shop(), &revision).await.unwrap();
}
