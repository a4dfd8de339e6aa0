//! The revision store.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cutover_core::{After, Blame, Cores, Size, Span};
use cutover_local::{LocalPlatform, Options};
use cutover_ports::Platform;
use rustix::process::Signal;

use super::harness::*;

#[tokio::test]
async fn the_identity_is_the_content() {
    let world = World::new();
    let platform = world.open().await;
    fs::create_dir(world.base().join("app")).unwrap();
    fs::write(world.base().join("app/data"), "1").unwrap();
    let mut spec = world.sleeper();
    local(&mut spec).artifact = Some("app".into());
    secret(&mut spec, "TOKEN", "a");
    let first = platform.identify(&spec).await.unwrap();
    assert_eq!(platform.identify(&spec).await.unwrap(), first);
    assert!(first.as_str().len() == 14 && first.as_str().starts_with("r-"), "{first}");

    let mut same = spec.clone();
    (local(&mut same).replicas, local(&mut same).log_size) = (7, Size::from_bytes(5));
    assert_eq!(platform.identify(&same).await.unwrap(), first, "how many run is not what runs");

    let mut seen = vec![first];
    let mut changes = Vec::new();
    for _ in 0..9 {
        changes.push(spec.clone());
    }
    local(&mut changes[0]).env.insert("LOG".into(), "debug".into());
    local(&mut changes[1]).command.push("1".into());
    local(&mut changes[2]).stop_grace = Span::from_secs(21);
    local(&mut changes[3]).user = Some("root".into());
    secret(&mut changes[4], "TOKEN", "b");
    changes[5].service = "other".into();
    local(&mut changes[6]).memory = Some(Size::from_bytes(64 << 20));
    local(&mut changes[7]).cpu = Some(Cores::from_milli(500));
    local(&mut changes[8]).pids = Some(100);
    for change in &changes {
        seen.push(platform.identify(change).await.unwrap());
    }
    fs::write(world.base().join("app/data"), "2").unwrap();
    seen.push(platform.identify(&spec).await.unwrap());
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 11, "each change makes another revision");
}

#[tokio::test]
async fn without_an_artifact_the_program_counts_and_the_loss_is_named() {
    let world = World::new();
    let platform = world.open().await;
    world.script("run", "exec sleep 100000");
    let mut spec = world.spec(&["./run"]);
    let first = platform.identify(&spec).await.unwrap();
    world.script("run", "exec sleep 100001");
    assert_ne!(platform.identify(&spec).await.unwrap(), first);
    let losses = platform.losses(&spec).await.unwrap();
    assert_eq!(losses.len(), 1);
    assert!(
        losses[0].starts_with("no artifact: the files in ") && losses[0].contains("are used as they are"),
        "{losses:?}"
    );
    local(&mut spec).artifact = Some("run".into());
    assert_eq!(platform.losses(&spec).await.unwrap(), Vec::<String>::new());
    std::os::unix::fs::symlink("/etc/hostname", world.base().join("out")).unwrap();
    local(&mut spec).artifact = Some(".".into());
    assert!(platform.losses(&spec).await.unwrap()[0].contains("(out)"));
}

