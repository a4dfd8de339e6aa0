//! Instances of the test service that a benchmark starts itself.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow};

use super::scratch::Running;

/// A version with its instances.
pub(super) struct Revision {
    pub(super) version: &'static str,
    pub(super) addresses: Vec<SocketAddr>,
    _instances: Vec<Running>,
}

impl Revision {
    /// Starts instances on ports that the system chooses; returns once all listen.
    pub(super) fn start(version: &'static str, instances: usize, received: &Path) -> Result<Revision> {
        Revision::start_with(version, instances, received, &[])
    }

    /// The same of one that behaves as the environment says.
    pub(super) fn start_with(
        version: &'static str,
        instances: usize,
        received: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Revision> {
        let (mut addresses, mut running) = (Vec::new(), Vec::new());
        for _ in 0..instances {
            let mut child = Command::new(std::env::current_exe()?)
                .arg("service")
                .env_clear()
                .envs([("PORT", "0"), ("VERSION", version)])
                .env("RECEIVED", received)
                .envs(environment.iter().copied())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .context("failed to start the test service")?;
            let output = child.stdout.take().context("the service has an output")?;
            running.push(Running::new(child));
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line)?;
            let address = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok());
            addresses.push(
                address.ok_or_else(|| anyhow!("the test service said {line:?}, not where it listens"))?,
            );
        }
        Ok(Revision { version, addresses, _instances: running })
    }
}
