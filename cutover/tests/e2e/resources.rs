//! What runs out in the middle of a release: disk, descriptors, memory, processes. Traffic goes on, the cause is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use cutover_bench::load::{Load, Report};
use serde_json::Value;

use crate::harness::{Said, Scratch, get, wait};
use crate::service::{self, Shop, bakes_at, finish, load, pids, status, trouble, whole};

const MORE: &str = "strategy: {canary: {weights: [50%, 100%], bake: 30m}}\nbake: 30m\nguard: {success: 95%}\nkeep_warm: 0s\ndrain: 8s";
/// Requests that the load may have in flight at a time.
const CLIENTS: u64 = 10;

/// A folder on a disk of its own.
struct Disk(PathBuf);

impl Disk {
    /// Mounts one of that many MiB; none where that is not allowed.
    fn mount(test: &str, folder: &Path, mebibytes: u32) -> Option<Disk> {
        fs::create_dir_all(folder).unwrap();
        let size = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(folder).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Disk(folder.to_path_buf()));
        }
        println!("skipped: {test}: no disk may be mounted here");
        None
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let block = vec![0_u8; 1 << 20];
        let mut filler = fs::File::create(self.0.join("filler")).unwrap();
        // Smaller and smaller pieces: the last page too.
        for size in [1 << 20, 4096, 1] {
            while std::io::Write::write_all(&mut filler, &block[..size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// v1 runs, v2 has half of the traffic.
fn half_way(scratch: &Scratch, v2: &Shop) -> (Load, Child) {
    service::file(scratch, "v1", "", MORE);
    scratch.deploy().expect(0);
    whole(scratch, 2);
    let load = load(scratch);
    v2.file(scratch);
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    bakes_at(scratch, "50%");
    service::more(&load, 60);
    (load, deploy)
}

fn v2() -> Shop<'static> {
    Shop { version: "v2", more: MORE, ..Shop::default() }
}

fn ended(deploy: Child, code: i32) -> Value {
    Said::from(deploy.wait_with_output().unwrap()).expect(code).report()
}

/// Waits until v1 alone answers.
fn only_v1(scratch: &Scratch) {
    let mut row = 0;
    wait("the traffic to be back", || {
        row = if get(scratch.address, "/") == Some((200, "v1\n".into())) { row + 1 } else { 0 };
        (row > 40).then_some(())
    });
}

fn nothing_failed(report: &Report) {
    assert_eq!(report.failed(), 0, "{report}");
}

/// The disk of the state folder fails in the middle of a release whose candidate then breaks. What is said must have one
/// of `words`.
fn a_disk_that_fails(scratch: &Scratch, fail: impl Fn(), mend: impl Fn(), words: &str) {
    let (load, deploy) = half_way(scratch, &v2());
    fail();
    service::more(&load, 60);
    // A candidate that breaks now is taken back by the proxy alone, on any disk.
    trouble(scratch, "v2", "fail");
    only_v1(scratch);
    load.expect_version(Some("v1"));
    // What cannot be written is said where a person looks, and nobody has to be asked to go on once it can.
    wait("the cause to be said", || {
        let (said, shown) = (scratch.run(&["abort"]), scratch.run(&["show", "shop-2"]));
        let all = format!("{}{}{}{}", said.out, said.err, shown.out, shown.err).to_lowercase();
        all.contains(words).then_some(())
    });
    service::more(&load, 60);
    mend();
    let told = ended(deploy, 4);
    assert_eq!(told["failed_by_router"], 0, "{told}");
    whole(scratch, 2);
    let report = finish(scratch, load);
    nothing_failed(&report);
    assert_eq!(report.strays, 0, "{:?}", report.stray_texts);
}

#[test]
fn a_full_disk_in_the_middle_of_a_release() {
    let scratch = Scratch::new();
    let test = "a_full_disk_in_the_middle_of_a_release";
    let Some(disk) = Disk::mount(test, &scratch.state(), 400) else { return };
    a_disk_that_fails(&scratch, || disk.fill(), || disk.free(), "full");
    scratch.end_all();
}

#[test]
fn a_folder_that_turns_read_only_in_the_middle_of_a_release() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a_folder_that_turns_read_only_in_the_middle_of_a_release: only root can mount");
        return;
    }
    let scratch = Scratch::new();
    let state = scratch.state();
    let run = |program: &str, args: &[&str]| {
        assert!(
            Command::new(program).args(args).arg(&state).status().unwrap().success(),
            "{program} {args:?}"
        );
    };
    // What is open stays writable, as the journal; whatever is written anew is refused.
    let fail = || {
        run("mount", &["--bind", &state.to_string_lossy()]);
        run("mount", &["-o", "remount,ro,bind"]);
    };
    a_disk_that_fails(&scratch, fail, || run("umount", &["-l"]), "read-only");
}

