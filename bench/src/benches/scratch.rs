//! A scratch machine: a state folder, the cutover on it, and processes that end with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cutover_proxy::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const STOP_LIMIT: Duration = Duration::from_secs(5);
/// So many commands run at once where many are to be run.
const SIDE_BY_SIDE: usize = 6;

/// A child process; dropped, it is asked to stop, then killed.
pub(super) struct Running(Child);

impl Running {
    pub(super) fn new(child: Child) -> Running {
        Running(child)
    }

    /// Returns how it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().ok().flatten()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not yet reaped, so the process id is still this child's.
        if let (None, Some(pid)) = (self.ended(), i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let begun = Instant::now();
        while self.ended().is_none() && begun.elapsed() < STOP_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder, and the cutover whose state lies in it.
pub(super) struct Scratch {
    // Dropped in this order: processes may use the folder.
    processes: Vec<Running>,
    folder: TempDir,
    cutover: PathBuf,
}

impl Scratch {
    pub(super) fn new(cutover: PathBuf) -> Result<Scratch> {
        let folder = tempfile::Builder::new().prefix("cutover-bench-").tempdir()?;
        Ok(Scratch { processes: Vec::new(), folder, cutover })
    }

    /// Lets a process end with this scratch, after what cutover started was stopped.
    pub(super) fn adopt(&mut self, process: Running) {
        self.processes.push(process);
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Returns a command of the cutover under test.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cutover);
        command.args(arguments).arg("--state").arg(self.state()).stdin(Stdio::null()).env("NO_COLOR", "1");
        command.current_dir(self.path());
        command
    }

    /// Starts holder and worker as a newcomer's `cutover proxy` does, on a port that the system chooses.
    pub(super) async fn start_proxy(&mut self) -> Result<(Client, SocketAddr)> {
        let mut command = self.command(&["proxy", "--listen", "127.0.0.1:0"]);
        // What it says of each candidate that it takes back is not what a benchmark is to print.
        let log = self.path().join("proxy.log");
        let said = std::fs::File::create(&log)?;
        let child =
            command.stdout(Stdio::null()).stderr(said).spawn().context("failed to start cutover proxy")?;
        let mut process = Running::new(child);
        let begun = Instant::now();
        loop {
            if let Ok(client) = Client::connect(self.state().join("proxy")).await
                && let Some(listen) = client.hello().await?.listeners.first().copied()
            {
                self.adopt(process);
                return Ok((client, listen));
            }
            if let Some(status) = process.ended() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("cutover proxy ended with {status}: {}", said.trim());
            }
            ensure!(begun.elapsed() < Duration::from_secs(20), "cutover proxy does not answer after 20 s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command to its end.
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Output> {
        let what = || format!("failed to run cutover {}", arguments.join(" "));
        self.command(arguments).output().with_context(what)
    }

    /// Runs a command that must succeed; returns its output.
    pub(super) fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        if !output.status.success() {
            bail!("cutover {} ended with {}:\n{}", arguments.join(" "), output.status, said(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Returns what `cutover status` says.
    pub(super) fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.succeed(&["status", "--output", "json"])?)?)
    }

    /// Returns the names of the services.
    fn services(&self) -> Result<Vec<String>> {
        let status = self.status()?;
        let services = status["services"].as_array().cloned().unwrap_or_default();
        let name = |service: &serde_json::Value| service["service"]["name"].as_str().map(str::to_owned);
        Ok(services.iter().filter_map(name).collect())
    }

    /// Waits until no release is under way and no tail of one either; false: it takes longer than `limit`.
    pub(super) fn calm(&self, limit: Duration) -> Result<bool> {
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            let services = status["services"].as_array().cloned().unwrap_or_default();
            let calm = services.iter().map(|service| &service["service"]).all(|service| {
                service["current"].is_null() && service["tails"].as_array().is_none_or(Vec::is_empty)
            });
            if calm || begun.elapsed() > limit {
                return Ok(calm);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Everything else is stopped all the same.
        let tell = |done: Result<String>| drop(done.inspect_err(|error| eprintln!("left behind: {error:#}")));
        if self.state().join("server.sock").exists() {
            let services = self.services().unwrap_or_default();
            side_by_side(&services, |service| tell(self.succeed(&["destroy", service, "--yes"])));
            tell(self.succeed(&["server", "stop"]));
        }
        if self.state().join("proxy").exists() {
            tell(self.succeed(&["proxy", "stop"]));
        }
    }
}

/// Acts on each of `all`, a few at a time.
pub(super) fn side_by_side<T: Sync>(all: &[T], act: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..SIDE_BY_SIDE {
            threads.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::SeqCst)) {
                    act(one);
                }
            });
        }
    });
}

/// Returns what a command said, errors last.
pub(super) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    [text(&output.stdout), text(&output.stderr)].join("\n").trim().to_owned()
}