#[tokio::test]
async fn overwriting_or_deleting_the_artifact_touches_nothing_that_runs_or_can_run_again() {
    let world = World::new();
    let platform = world.open().await;
    world.script("shop", "echo first; exec sleep 100000");
    let mut spec = world.spec(&["./shop"]);
    local(&mut spec).artifact = Some("shop".into());
    let (first, instances) = start(&platform, &spec, 1).await;
    world.script("shop", "echo second; exec sleep 100000");
    let second = store(&platform, &spec).await;
    assert_ne!(first, second);
    fs::remove_file(world.base().join("shop")).unwrap();

    kill(instances[0].pid.unwrap(), Signal::KILL);
    let restarted = observed(&platform, &first, |seen| {
        seen.instances[0].restarts == 1 && seen.instances[0].pid.is_some()
    })
    .await;
    let firsts = || async { platform.logs(&shop(), &first, 20).await.unwrap().remove(0).1 };
    let id = restarted.instances[0].id.clone();
    observed(&platform, &first, |seen| {
        seen.instances[0].log.iter().filter(|line| *line == "first").count() == 2
    })
    .await;
    assert!(!firsts().await.contains(&"second".to_string()), "{id} runs what it was made from");

    let again = platform.spec(&first).await.unwrap();
    assert_eq!((again.platform.clone(), again.base), (spec.platform.clone(), spec.base.clone()));
    assert_eq!(platform.build(fence(1), &spec, &first).await.unwrap(), format!("{first} is stored already"));
    platform.retire(fence(1), &shop(), &first).await.unwrap();
    platform.ensure(fence(1), &shop(), &first, 1).await.unwrap();
    running(&platform, &first, 1).await;
}

#[tokio::test]
async fn a_new_number_of_replicas_is_remembered_for_a_rollback() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.sleeper();
    let revision = store(&platform, &spec).await;
    local(&mut spec).replicas = 3;
    assert_eq!(store(&platform, &spec).await, revision);
    assert_eq!(platform.spec(&revision).await.unwrap().platform.replicas(), 3);
}

#[tokio::test]
async fn secrets_are_sealed_and_reach_the_environment_alone() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.sleeper();
    secret(&mut spec, "TOKEN", "swordfish-93");
    let (revision, instances) = start(&platform, &spec, 1).await;
    let pid = instances[0].pid.unwrap();
    assert!(environment(pid).contains(&"TOKEN=swordfish-93".to_string()));
    assert!(!fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("swordfish"));

    let holding: Vec<_> = files(&world.state())
        .into_iter()
        .filter(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).contains("swordfish"))
        .collect();
    assert_eq!(holding.len(), 1, "{holding:?}");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&holding[0]), mode(holding[0].parent().unwrap())), (0o600, 0o700));
    assert!(platform.spec(&revision).await.unwrap().secrets.is_empty());
    assert!(!format!("{:?}", platform.observe(&shop()).await.unwrap()).contains("swordfish"));

    platform.shutdown().await;
    let platform = world.open().await;
    kill(pid, Signal::KILL);
    let again =
        observed(&platform, &revision, |seen| seen.instances[0].pid.is_some_and(|now| now != pid)).await;
    let environment = environment(again.instances[0].pid.unwrap());
    assert!(
        environment.contains(&"TOKEN=swordfish-93".to_string()),
        "a restart by another server has it too"
    );
}

#[tokio::test]
async fn a_missing_secret_is_named_until_it_was_sealed() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.sleeper();
    local(&mut spec).secrets = vec!["TOKEN".into()];
    for _ in 0..2 {
        let fault = platform.identify(&spec).await.unwrap_err();
        assert_eq!((fault.blame, fault.after), (Blame::Configuration, After::Final));
        assert!(fault.what.contains("TOKEN") && fault.hint.contains("TOKEN"), "{fault:?}");
    }
    let mut known = spec.clone();
    secret(&mut known, "TOKEN", "a");
    let revision = platform.identify(&known).await.unwrap();
    assert_eq!(platform.identify(&spec).await.unwrap(), revision);
    platform.build(fence(1), &spec, &revision).await.unwrap();
    platform.ensure(fence(1), &shop(), &revision, 1).await.unwrap();
    secret(&mut known, "TOKEN", "b");
    platform.identify(&known).await.unwrap();
    assert!(platform.identify(&spec).await.is_err(), "between two sealed values none is guessed");
}

