//! A scratch machine: a state folder, a folder for the service, a free address; all of it gone at the end.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const CUTOVER: &str = env!("CARGO_BIN_EXE_cutover");
/// Generous: these machines are shared, and no test measures time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Scratch {
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
    /// The Docker engine that its server uses.
    pub(crate) docker_host: Option<String>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn expect(self, code: i32) -> Said {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Returns the last JSON line.
    pub(crate) fn json(&self) -> Value {
        let line = self.out.lines().last().unwrap_or_else(|| panic!("no output; stderr:\n{}", self.err));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Returns the report that ends `deploy --output json`.
    pub(crate) fn report(&self) -> Value {
        self.json()["report"].clone()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let folder = tempfile::Builder::new().prefix("cutover-e2e-").tempdir().unwrap();
        let address = free_address();
        Scratch { folder, address, docker_host: None }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(CUTOVER);
        command
            .args(args)
            .current_dir(self.path())
            .env("CUTOVER_STATE", self.state())
            .env_remove("CI")
            .stdin(Stdio::null());
        command.envs(self.docker_host.iter().map(|host| ("DOCKER_HOST", host)));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        self.command(args).output().unwrap().into()
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Writes `cutover.yaml` for a service of `local` (the keys below `platform.local`) and `more` top-level lines.
    pub(crate) fn file(&self, local: &str, more: &str) {
        let text = format!(
            "service: shop\nplatform:\n  local: {{{local}}}\nroute: [{{proxy: {{listen: '{}'}}}}]\n{more}\n",
            self.address
        );
        fs::write(self.path().join("cutover.yaml"), text).unwrap();
    }

    pub(crate) fn deploy(&self) -> Said {
        self.run(&["deploy", "--output", "json"])
    }

    pub(crate) fn status(&self) -> Value {
        self.run(&["status", "--output", "json"]).expect(0).json()
    }

    /// Returns the pid in the server's lock.
    pub(crate) fn server_pid(&self) -> i32 {
        fs::read_to_string(self.state().join("server.lock")).unwrap().trim().parse().unwrap()
    }

    /// Returns the pid of the server that answers, without any verb, which would start one where none does.
    pub(crate) fn server_answers(&self) -> Option<i32> {
        std::os::unix::net::UnixStream::connect(self.state().join("server.sock")).ok()?;
        Some(self.server_pid())
    }

    /// Returns holder and worker.
    pub(crate) fn proxy_pids(&self) -> (i32, i32) {
        let seen = self.run(&["proxy", "status", "--output", "json"]).expect(0).json();
        let pid =
            |key: &str| seen["proxy"][key].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        (pid("holder_pid"), pid("worker_pid"))
    }

    /// Processes that carry this scratch folder in their command line, environment or working folder: nothing else is
    /// ours.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let mark = self.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
            let (command, environment) = (text(read("cmdline")), text(read("environ")));
            // An instance's environment is cleared: what tells it is the revision's folder that it runs in.
            let folder = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            let ours = command.contains(&mark) || environment.contains(&mark) || folder.starts_with(&mark);
            if ours && pid != std::process::id().cast_signed() && !command.is_empty() {
                found.push((pid, command));
            }
        }
        found
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["server.log", "proxy.log"] {
                let text = fs::read_to_string(self.state().join(log)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(25).collect();
                eprintln!("--- {log}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        self.end_all();
    }
}

impl Scratch {
    /// Kills everything that was started here, as a loss of power does.
    pub(crate) fn end_all(&self) {
        // All of it carries the folder's name; the holder first, so that nothing respawns.
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                kill(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The kernel lets go of a group a moment after the last of its processes.
        let begun = Instant::now();
        while !cutover_local::tidy(&self.state()) && begun.elapsed() < Duration::from_secs(2) {
            std::thread::yield_now();
        }
    }
}

pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub(crate) fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `what` gives something.
pub(crate) fn wait<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(got) = get() {
            return got;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One plain request; status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: shop.localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default();
    Some((status, body))
}

/// Whether real servers must be there: `./test` says so, a bare `cargo test` does not.
pub(crate) fn servers_wanted(test: &str) -> bool {
    let wanted = std::env::var_os("CUTOVER_TEST_SERVERS").is_some();
    if !wanted {
        println!("skipped: {test}: it needs real servers and time; ./test runs it");
    }
    wanted
}

/// Whether Python is there to be a service: a machine with Rust alone says so and goes on, in CI it is missed.
pub(crate) fn python_there(test: &str) -> bool {
    let there = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: {test}: it needs python3");
    }
    there
}
