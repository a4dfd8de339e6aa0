//! Care for the machine: who dies with whom, limits, disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::Signal;

use crate::harness::{Scratch, alive, get, kill, wait};
use crate::service;

const QUICK: &str = "bake: 0s\nkeep_warm: 0s\ndrain: 1s";

#[test]
fn what_was_stopped_leaves_no_cgroup() {
    let scratch = Scratch::new();
    service::file(&scratch, "v1", "", QUICK);
    scratch.deploy().expect(0);
    let pid = scratch.status()["services"][0]["revisions"][0]["instances"][0]["pid"].as_u64().unwrap();
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let Some(tree) = group.split('/').find(|part| part.starts_with("cutover-")).map(str::to_string) else {
        println!("skipped: what_was_stopped_leaves_no_cgroup: no cgroup may be made here");
        return;
    };
    let left = || {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(" cgroup")).map(str::to_string);
        mounts.filter(|line| Path::new(line.split(' ').nth(1).unwrap()).join(&tree).exists()).count()
    };
    assert!(left() > 0);
    scratch.run(&["destroy", "--yes"]).expect(0);
    scratch.run(&["server", "stop"]).expect(0);
    scratch.run(&["proxy", "stop"]).expect(0);
    assert_eq!(left(), 0);
}

/// A control group as a CI runner makes one for a job; ended with all in it, and removed.
struct Job {
    folder: PathBuf,
    /// Ends all in it at once; version 1 has no such file.
    end: Option<PathBuf>,
}

impl Job {
    /// Makes one, on version 2 where that is mounted, else on version 1; none where nothing is allowed.
    fn new(test: &str, scratch: &Scratch) -> Option<Job> {
        let name = scratch.path().file_name().unwrap().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mut places: Vec<(bool, &str)> = mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                let (mount, kind) = (fields.next()?, fields.next()?);
                matches!(kind, "cgroup" | "cgroup2").then_some((kind != "cgroup2", mount))
            })
            .filter(|(_, mount)| !mount.contains("cpuset"))
            .collect();
        places.sort();
        let made = places.into_iter().find_map(|(_, mount)| {
            let folder = Path::new(mount).join(format!("job-{name}"));
            fs::create_dir(&folder).ok()?;
            let end = Some(folder.join("cgroup.kill")).filter(|file| file.exists());
            Some(Job { folder, end })
        });
        if made.is_none() {
            println!("skipped: {test}: no cgroup may be made here");
        }
        made
    }

    /// Runs a script in the group.
    fn run(&self, scratch: &Scratch, script: &str, cgroup: &str) -> Child {
        let script = format!("echo 0 > {}/cgroup.procs; {script}", self.folder.display());
        let command = scratch.command(&[]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).current_dir(scratch.path()).env("CUTOVER", crate::harness::CUTOVER);
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("CI");
        shell
            .env("CUTOVER_CGROUP", cgroup)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        shell.spawn().unwrap()
    }

    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Ends all in it, as a runner that cleans up does.
    fn end(&self) {
        match &self.end {
            Some(file) => fs::write(file, "1").unwrap(),
            None => self.pids().into_iter().for_each(|pid| kill(pid, Signal::KILL)),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.folder.exists() {
            self.end();
            let begun = std::time::Instant::now();
            while fs::remove_dir(&self.folder).is_err() && begun.elapsed().as_secs() < 2 {
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn the_end_of_the_job_that_deployed_ends_nothing_else() {
    let scratch = Scratch::new();
    let Some(job) = Job::new("the_end_of_the_job_that_deployed_ends_nothing_else", &scratch) else { return };
    service::file(&scratch, "v1", "", QUICK);
    let mut deploy =
        job.run(&scratch, "\"$CUTOVER\" deploy > said 2>&1; echo $? > code; exec sleep 100000", "own");
    let code = wait("the deploy", || {
        fs::read_to_string(scratch.path().join("code")).ok().filter(|c| c.ends_with('\n'))
    });
    let said = fs::read_to_string(scratch.path().join("said")).unwrap();
    assert_eq!(code.trim(), "0", "{said}");
    if said.contains("shares the cgroup") {
        println!(
            "skipped: the_end_of_the_job_that_deployed_ends_nothing_else: the job's cgroup may not be left"
        );
        job.end();
        deploy.wait().unwrap();
        return;
    }
    let sleeper = deploy.id().cast_signed();
    assert_eq!(job.pids(), [sleeper], "server, proxy and instances have left the job's group");
    let (server, proxy) = (scratch.server_pid(), scratch.proxy_pids());
    for request in 0..300 {
        if request == 100 {
            job.end();
        }
        assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())), "request {request}");
    }
    deploy.wait().unwrap();
    assert_eq!(job.pids(), [0; 0], "the job is over");
    assert!(alive(server));
    assert_eq!((scratch.server_pid(), scratch.proxy_pids()), (server, proxy), "and all goes on as it was");
}

#[test]
fn a_server_that_may_not_leave_its_job_says_so_where_it_is_read() {
    let scratch = Scratch::new();
    let test = "a_server_that_may_not_leave_its_job_says_so_where_it_is_read";
    let Some(job) = Job::new(test, &scratch) else { return };
    service::file(&scratch, "v1", "", QUICK);
    let plan = job.run(&scratch, "exec \"$CUTOVER\" plan", "none").wait_with_output().unwrap();
    let plan: crate::harness::Said = plan.into();
    let plan = plan.expect(0);
    let group = job.folder.file_name().unwrap().to_string_lossy().into_owned();
    assert!(
        plan.err.contains("warning: it shares the cgroup /") && plan.err.contains(&group),
        "{}",
        plan.err
    );
    assert!(plan.out.contains(&format!("{group} with what started it")), "in the plan: {}", plan.out);
    let status = scratch.run(&["status"]).expect(0).out;
    assert!(status.contains("note: it shares the cgroup") && status.contains("server install"), "{status}");
    let mut unknown = scratch.command(&["server"]);
    let unknown = unknown.env("CUTOVER_STATE", scratch.path().join("other")).env("CUTOVER_CGROUP", "of");
    let unknown = unknown.output().unwrap();
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("CUTOVER_CGROUP=of is not known"));
}

