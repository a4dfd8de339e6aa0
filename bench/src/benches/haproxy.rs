//! The peer of a rollback: HAProxy, told by its admin socket, and tripping by itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::scratch::Running;

/// An HAProxy on a scratch folder, with the servers `stable`, `good` and `bad`.
pub(super) struct HaProxy {
    socket: PathBuf,
    pub(super) address: SocketAddr,
    _process: Running,
}

impl HaProxy {
    /// Starts it in front of three servers; none: it is not installed.
    pub(super) fn start(
        folder: &Path,
        repository: &Path,
        servers: [SocketAddr; 3],
        errors: u64,
    ) -> Result<Option<HaProxy>> {
        if Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let template = repository.join("bench/peers/haproxy-rollback.cfg");
        let template = std::fs::read_to_string(&template)
            .with_context(|| format!("failed to read {}; name the repository", template.display()))?;
        let folder = folder.join("haproxy");
        std::fs::create_dir_all(&folder)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let [stable, good, bad] = servers.map(|server| server.to_string());
        let text = template
            .replace("@FOLDER@", &folder.display().to_string())
            .replace("@LISTEN@", &address.to_string())
            .replace("@ERRORS@", &errors.to_string())
            .replace("@STABLE@", &stable)
            .replace("@GOOD@", &good)
            .replace("@BAD@", &bad);
        let config = folder.join("haproxy.cfg");
        std::fs::write(&config, text)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let mut process = Running::new(command.stderr(Stdio::null()).spawn()?);
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.ended() {
                bail!("haproxy ended with {status}; see: haproxy -c -f {}", config.display());
            }
            ensure!(begun.elapsed() < Duration::from_secs(10), "haproxy does not listen after 10 s");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(HaProxy { socket: folder.join("admin.sock"), address, _process: process }))
    }

    /// Sets weights of servers in one command line; the first failure stops it.
    pub(super) fn weigh(&self, weights: &[(&str, u32)]) -> Result<()> {
        let set = |(server, weight): &(&str, u32)| format!("set server service/{server} weight {weight}");
        self.tell(&weights.iter().map(set).collect::<Vec<_>>().join(";"))
    }

    /// Sends a line to the admin socket.
    fn tell(&self, line: &str) -> Result<()> {
        let mut stream =
            UnixStream::connect(&self.socket).context("failed to reach haproxy's admin socket")?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.trim().is_empty(), "haproxy answered to {line:?}: {}", answer.trim());
        Ok(())
    }
}