/// Sets the soft limit of open files of a process.
fn limit_files(pid: i32, limit: u64) {
    let done =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={limit}:")]).status();
    assert!(done.unwrap().success());
}

fn open_files(pid: i32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

fn prlimit_there(test: &str) -> bool {
    let there = Command::new("prlimit").arg("--version").output().is_ok();
    if !there {
        println!("skipped: {test}: it needs prlimit");
    }
    there
}

#[test]
fn a_server_without_descriptors() {
    if !prlimit_there("a_server_without_descriptors") {
        return;
    }
    let scratch = Scratch::new();
    let (load, deploy) = half_way(&scratch, &v2());
    let server = scratch.server_pid();
    limit_files(server, 1);
    // Nothing new can be opened: no lease is renewed, and the proxy takes the traffic back.
    only_v1(&scratch);
    service::more(&load, 100);
    limit_files(server, 1024);
    let told = ended(deploy, 4);
    assert!(told["why"].as_str().unwrap().contains("lease"), "{told}");
    whole(&scratch, 2);
    assert_eq!(scratch.server_pid(), server);
    nothing_failed(&finish(&scratch, load));
}

#[test]
fn a_worker_with_hardly_a_descriptor() {
    if !prlimit_there("a_worker_with_hardly_a_descriptor") {
        return;
    }
    let scratch = Scratch::new();
    service::file(&scratch, "v1", "", MORE);
    scratch.deploy().expect(0);
    whole(&scratch, 2);
    let worker = scratch.proxy_pids().1;
    // One for each client, and what three requests at a time need to reach the service; a release talks to the proxy too.
    limit_files(worker, open_files(worker) + CLIENTS + 10);
    let load = load(&scratch);
    service::more(&load, 200);
    v2().file(&scratch);
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    bakes_at(&scratch, "50%");
    service::more(&load, 400);
    // What the proxy lacks is not the candidate's fault.
    assert_eq!(status(&scratch).unwrap()["service"]["current"]["state"], "bake");
    limit_files(worker, 1024);
    scratch.run(&["promote"]).expect(0);
    let told = ended(deploy, 0);
    assert_eq!(told["failed_by_router"], 0, "{told}");
    whole(&scratch, 2);
    nothing_failed(&finish(&scratch, load));
}

/// Where nothing can be limited the plan says so.
fn limits(scratch: &Scratch, test: &str) -> bool {
    let can = !scratch.run(&["plan"]).expect(0).out.contains("not limited on this machine");
    if !can {
        println!("skipped: {test}: nothing can be limited here");
    }
    can
}

#[test]
fn a_candidate_that_eats_all_its_memory() {
    let scratch = Scratch::new();
    let hungry = Shop { local: ", memory: 64Mi", ..v2() };
    hungry.file(&scratch);
    if !limits(&scratch, "a_candidate_that_eats_all_its_memory") {
        return;
    }
    let (load, deploy) = half_way(&scratch, &hungry);
    let before = pids(&scratch, "v2");
    trouble(&scratch, "v2", "eat");
    let told = ended(deploy, 4);
    assert!(told["why"].as_str().is_some_and(|why| !why.is_empty()), "{told}");
    whole(&scratch, 2);
    let story = scratch.run(&["show", "shop-2"]).out;
    assert!(story.contains("out of memory"), "{story}");
    let report = finish(&scratch, load);
    // Only what was in flight on the killed ones; how often they came back is not ours to know.
    assert!(report.failed() <= CLIENTS * before.len() as u64 * 3, "{report}");
    let receipts = report.receipts.unwrap();
    assert_eq!((receipts.twice, receipts.never), (0, 0), "{report}");
}

#[test]
fn a_candidate_that_may_not_fork() {
    let scratch = Scratch::new();
    let before = "i=0; while [ $i -lt 40 ]; do sleep 100000 & i=$((i+1)); done";
    let forks = Shop { local: ", pids: 16", before, ..v2() };
    forks.file(&scratch);
    if !limits(&scratch, "a_candidate_that_may_not_fork") {
        return;
    }
    service::file(&scratch, "v1", "", MORE);
    scratch.deploy().expect(0);
    whole(&scratch, 2);
    let load = load(&scratch);
    forks.file(&scratch);
    let said = scratch.run(&["deploy"]).expect(3);
    assert!(said.out.to_lowercase().contains("fork"), "its own words are shown: {}", said.out);
    whole(&scratch, 2);
    let left: Vec<_> =
        scratch.processes().into_iter().filter(|(_, command)| command.contains("sleep")).collect();
    assert!(left.is_empty(), "{left:?}");
    nothing_failed(&finish(&scratch, load));
}

fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
}