#[tokio::test]
async fn an_artifact_that_changes_is_not_stored_as_something_else() {
    let world = World::new();
    let platform = world.open().await;
    world.script("shop", "exec sleep 100000");
    let mut spec = world.spec(&["./shop"]);
    local(&mut spec).artifact = Some("shop".into());
    let revision = platform.identify(&spec).await.unwrap();
    world.script("shop", "exec sleep 100001");
    for _ in 0..2 {
        let fault = platform.build(fence(1), &spec, &revision).await.unwrap_err();
        assert_eq!(fault.after, After::Retry);
        assert!(fault.what.contains("changed since it was named"), "{fault}");
    }
    let fault = platform.ensure(fence(1), &shop(), &revision, 1).await.unwrap_err();
    assert!(fault.what.contains("not in the store"), "{fault}");
    assert_eq!(fs::read_dir(world.state().join("local/revisions")).unwrap().count(), 0, "no half copy stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_that_is_being_written_is_refused_and_named_once_it_is_whole() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.sleeper();
    local(&mut spec).artifact = Some("app".into());
    fs::create_dir(world.base().join("app")).unwrap();
    let path = world.base().join("app/shop");
    // Large enough that reading it takes many of the writer's turns.
    fs::write(&path, vec![7; 32 << 20]).unwrap();
    let (path, ends) = (path.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let over = ends.clone();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            file.write_all(&[7; 8]).unwrap();
        }
    });
    until("the writer", || fs::metadata(world.base().join("app/shop")).unwrap().len() > 32 << 20).await;
    let fault = platform.identify(&spec).await.unwrap_err();
    assert_eq!((fault.blame, fault.after), (Blame::Configuration, After::Retry));
    assert!(fault.what.contains("it is being written: ") && fault.what.ends_with("app/shop"), "{fault}");
    ends.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    let revision = store(&platform, &spec).await;
    assert_eq!(
        fs::read(world.state().join(format!("local/revisions/{revision}/files/shop"))).unwrap(),
        fs::read(world.base().join("app/shop")).unwrap()
    );
}

