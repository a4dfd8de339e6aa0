//! The ssh client that holds a connection, and is started again when it ends.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cutover_core::{Fault, file::Destination};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::refusal::explain;

/// How long a connection may take until it is there, beyond the client's own limit.
const CONNECT: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that held for so long was a good one: the next pause is the first again.
const HELD: Duration = Duration::from_secs(10);
/// So much of what it says is kept.
const LINES: usize = 20;
/// What the far end says once everything is forwarded, and then waits: it ends when we do, even if we are killed.
const FAR_END: &str = "echo cutover-ready; exec cat";

/// A connection to one host, kept open until it is dropped.
pub struct Ssh {
    client: Arc<Client>,
    state: watch::Receiver<Option<Fault>>,
    task: JoinHandle<()>,
}

/// How the client is called.
pub(super) struct Client {
    /// The program and its first arguments: `ssh`, or what `CUTOVER_SSH` says, such as `ssh -F FILE`.
    words: Vec<String>,
    to: Destination,
    control: PathBuf,
    /// Sockets here, and what they lead to there.
    sockets: Vec<(PathBuf, String)>,
}

impl Ssh {
    /// Connects to `to`, and again whenever the connection ends. The sockets named first appear here and lead to those named
    /// second there; their folders exist. `folder` is private, and its path short: sockets lie in it.
    pub fn open(to: Destination, folder: &Path, sockets: Vec<(PathBuf, String)>) -> Ssh {
        let client = Arc::new(Client { words: words(), to, control: folder.join("ssh"), sockets });
        let (sender, state) =
            watch::channel(Some(Fault::platform(format!("reach {}: connecting", client.to))));
        let task = tokio::spawn(keep(client.clone(), sender));
        Ssh { client, state, task }
    }

    /// Says why there is no connection; none while there is one.
    pub fn broken(&self) -> Option<Fault> {
        self.state.borrow().clone()
    }

    /// Waits at most `within` until it is connected, or the first attempt failed.
    ///
    /// # Errors
    /// Why it is not connected.
    pub async fn connected(&self, within: Duration) -> Result<(), Fault> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| state.as_ref().is_none_or(|fault| !fault.hint.is_empty()));
        drop(timeout(within, settled).await);
        self.broken().map_or(Ok(()), Err)
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.client.clone()
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the client's program and first arguments.
fn words() -> Vec<String> {
    let said = std::env::var("CUTOVER_SSH").unwrap_or_default();
    let words: Vec<String> = said.split_whitespace().map(String::from).collect();
    if words.is_empty() { vec!["ssh".into()] } else { words }
}

impl Client {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).arg("-S").arg(&self.control);
        // Nobody is there to be asked.
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=10",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=2",
            "ExitOnForwardFailure=yes",
            "StreamLocalBindUnlink=yes",
        ] {
            command.args(["-o", option]);
        }
        command.args(self.to.port.iter().flat_map(|port| ["-p".to_string(), port.to_string()]));
        command.kill_on_drop(true);
        command
    }

    fn connection(&self) -> Command {
        let mut command = self.command();
        command.args(["-T", "-o", "ControlMaster=yes", "-o", "ControlPersist=no"]);
        for (here, there) in &self.sockets {
            command.arg("-L").arg(format!("{}:{there}", here.display()));
        }
        command.args([&self.to.to_string(), FAR_END]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Returns a client that carries one connection to an address over the one that is there.
    pub(super) fn stream(&self, to: std::net::SocketAddr) -> Command {
        let mut command = self.command();
        command.args(["-o", "ControlMaster=no", "-W", &to.to_string(), &self.to.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }
}

async fn keep(client: Arc<Client>, state: watch::Sender<Option<Fault>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let fault = connect(&client, &state).await;
        if begun.elapsed() >= HELD {
            pause = FIRST_PAUSE;
        }
        if state.borrow().as_ref().map(|known| &known.what) != Some(&fault.what) {
            tracing::warn!(to = %client.to, why = %fault, hint = fault.hint, "no connection over ssh, trying on");
        }
        state.send_replace(Some(fault));
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Holds one connection until it ends; why it did.
async fn connect(client: &Client, state: &watch::Sender<Option<Fault>>) -> Fault {
    // One of a server that was killed: its client ends by itself, and a new one does not take over its socket.
    drop(std::fs::remove_file(&client.control));
    let mut child = match client.connection().spawn() {
        Ok(child) => child,
        Err(error) => {
            return Fault::configuration(format!("start {}: {error}", client.words[0]))
                .hint("Install OpenSSH's client: apt-get install openssh-client");
        }
    };
    // The far end lives as long as this is open; waiting for the child would close it.
    let _held = child.stdin.take();
    let said = tokio::spawn(last_lines(child.stderr.take()));
    let ready = timeout(CONNECT, ready(&mut child)).await;
    if matches!(ready, Ok(true)) {
        tracing::info!(to = %client.to, "connected over ssh");
        state.send_replace(None);
        let status = child.wait().await;
        tracing::debug!(to = %client.to, ?status, "the connection over ssh ended");
    } else {
        // It said something else, or nothing: what stands on its other output says why.
        drop(child.start_kill());
    }
    // A process that it started may hold its output open.
    let said = timeout(Duration::from_secs(1), said).await;
    explain(&client.to, &said.ok().and_then(Result::ok).unwrap_or_default())
}

/// Returns the last lines, once there are no more: a client may complain for as long as it lives.
async fn last_lines(stderr: Option<ChildStderr>) -> String {
    let Some(stderr) = stderr else { return String::new() };
    let mut lines = BufReader::new(stderr).lines();
    let mut last = VecDeque::new();
    while let Ok(Some(line)) = lines.next_line().await {
        last.push_back(line);
        if last.len() > LINES {
            last.pop_front();
        }
    }
    Vec::from(last).join("\n")
}

async fn ready(child: &mut Child) -> bool {
    let Some(stdout) = child.stdout.take() else { return false };
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A shell's greeting may come before it.
        if line == "cutover-ready" {
            return true;
        }
    }
    false
}
