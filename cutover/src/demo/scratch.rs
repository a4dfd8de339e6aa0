//! The demo's scratch state: a folder, a server, a proxy; nothing of it is left behind.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::Failure;
use crate::server::Client;
use crate::state::StateDir;

/// A scratch folder with a server of its own.
pub(super) struct Scratch {
    folder: Option<tempfile::TempDir>,
    pub(super) state: StateDir,
    pub(super) path: PathBuf,
    pub(super) address: SocketAddr,
}

impl Scratch {
    /// Makes the folder and finds a free address.
    pub(super) fn make() -> Result<Scratch, Failure> {
        let failed =
            |error: std::io::Error| Failure::own(format!("failed to make a scratch folder: {error}"));
        let folder = tempfile::Builder::new().prefix("cutover-demo-").tempdir().map_err(failed)?;
        let path = folder.path().to_path_buf();
        // Also a demo whose CI job is cleaned up leaves nothing behind.
        let state = StateDir::find(Some(&path.join("state")))?.scratch();
        state.create()?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).map_err(failed)?;
        Ok(Scratch { folder: Some(folder), state, path, address })
    }

    /// Stops everything that was started here and removes the folder; says what could not be done.
    pub(super) async fn clean(mut self, service: &str) -> Vec<String> {
        let mut left = Vec::new();
        if let Ok(Some(client)) = Client::connect(&self.state).await {
            // In the middle of a release it is refused; what it leaves is ended below.
            let destroyed: Result<(), Failure> =
                client.post(&format!("/v1/services/{service}/destroy"), &()).await;
            drop(destroyed);
        }
        left.extend(crate::server::stop(&self.state).await.err().map(|failure| failure.to_string()));
        left.extend(crate::server::stop_proxy(&self.state).await.err().map(|failure| failure.to_string()));
        left.extend(self.end_stragglers().await);
        if let Some(folder) = self.folder.take() {
            left.extend(
                folder.close().err().map(|error| format!("failed to remove the scratch folder: {error}")),
            );
        }
        left
    }

    /// Ends what was still starting when the demo was interrupted, and so could not be told to stop: processes that
    /// have our folder, whose name nobody else knows, in their command line or as their working directory.
    async fn end_stragglers(&self) -> Option<String> {
        let begun = Instant::now();
        loop {
            let found = processes_of(&self.path);
            // A process that was born this very moment has no command line yet.
            if found.is_empty() && begun.elapsed() > Duration::from_millis(200) {
                return None;
            }
            if begun.elapsed() > Duration::from_secs(5) {
                return Some(format!("processes that do not end: {found:?}"));
            }
            let signal = if begun.elapsed() < Duration::from_secs(1) { Signal::TERM } else { Signal::KILL };
            for pid in found {
                let _ = kill_process(pid, signal);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Leaves everything as it is.
    pub(super) fn keep(mut self) {
        if let Some(folder) = self.folder.take() {
            let _ = folder.keep();
        }
    }
}

fn processes_of(folder: &Path) -> Vec<Pid> {
    let mark = folder.as_os_str().as_encoded_bytes();
    let ours = |entry: &std::fs::DirEntry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let inside = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        (inside || command.windows(mark.len()).any(|part| part == mark)) && !command.is_empty()
    };
    let me = std::process::id().cast_signed();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().filter(ours);
    all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != me)
        .filter_map(Pid::from_raw)
        .collect()
}
