//! Whose listener answers on an instance's address.

use cutover_core::{After, Blame};
use cutover_local::LocalPlatform;
use cutover_ports::{ObservedInstance, Platform};

use super::harness::*;

const LISTEN: &str = "import socket, sys, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind((sys.argv[1], int(sys.argv[2]))); s.listen(); print('on', s.getsockname()[1], flush=True); time.sleep(100000)";

async fn listening(world: &World, platform: &LocalPlatform, command: &[&str]) -> ObservedInstance {
    let (revision, _) = start(platform, &world.spec(command), 1).await;
    let seen = observed(platform, &revision, |seen| {
        seen.instances[0].log.iter().any(|line| line.starts_with("on "))
    })
    .await;
    seen.instances[0].clone()
}

#[tokio::test]
async fn its_own_listener_is_vouched_for_on_any_address_and_from_a_child() {
    for command in [
        vec!["python3", "-c", LISTEN, "127.0.0.1", "$PORT"],
        vec!["python3", "-c", LISTEN, "0.0.0.0", "$PORT"],
        vec!["sh", "-c", "python3 -c \"$0\" 127.0.0.1 $PORT & wait", LISTEN],
    ] {
        let world = World::new();
        let platform = world.open().await;
        let instance = listening(&world, &platform, &command).await;
        for _ in 0..2 {
            platform.vouch(&shop(), &instance.id).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_wrong_port_is_named() {
    let world = World::new();
    let platform = world.open().await;
    let instance = listening(&world, &platform, &["python3", "-c", LISTEN, "127.0.0.1", "0"]).await;
    let wrong = instance.log[0].strip_prefix("on ").unwrap();
    let fault = platform.vouch(&shop(), &instance.id).await.unwrap_err();
    let expected =
        format!("instance {} listens on {wrong} instead of $PORT={}", instance.id, instance.address.port());
    assert_eq!((fault.what, fault.blame, fault.after), (expected, Blame::Candidate, After::Retry));
}

#[tokio::test]
async fn nobody_and_a_stranger_are_told_apart() {
    let world = World::new();
    let platform = world.open().await;
    let (_, instances) = start(&platform, &world.sleeper(), 1).await;
    let (id, address) = (&instances[0].id, instances[0].address);
    let fault = platform.vouch(&shop(), id).await.unwrap_err();
    assert_eq!(
        fault.what,
        format!("instance {id} listens on no port, $PORT={} was expected", address.port())
    );

    let _stranger = std::net::TcpListener::bind(address).unwrap();
    let fault = platform.vouch(&shop(), id).await.unwrap_err();
    assert_eq!(fault.blame, Blame::Platform);
    let me = format!("process {} (", std::process::id());
    assert!(fault.what.contains(&me) && fault.what.contains("listens there instead"), "{fault}");
}

#[tokio::test]
async fn an_unknown_instance_is_not_vouched_for() {
    let world = World::new();
    let platform = world.open().await;
    let fault = platform.vouch(&shop(), &"nobody".into()).await.unwrap_err();
    assert!(fault.what.contains("it is not there"), "{fault}");
}
