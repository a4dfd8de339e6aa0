//! A state folder, a service, and looking at its processes from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cutover_core::{Fence, RevisionId, ServiceName, Size, Span, file};
use cutover_local::{LocalPlatform, Options};
use cutover_ports::{InstanceState, ObservedInstance, ObservedRevision, Platform, RevisionSpec, Secret};

/// Everything a test waits for comes within this, or not at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with the state and the files of a service; whatever still runs of it is killed at the end.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        let world = World { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(world.base()).unwrap();
        world
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("base")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) async fn open(&self) -> LocalPlatform {
        LocalPlatform::open(self.state(), quick()).await.unwrap()
    }

    /// A spec of service `shop` that runs `command`; `WORLD` in its environment tells its processes from all others.
    pub(crate) fn spec(&self, command: &[&str]) -> RevisionSpec {
        let text = serde_json::json!({ "command": command });
        let mut local: file::LocalPlatform = serde_json::from_value(text).unwrap();
        local.env.insert("WORLD".into(), self.mark());
        local.stop_grace = Span::from_secs(20);
        local.log_size = Size::from_bytes(1 << 20);
        let platform = file::Platform::Local(local);
        RevisionSpec {
            service: shop(),
            platform,
            processes: Default::default(),
            settings: String::new(),
            base: self.base(),
            secrets: Default::default(),
        }
    }

    /// A spec that just runs.
    pub(crate) fn sleeper(&self) -> RevisionSpec {
        self.spec(&["sleep", "100000"])
    }

    /// Writes an executable script into the base.
    pub(crate) fn script(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.base().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Returns the processes of this world that live now, whoever started them.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("WORLD={}", self.mark());
        let ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(ours)
            .filter(|pid| alive(*pid))
            .collect()
    }

    /// Returns the only file below `local` whose path ends so, and its JSON.
    pub(crate) fn json(&self, ending: &str) -> (PathBuf, serde_json::Value) {
        let begin = Instant::now();
        loop {
            let path = files(&self.state()).into_iter().find(|path| path.to_str().unwrap().contains(ending));
            // A file that is being written is there under another name for a moment.
            let read =
                path.and_then(|path| Some((serde_json::from_slice(&fs::read(&path).ok()?).ok()?, path)));
            if let Some((value, path)) = read {
                return (path, value);
            }
            assert!(begin.elapsed() < PATIENCE, "no whole {ending}");
        }
    }

    fn mark(&self) -> String {
        self.folder.path().display().to_string()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid, rustix::process::Signal::KILL);
        }
        // The kernel lets go of a group a moment after the last of its processes.
        let begin = Instant::now();
        let states = [self.state(), self.base().join("state")];
        while !states.iter().all(|state| cutover_local::tidy(state))
            && begin.elapsed() < Duration::from_secs(2)
        {
            std::thread::yield_now();
        }
    }
}

/// A process that is nobody's instance; killed at the end.
pub(crate) struct Stranger(Child);

impl Stranger {
    pub(crate) fn new() -> Stranger {
        let mut command = Command::new("sleep");
        // Nothing of the test's own: whoever reads its output would wait for a stranger that is left behind.
        command.arg("100000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Stranger(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns its start in clock ticks since boot.
    pub(crate) fn start(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The defaults, but quicker.
pub(crate) fn quick() -> Options {
    Options {
        restart_first: Duration::from_millis(20),
        restart_longest: Duration::from_millis(200),
        log_every: Duration::from_millis(20),
        reserve_bytes: 1 << 20,
        ..Options::default()
    }
}

pub(crate) fn shop() -> ServiceName {
    "shop".into()
}

pub(crate) fn fence(sequence: u64) -> Fence {
    Fence { epoch: 1, sequence }
}

/// Returns the local section of the spec.
pub(crate) fn local(spec: &mut RevisionSpec) -> &mut file::LocalPlatform {
    match &mut spec.platform {
        file::Platform::Local(local) => local,
        file::Platform::Docker(_) => panic!("local"),
    }
}

pub(crate) fn secret(spec: &mut RevisionSpec, name: &str, value: &str) {
    local(spec).secrets = vec![name.into()];
    spec.secrets.insert(name.into(), Secret::new(value));
}

/// Stores the revision.
pub(crate) async fn store(platform: &LocalPlatform, spec: &RevisionSpec) -> RevisionId {
    let revision = platform.identify(spec).await.unwrap();
    platform.build(fence(1), spec, &revision).await.unwrap();
    revision
}

/// Stores the revision and runs `count` instances of it.
pub(crate) async fn start(
    platform: &LocalPlatform,
    spec: &RevisionSpec,
    count: u32,
) -> (RevisionId, Vec<ObservedInstance>) {
    let revision = store(platform, spec).await;
    platform.ensure(fence(1), &shop(), &revision, count).await.unwrap();
    let instances = running(platform, &revision, count as usize).await;
    (revision, instances)
}

/// Waits until exactly `count` instances of the revision run.
pub(crate) async fn running(
    platform: &LocalPlatform,
    revision: &RevisionId,
    count: usize,
) -> Vec<ObservedInstance> {
    let seen = observed(platform, revision, |seen| {
        seen.instances.len() == count
            && seen.instances.iter().all(|one| one.state == InstanceState::Running && one.pid.is_some())
    });
    seen.await.instances
}

/// Waits until what is observed of the revision is as wanted.
pub(crate) async fn observed(
    platform: &LocalPlatform,
    revision: &RevisionId,
    wanted: impl Fn(&ObservedRevision) -> bool,
) -> ObservedRevision {
    let begin = Instant::now();
    loop {
        let seen = platform.observe(&shop()).await.unwrap();
        let found = seen.iter().find(|one| one.revision == *revision);
        if let Some(found) = found.filter(|found| wanted(found)) {
            return found.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "never observed as wanted: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Returns the environment that the process was started with, sorted.
pub(crate) fn environment(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mut variables: Vec<String> =
        String::from_utf8(bytes).unwrap().split_terminator('\0').map(str::to_string).collect();
    variables.sort();
    variables
}

/// Returns all files below the folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

pub(crate) fn pids(instances: &[ObservedInstance]) -> Vec<u32> {
    instances.iter().map(|one| one.pid.unwrap()).collect()
}
