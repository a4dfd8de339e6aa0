//! Docker engines for tests: Debian's `dockerd`, as many beside each other as a test likes.
//!
//! Each has a scratch folder with its data, a socket and a bridge of its own, and all of it is gone at the end, also where
//! the test was killed: a keeper process waits at the end of a pipe. The engines set no rules of the firewall, which they
//! would take from each other: published ports are forwarded by the engine's proxy process, and containers reach nothing
//! but their host.

#![allow(clippy::unwrap_used, reason = "for tests only: an engine that does not start fails them")]

mod bridge;
mod cli;
mod keeper;

use std::path::{Path, PathBuf};
use std::process::Command;

use bridge::Bridge;
use keeper::Keeper;

/// An engine that runs until it is dropped.
pub struct Engine {
    // In this order: the keeper ends the engine before its bridge and its folder go.
    keeper: Keeper,
    _bridge: Bridge,
    folder: tempfile::TempDir,
}

impl Engine {
    /// Starts an engine, and returns when it answers.
    pub fn start() -> Engine {
        let folder = tempfile::Builder::new().prefix("cutover-docker-").tempdir().unwrap();
        let data = folder.path().join("data");
        Engine::with_data(folder, &data, &[])
    }

    /// Starts an engine that keeps its images and containers in `data`, a small file system say, with more arguments of
    /// `dockerd`, such as `--insecure-registry=…`.
    pub fn start_in(data: &Path, arguments: &[&str]) -> Engine {
        let folder = tempfile::Builder::new().prefix("cutover-docker-").tempdir().unwrap();
        Engine::with_data(folder, data, arguments)
    }

    /// Starts an engine with more arguments of `dockerd`.
    pub fn start_with(arguments: &[&str]) -> Engine {
        let folder = tempfile::Builder::new().prefix("cutover-docker-").tempdir().unwrap();
        let data = folder.path().join("data");
        Engine::with_data(folder, &data, arguments)
    }

    fn with_data(folder: tempfile::TempDir, data: &Path, arguments: &[&str]) -> Engine {
        let bridge = Bridge::make();
        let mut words = vec![
            format!("--host=unix://{}", socket(folder.path()).display()),
            format!("--data-root={}", data.display()),
            format!("--exec-root={}", folder.path().join("exec").display()),
            format!("--pidfile={}", folder.path().join("docker.pid").display()),
            "--storage-driver=overlay2".into(),
            "--iptables=false".into(),
            "--ip6tables=false".into(),
            "--shutdown-timeout=3".into(),
            format!("--bridge={}", bridge.name()),
            format!("--default-address-pool=base={},size=28", bridge.pool()),
        ];
        words.extend(arguments.iter().map(ToString::to_string));
        let mut keeper = Keeper::new(folder.path(), data, &words);
        keeper.start(&socket(folder.path()));
        Engine { keeper, _bridge: bridge, folder }
    }

    /// Returns what `DOCKER_HOST` is for it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Returns its socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder.path())
    }

    /// Stops it and its containers, as a shutdown of the machine does.
    pub fn stop(&mut self) {
        self.keeper.order("stop");
    }

    /// Kills it: containers go on until it is started again.
    pub fn kill(&mut self) {
        self.keeper.order("kill");
    }

    /// Starts it again, with what it had.
    pub fn start_again(&mut self) {
        self.keeper.start(&socket(self.folder.path()));
    }

    /// Runs the `docker` command against it; what it prints.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "docker {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Returns the `docker` command against it, to be run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        cli::command(&self.host(), &self.folder.path().join("config"), arguments)
    }

    /// Builds an image `name` FROM scratch out of files of this machine, programs with the libraries that they need, and
    /// `lines` of a Dockerfile. Returns its id.
    pub fn image(&self, name: &str, programs: &[(&Path, &str)], lines: &[&str]) -> String {
        cli::image(self, name, programs, lines)
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("docker.sock")
}

/// Tells whether this machine can run engines: root, and Docker installed.
pub fn possible() -> bool {
    let there = |program: &str| {
        ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/sbin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    rustix::process::geteuid().is_root() && ["dockerd", "docker", "ip"].iter().all(|program| there(program))
}
