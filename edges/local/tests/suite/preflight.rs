//! What keeps a candidate from starting is said before anything starts.

use std::fs;

use cutover_core::{Blame, Fault, Size};
use cutover_ports::{Platform, RevisionSpec};

use super::harness::*;

async fn refused(world: &World, spec: &RevisionSpec) -> Fault {
    let platform = world.open().await;
    let fault = platform.preflight(spec, &"r-000000000000".into()).await.unwrap_err();
    assert!(!fault.hint.is_empty(), "{fault:?}");
    fault
}

#[tokio::test]
async fn what_fits_is_told_in_a_line() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.sleeper();
    (local(&mut spec).memory, local(&mut spec).replicas) = (Some(Size::from_bytes(4 << 20)), 2);
    let revision = platform.identify(&spec).await.unwrap();
    for _ in 0..2 {
        let line = platform.preflight(&spec, &revision).await.unwrap();
        assert!(line.starts_with("2 instances need 8Mi, ") && line.ends_with(" available"), "{line}");
    }
    platform.build(fence(1), &spec, &revision).await.unwrap();
    platform.ensure(fence(1), &shop(), &revision, 2).await.unwrap();
    running(&platform, &revision, 2).await;
    let line = platform.preflight(&spec, &revision).await.unwrap();
    assert!(line.contains("run already"), "what runs already needs nothing more: {line}");

    let mut next = world.spec(&["sleep", "100001"]);
    local(&mut next).replicas = 2;
    let line = platform.preflight(&next, &platform.identify(&next).await.unwrap()).await.unwrap();
    assert!(line.starts_with("2 instances need ") && line.contains("(by what runs now)"), "{line}");
}

#[tokio::test]
async fn too_little_memory_is_told_with_numbers() {
    let world = World::new();
    let mut spec = world.sleeper();
    (local(&mut spec).memory, local(&mut spec).replicas) = (Some(Size::from_bytes(1 << 50)), 2);
    let fault = refused(&world, &spec).await;
    assert_eq!(fault.blame, Blame::Platform);
    assert!(fault.what.starts_with("find memory: 2 instances need 2097152Gi, "), "{fault}");
}

#[tokio::test]
async fn a_full_disk_is_told_with_numbers() {
    let world = World::new();
    let mut spec = world.sleeper();
    local(&mut spec).log_size = Size::from_bytes(1 << 60);
    let fault = refused(&world, &spec).await;
    assert!(fault.blame == Blame::Platform && fault.what.starts_with("find disk space in "), "{fault}");
}

#[tokio::test]
async fn a_program_that_is_not_there_or_not_executable_is_named() {
    let world = World::new();
    fs::write(world.base().join("plain"), "#!/bin/sh\n").unwrap();
    for (program, why) in [
        ("./missing", "find program ./missing: not in "),
        ("no-such-program", "find program no-such-program: not in PATH"),
        ("./plain", "plain: not executable"),
    ] {
        let fault = refused(&world, &world.spec(&[program])).await;
        assert!(fault.blame == Blame::Configuration && fault.what.contains(why), "{fault}");
    }
    world.script("server", "exec sleep 100000");
    let mut spec = world.spec(&["./server"]);
    local(&mut spec).artifact = Some("plain".into());
    let fault = refused(&world, &spec).await;
    assert!(fault.what.contains("it is not part of artifact plain"), "{fault}");
}

#[tokio::test]
async fn a_missing_artifact_is_named() {
    let world = World::new();
    let mut spec = world.sleeper();
    local(&mut spec).artifact = Some("target/release/shop".into());
    let fault = refused(&world, &spec).await;
    assert!(
        fault.blame == Blame::Configuration
            && fault.what.contains("target/release/shop: no such file or folder"),
        "{fault}"
    );
}

#[tokio::test]
async fn a_user_that_is_not_there_or_is_shut_out_is_named() {
    let world = World::new();
    let mut spec = world.sleeper();
    local(&mut spec).user = Some("no-such-user".into());
    let fault = refused(&world, &spec).await;
    assert!(
        fault.blame == Blame::Configuration && fault.what.contains("no such user on this machine"),
        "{fault}"
    );
    if rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt;
        local(&mut spec).user = Some("nobody".into());
        fs::set_permissions(world.base(), fs::Permissions::from_mode(0o700)).unwrap();
        let fault = refused(&world, &spec).await;
        assert!(fault.what.contains("it may not enter") && fault.what.contains("base"), "{fault}");
        world.script("shop", "exec sleep 100000");
        local(&mut spec).artifact = Some("shop".into());
        world.open().await.preflight(&spec, &"r-000000000000".into()).await.unwrap();
        fs::set_permissions(world.state(), fs::Permissions::from_mode(0o700)).unwrap();
        let fault = refused(&world, &spec).await;
        assert!(fault.what.contains("it may not enter") && fault.what.contains("state"), "{fault}");
    }
}

#[tokio::test]
async fn a_stored_revision_needs_its_artifact_no_more() {
    let world = World::new();
    let platform = world.open().await;
    world.script("shop", "exec sleep 100000");
    let mut spec = world.spec(&["./shop"]);
    local(&mut spec).artifact = Some("shop".into());
    let revision = store(&platform, &spec).await;
    fs::remove_file(world.base().join("shop")).unwrap();
    platform.preflight(&spec, &revision).await.unwrap();
}
