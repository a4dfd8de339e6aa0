//! The peer of a shift: nginx reloaded between two configurations, which is what people do today.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cutover_bench::load::Load;

use super::numbers::Samples;
use super::scratch::{Running, said};
use super::services::Revision;

/// An nginx on a scratch folder.
pub(super) struct Nginx {
    folder: PathBuf,
    template: String,
    pub(super) address: SocketAddr,
    _process: Running,
}

impl Nginx {
    /// Starts it in front of a revision; none: it is not installed.
    pub(super) fn start(folder: &Path, repository: &Path, revision: &Revision) -> Result<Option<Nginx>> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            return Ok(None);
        }
        let template = repository.join("bench/peers/nginx-reload.conf");
        let template = std::fs::read_to_string(&template)
            .with_context(|| format!("failed to read {}; name the repository", template.display()))?;
        let folder = folder.join("nginx");
        std::fs::create_dir(&folder)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        write(&folder, &template, address, revision)?;
        let process = command(&folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut process = Running::new(process);
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.ended() {
                let log = std::fs::read_to_string(folder.join("error.log")).unwrap_or_default();
                bail!("nginx ended with {status}: {log}");
            }
            ensure!(begun.elapsed() < Duration::from_secs(10), "nginx does not listen after 10 s");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(Nginx { folder, template, address, _process: process }))
    }

    /// Goes over to a revision; returns how long `nginx -s reload` took.
    pub(super) fn reload(&self, revision: &Revision) -> Result<Duration> {
        write(&self.folder, &self.template, self.address, revision)?;
        let begun = Instant::now();
        let output = command(&self.folder).args(["-s", "reload"]).output()?;
        let took = begun.elapsed();
        ensure!(output.status.success(), "nginx -s reload failed: {}", said(&output));
        Ok(took)
    }

    /// Reloads so many times, once each `pause`, between the revisions; returns how long `nginx -s reload` took.
    pub(super) fn reloads(
        &self,
        revisions: &[Revision; 2],
        count: usize,
        pause: Duration,
        load: &Load,
    ) -> Result<Samples> {
        let mut took = Samples::default();
        for number in 0..count {
            let revision = &revisions[1 - number % 2];
            load.expect_version(None);
            took.add(self.reload(revision)?);
            load.expect_version(Some(revision.version));
            std::thread::sleep(pause);
        }
        load.expect_version(None);
        Ok(took)
    }
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).stdin(Stdio::null());
    command
}

fn write(folder: &Path, template: &str, address: SocketAddr, revision: &Revision) -> Result<()> {
    let servers: String = revision.addresses.iter().map(|target| format!("server {target}; ")).collect();
    // As root its workers would be somebody who cannot enter the scratch folder.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    let text = template
        .replace("@USER@", user)
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@LISTEN@", &address.to_string())
        .replace("@SERVERS@", servers.trim_end());
    Ok(std::fs::write(folder.join("nginx.conf"), text)?)
}