#[test]
fn a_candidate_killed_for_its_memory_is_refused_with_just_that() {
    let scratch = Scratch::new();
    service::file(&scratch, "v1", "", QUICK);
    scratch.deploy().expect(0);
    scratch.file("command: [tail, /dev/zero], memory: 24Mi", QUICK);
    let plan = scratch.run(&["plan"]).expect(0).out;
    if plan.contains("not limited on this machine") {
        println!(
            "skipped: a_candidate_killed_for_its_memory_is_refused_with_just_that: nothing can be limited here"
        );
        return;
    }
    assert!(plan.contains("goes beyond 24Mi of memory is killed and started again"), "{plan}");
    let said = scratch.run(&["deploy"]).expect(3);
    assert!(
        said.out.contains("out of memory: it went beyond its limit of 24Mi (platform.local.memory)"),
        "{}",
        said.out
    );
    assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())));
}

#[test]
fn many_quick_releases_leave_a_bounded_number_of_revisions() {
    let scratch = Scratch::new();
    for number in 1..=9 {
        service::file(&scratch, &format!("v{number}"), "", QUICK);
        scratch.deploy().expect(0);
    }
    let count = |folder: &str| fs::read_dir(scratch.state().join(folder)).unwrap().count();
    wait("the old revisions to go", || {
        let kept = (count("local/revisions"), count("local/services/shop/logs"));
        (kept == (5, 5)).then_some(())
    });
    scratch.run(&["rollback"]).expect(0);
    assert_eq!(get(scratch.address, "/"), Some((200, "v8\n".into())));
}

#[test]
fn an_artifact_deleted_in_the_middle_of_its_release_is_not_missed() {
    let scratch = Scratch::new();
    let artifact = scratch.path().join("app");
    let exe = std::env::current_exe().unwrap();
    let release = |version: &str, more: &str| {
        fs::create_dir_all(&artifact).unwrap();
        let _ = fs::remove_file(artifact.join("service"));
        fs::copy(&exe, artifact.join("service")).unwrap();
        let received = scratch.path().join("received.txt");
        fs::write(&received, "").unwrap();
        let local = format!(
            "command: [./service, '--exact', 'service::entry', '--nocapture'], artifact: app, stop_grace: 5s, \
             env: {{E2E_SERVICE: '1', VERSION: {version}, RECEIVED: '{}'}}",
            received.display()
        );
        scratch.file(
            &local,
            &format!("checks: {{health: [{{path: /health, interval: 100ms}}], within: 30s}}\n{more}"),
        );
    };
    release("v1", QUICK);
    scratch.deploy().expect(0);
    release("v2", "bake: 10m\nkeep_warm: 0s\ndrain: 1s");
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    wait("the bake", || scratch.run(&["status"]).out.contains("at bake").then_some(()));
    fs::remove_dir_all(&artifact).unwrap();
    // An instance that ends now starts again from the copy.
    let instance = |status: &serde_json::Value| {
        let service = &status["services"][0];
        let candidate = service["service"]["current"]["candidate"].clone();
        let revisions = service["revisions"].as_array().unwrap().clone();
        let mine = revisions.into_iter().find(|seen| seen["revision"] == candidate).unwrap();
        mine["instances"][0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
    };
    let before = instance(&scratch.status()).unwrap();
    kill(before, Signal::KILL);
    wait("another process of the candidate", || instance(&scratch.status()).filter(|pid| *pid != before));
    wait("it to answer", || (get(scratch.address, "/") == Some((200, "v2\n".into()))).then_some(()));
    scratch.run(&["promote"]).expect(0);
    let said: crate::harness::Said = deploy.wait_with_output().unwrap().into();
    assert_eq!(said.expect(0).report()["outcome"], "released");
    assert_eq!(get(scratch.address, "/"), Some((200, "v2\n".into())));
}