#[test]
fn a_candidate_that_floods_its_log() {
    if !crate::harness::servers_wanted("a_candidate_that_floods_its_log") {
        return;
    }
    let scratch = Scratch::new();
    // Both instances together write a gigabyte.
    let before = "(yes a line of the flood, one of very many | head -c 512M) & true";
    let flood = Shop { local: ", log_size: 4Mi", before, ..v2() };
    let (load, deploy) = half_way(&scratch, &flood);
    let logs = scratch.state().join("local/services/shop/logs");
    let mut most = 0;
    wait("the flood to be over", || {
        most = most.max(size(&logs));
        let floods = |(_, command): &(i32, String)| command.starts_with("yes a line of the flood");
        (!scratch.processes().iter().any(floods)).then_some(())
    });
    println!("the logs took {} MiB at most", most >> 20);
    assert!(most < 768 << 20, "more than {} MiB of a gigabyte were there at a time", most >> 20);
    // Cut to its size, the newest lines kept; stable's own log is small.
    wait("the logs to be within their size", || (size(&logs) < 3 * (4 << 20)).then_some(()));
    scratch.run(&["promote"]).expect(0);
    ended(deploy, 0);
    whole(&scratch, 2);
    nothing_failed(&finish(&scratch, load));
}

#[test]
fn the_candidates_revision_is_deleted_on_disk() {
    let scratch = Scratch::new();
    let (load, deploy) = half_way(&scratch, &v2());
    let candidate =
        status(&scratch).unwrap()["service"]["current"]["candidate"].as_str().unwrap().to_string();
    fs::remove_dir_all(scratch.state().join("local/revisions").join(&candidate)).unwrap();
    service::more(&load, 60);
    // An instance that ends now cannot start again; the other one serves on.
    let victim = pids(&scratch, "v2")[0];
    crate::harness::kill(victim, rustix::process::Signal::KILL);
    wait("the cause to be said", || {
        let said = scratch.run(&["status"]).out;
        said.contains(&format!("find revision {candidate}: it is not in the store")).then_some(())
    });
    service::more(&load, 100);
    scratch.run(&["abort"]).expect(0);
    ended(deploy, 7);
    whole(&scratch, 2);
    let report = finish(&scratch, load);
    assert!(report.failed() <= CLIENTS, "{report}");
}

#[test]
fn an_artifact_that_is_being_written() {
    let scratch = Scratch::new();
    service::file(&scratch, "v1", "", MORE);
    scratch.deploy().expect(0);
    whole(&scratch, 2);
    let load = load(&scratch);
    let artifact = scratch.path().join("artifact");
    fs::create_dir(&artifact).unwrap();
    fs::write(artifact.join("data"), "").unwrap();
    let stop = scratch.path().join("stop");
    let script = format!(
        "while [ ! -e '{}' ]; do echo more >> '{}'; done",
        stop.display(),
        artifact.join("data").display()
    );
    let mut writer = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    Shop { local: ", artifact: artifact", ..v2() }.file(&scratch);
    let said = scratch.run(&["deploy"]);
    fs::write(&stop, "").unwrap();
    writer.wait().unwrap();
    let all = format!("{}{}", said.out, said.err);
    assert!(said.code == 3 && all.contains("being written") && all.contains("data"), "{all}");
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    bakes_at(&scratch, "50%");
    scratch.run(&["promote"]).expect(0);
    ended(deploy, 0);
    whole(&scratch, 2);
    nothing_failed(&finish(&scratch, load));
}