#[tokio::test]
async fn an_artifact_too_large_for_the_disk_is_told_with_numbers_and_leaves_nothing() {
    let world = World::new();
    let options = Options { reserve_bytes: 0, ..quick() };
    let platform = LocalPlatform::open(world.state(), options).await.unwrap();
    let revisions = world.state().join("local/revisions");
    let mount = |args: &[&str]| {
        std::process::Command::new("mount")
            .args(args)
            .arg(&revisions)
            .output()
            .is_ok_and(|said| said.status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=4M", "cutover-test"]) {
        println!("skipped: an_artifact_too_large_for_the_disk: it may not mount a small file system");
        return;
    }
    let mut spec = world.sleeper();
    local(&mut spec).artifact = Some("app".into());
    fs::write(world.base().join("app"), vec![1; 8 << 20]).unwrap();
    let revision = platform.identify(&spec).await.unwrap();
    let refused = platform.build(fence(1), &spec, &revision).await;
    let left = fs::read_dir(&revisions).unwrap().count();
    assert!(std::process::Command::new("umount").arg("-l").arg(&revisions).status().unwrap().success());
    let fault = refused.unwrap_err();
    assert_eq!((fault.blame, fault.after), (Blame::Platform, After::Retry));
    assert!(fault.what.contains("8Mi needed") && fault.what.contains("4Mi available"), "{fault}");
    assert!(!fault.hint.is_empty());
    assert_eq!(left, 0, "no half copy stays");
}

#[tokio::test]
async fn a_half_copy_of_a_crash_is_cleared_away() {
    let world = World::new();
    world.open().await.shutdown().await;
    let revisions = world.state().join("local/revisions");
    fs::create_dir_all(revisions.join(".copy-r-0123456789ab-00/files")).unwrap();
    fs::write(revisions.join(".copy-r-0123456789ab-00/files/shop"), "half").unwrap();
    let platform = world.open().await;
    assert_eq!(fs::read_dir(&revisions).unwrap().count(), 0);
    // A folder under the final name but without its manifest is damage, and is replaced.
    let spec = world.sleeper();
    let revision = platform.identify(&spec).await.unwrap();
    fs::create_dir_all(revisions.join(revision.as_str()).join("files")).unwrap();
    start(&platform, &spec, 1).await;
}

#[tokio::test]
async fn a_discarded_revision_leaves_nothing_and_what_is_in_use_stays() {
    let world = World::new();
    let platform = world.open().await;
    let mut spec = world.sleeper();
    fs::create_dir_all(world.base().join("app/closed")).unwrap();
    fs::write(world.base().join("app/closed/file"), "x").unwrap();
    fs::set_permissions(world.base().join("app/closed"), fs::Permissions::from_mode(0o555)).unwrap();
    local(&mut spec).artifact = Some("app".into());
    secret(&mut spec, "TOKEN", "swordfish-94");
    let (revision, _) = start(&platform, &spec, 1).await;
    secret(&mut spec, "TOKEN", "swordfish-95");
    let other = store(&platform, &spec).await;
    let mut both = vec![revision.clone(), other.clone()];
    both.sort();
    assert_eq!(platform.stored(&shop()).await.unwrap(), both);
    assert_eq!(platform.stored(&"another".into()).await.unwrap(), []);

    let fault = platform.discard(fence(1), &shop(), &revision).await.unwrap_err();
    assert!(fault.what.contains("instances of it run or are wanted"), "{fault}");
    platform.discard(fence(1), &"another".into(), &other).await.unwrap();
    assert_eq!(platform.stored(&shop()).await.unwrap(), both, "of another service it is not there");
    platform.retire(fence(1), &shop(), &revision).await.unwrap();
    let low = platform.discard(fence(0), &shop(), &revision).await.unwrap_err();
    assert_eq!(low.after, After::Fenced);
    for _ in 0..2 {
        platform.discard(fence(1), &shop(), &revision).await.unwrap();
    }
    assert_eq!(platform.stored(&shop()).await.unwrap(), [other]);
    let left: Vec<_> = files(&world.state())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(revision.as_str()))
        .collect();
    assert_eq!(left, [""; 0].map(std::path::PathBuf::from), "neither files, secrets nor logs");
    // It can come again as if it had never been there.
    secret(&mut spec, "TOKEN", "swordfish-94");
    assert_eq!(start(&platform, &spec, 1).await.0, revision);
}

#[tokio::test]
async fn a_discard_that_was_cut_short_is_finished() {
    let world = World::new();
    let platform = world.open().await;
    let revision = store(&platform, &world.sleeper()).await;
    platform.shutdown().await;
    let revisions = world.state().join("local/revisions");
    fs::rename(revisions.join(revision.as_str()), revisions.join(format!(".gone-{revision}-00"))).unwrap();
    let platform = world.open().await;
    assert_eq!(fs::read_dir(&revisions).unwrap().count(), 0);
    assert_eq!(start(&platform, &world.sleeper(), 1).await.0, revision);
}

#[tokio::test]
async fn no_copy_begins_without_the_space_for_it() {
    let world = World::new();
    let options = Options { reserve_bytes: u64::MAX / 2, ..quick() };
    let platform = LocalPlatform::open(world.state(), options).await.unwrap();
    let spec = world.sleeper();
    let revision = platform.identify(&spec).await.unwrap();
    let fault = platform.build(fence(1), &spec, &revision).await.unwrap_err();
    assert_eq!((fault.blame, fault.after), (Blame::Platform, After::Retry));
    assert!(fault.what.contains("find disk space") && fault.what.contains("available"), "{fault}");
}

#[tokio::test]
async fn a_state_folder_inside_the_artifact_is_refused() {
    let world = World::new();
    let platform = LocalPlatform::open(world.base().join("state"), quick()).await.unwrap();
    let mut spec = world.sleeper();
    local(&mut spec).artifact = Some(".".into());
    let fault = platform.identify(&spec).await.unwrap_err();
    assert!(fault.what.contains("state folder lies inside it"), "{fault}");
}
