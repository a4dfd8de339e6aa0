//! The proxies that are measured beside each other, each in front of one target.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cutover_proxy::{Client, ServiceTable, WHOLE};
use serde_json::json;

use super::scratch::{Running, Scratch};
use super::usage::Usage;
use super::{Setting, wire};

/// A proxy that runs.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    /// Its first process.
    pid: u32,
    // They end with it.
    _process: Option<Running>,
    _scratch: Option<Scratch>,
}

impl Proxy {
    /// Returns the processor time that it has taken, all its processes together, in microseconds.
    pub(super) fn cpu_us(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in family(self.pid)? {
            sum += Usage::cpu_of(pid)?;
        }
        Ok(sum)
    }

    /// Returns what it has in memory, all its processes together, in MiB.
    pub(super) fn pss_mib(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in family(self.pid)? {
            sum += Usage::of(pid)?.pss_mib;
        }
        Ok(sum)
    }
}

/// Returns a process and its descendants.
fn family(first: u32) -> Result<Vec<u32>> {
    let mut found = vec![first];
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} is gone"))?;
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    Ok(found)
}

/// Starts cutover's proxy with a table as a release leaves it, and one thread for each of two cores.
pub(super) async fn cutover(setting: &Setting, target: SocketAddr) -> Result<Proxy> {
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let (client, address) = scratch.start_proxy().await?;
    let targets = json!([{ "instance": "target", "address": target, "ready": true }]);
    let tracks = json!([{ "revision": "r-1", "weight_bp": WHOLE, "targets": targets }]);
    let service: ServiceTable = serde_json::from_value(json!({ "tracks": tracks }))?;
    client.set("bench", 0, 1, &service).await?;
    let holder = Client::hello(&client).await?.holder_pid.context("the proxy has a holder")?;
    Ok(Proxy { name: "cutover", address, pid: holder, _process: None, _scratch: Some(scratch) })
}

/// Starts the relay that copies bytes.
pub(super) fn copy(target: SocketAddr) -> Result<Proxy> {
    let (running, pid, address) = wire::start(&["copy".into(), target.to_string()])?;
    Ok(Proxy { name: "copy", address, pid, _process: Some(running), _scratch: None })
}

/// A peer from a package.
struct Peer {
    name: &'static str,
    template: &'static str,
    config: &'static str,
    command: fn(&Path, &Path) -> Command,
}

const PEERS: [Peer; 3] = [
    Peer {
        name: "nginx",
        template: "nginx-proxy.conf",
        config: "nginx.conf",
        command: |folder, config| {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder).arg("-c").arg(config);
            command
        },
    },
    Peer {
        name: "haproxy",
        template: "haproxy-proxy.cfg",
        config: "haproxy.cfg",
        command: |_, config| {
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(config);
            command
        },
    },
    Peer {
        name: "caddy",
        template: "Caddyfile",
        config: "Caddyfile",
        command: |folder, config| {
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
            // As the others: two threads for requests.
            command.env("GOMAXPROCS", "2").env("HOME", folder);
            command
        },
    },
];

/// Starts those of nginx, HAProxy and Caddy that are installed, and says which are not.
pub(super) fn peers(folder: &Path, setting: &Setting, target: SocketAddr) -> Result<Vec<Proxy>> {
    let mut started = Vec::new();
    for peer in PEERS {
        match start(&peer, folder, &setting.repository, target)? {
            Some(proxy) => started.push(proxy),
            None => println!("{} is not installed: it is not measured", peer.name),
        }
    }
    Ok(started)
}

fn start(peer: &Peer, folder: &Path, repository: &Path, target: SocketAddr) -> Result<Option<Proxy>> {
    let name = peer.name;
    let template = repository.join("bench/peers").join(peer.template);
    let template = std::fs::read_to_string(&template)
        .with_context(|| format!("failed to read {}; name the repository", template.display()))?;
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    // As root its workers would be somebody who cannot enter the scratch folder.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    let text = template
        .replace("@USER@", user)
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@LISTEN@", &address.to_string())
        .replace("@TARGET@", &target.to_string());
    let config = folder.join(peer.config);
    std::fs::write(&config, text)?;
    let mut command = (peer.command)(&folder, &config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("failed to start {name}")),
    };
    let pid = child.id();
    let mut process = Running::new(child);
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        if let Some(status) = process.ended() {
            bail!("{name} ended with {status}; its configuration: {}", config.display());
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "{name} does not listen after 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Some(Proxy { name: peer.name, address, pid, _process: Some(process), _scratch: None }))
}
