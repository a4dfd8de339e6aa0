//! Kills a real process that owns the platform, at any moment.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cutover_local::LocalPlatform;
use cutover_ports::Platform;

use super::harness::*;

const STATE: &str = "CUTOVER_TEST_STATE";
const COUNT: u32 = 3;

/// Not a test but the server of the tests below: they start this binary anew with the variable set.
#[tokio::test]
async fn as_server() {
    let Some(state) = std::env::var_os(STATE).map(PathBuf::from) else { return };
    let platform = LocalPlatform::open(state.clone(), quick()).await.unwrap();
    let revision = std::fs::read_to_string(state.join("revision")).unwrap();
    platform.ensure(fence(1), &shop(), &revision.as_str().into(), COUNT).await.unwrap();
    std::fs::write(state.join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

fn server(world: &World) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "suite::server_death::as_server", "--test-threads=1"]).env(STATE, world.state());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap()
}

#[tokio::test]
async fn killing_the_server_disturbs_no_instance() {
    let world = World::new();
    let platform = world.open().await;
    let revision = store(&platform, &world.sleeper()).await;
    platform.shutdown().await;
    std::fs::write(world.state().join("revision"), revision.as_str()).unwrap();
    let mut server = server(&world);
    until("the server's instances", || world.state().join("ready").exists()).await;
    let before: BTreeSet<u32> = world.processes().into_iter().collect();
    server.kill().unwrap();
    server.wait().unwrap();
    let platform = world.open().await;
    let after = pids(&running(&platform, &revision, COUNT as usize).await);
    assert_eq!(after.into_iter().collect::<BTreeSet<_>>(), before);
}

#[tokio::test]
async fn killing_the_server_at_any_moment_orphans_and_doubles_nothing() {
    let world = World::new();
    let platform = world.open().await;
    let revision = store(&platform, &world.sleeper()).await;
    platform.shutdown().await;
    std::fs::write(world.state().join("revision"), revision.as_str()).unwrap();
    for round in 0..12u64 {
        let mut server = server(&world);
        // Waiting is the point: the moment of death differs from round to round.
        tokio::time::sleep(Duration::from_millis(5 + round * 7)).await;
        server.kill().unwrap();
        server.wait().unwrap();
        let platform = world.open().await;
        platform.ensure(fence(1), &shop(), &revision, COUNT).await.unwrap();
        let seen: BTreeSet<u32> =
            pids(&running(&platform, &revision, COUNT as usize).await).into_iter().collect();
        let all: BTreeSet<u32> = world.processes().into_iter().collect();
        assert_eq!(all, seen, "round {round}");
        platform.retire(fence(1), &shop(), &revision).await.unwrap();
        assert_eq!(world.processes(), [0u32; 0], "round {round}");
        platform.shutdown().await;
    }
}
