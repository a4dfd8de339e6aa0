//! The proxies that are measured beside each other, each in front of one target.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cutover_proxy::{Client, ServiceTable, WHOLE};
use serde_json::json;

use super::certificate::Certificate;
use super::scratch::{Running, Scratch};
use super::usage::Usage;
use super::{Setting, wire};

/// A proxy that runs.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    /// Where it speaks TLS, if it does.
    pub(super) secure: Option<SocketAddr>,
    /// Its first process.
    pid: u32,
    // They end with it.
    _process: Option<Running>,
    _scratch: Option<Scratch>,
}

impl Proxy {
    /// Returns a cutover that runs as a child of this program.
    pub(super) fn of(address: SocketAddr, pid: u32, process: Running) -> Proxy {
        let (secure, _process, _scratch) = (None, Some(process), None);
        Proxy { name: "cutover", address, secure, pid, _process, _scratch }
    }

    /// Returns the processor time that it has taken, all its processes together, in microseconds.
    pub(super) fn cpu_us(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in family(self.pid)? {
            sum += Usage::cpu_of(pid)?;
        }
        Ok(sum)
    }

    /// Returns how long all its threads together were ready to run and had no core, in microseconds.
    pub(super) fn waited_us(&self) -> Result<f64> {
        Ok(family(self.pid)?.into_iter().map(Usage::waited_of).sum())
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
pub(super) async fn cutover(
    setting: &Setting,
    target: SocketAddr,
    certificate: &Certificate,
) -> Result<Proxy> {
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let (client, address) = scratch.start_proxy().await?;
    let secure = client.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let mut service = service(target)?;
    service.tls = vec![certificate.route(secure)];
    client.set("bench", 0, 1, &service).await?;
    started(scratch, &client, address, Some(secure)).await
}

/// Returns the table of a service with one target, which takes everything.
pub(super) fn service(target: SocketAddr) -> Result<ServiceTable> {
    let targets = json!([{ "instance": "target", "address": target, "ready": true }]);
    let tracks = json!([{ "revision": "r-1", "weight_bp": WHOLE, "targets": targets }]);
    Ok(serde_json::from_value(json!({ "tracks": tracks }))?)
}

/// Returns a cutover that was started and has its table.
pub(super) async fn started(
    scratch: Scratch,
    client: &Client,
    address: SocketAddr,
    secure: Option<SocketAddr>,
) -> Result<Proxy> {
    let pid = client.hello().await?.holder_pid.context("the proxy has a holder")?;
    Ok(Proxy { name: "cutover", address, secure, pid, _process: None, _scratch: Some(scratch) })
}

/// Starts the relay that copies bytes.
pub(super) fn copy(target: SocketAddr) -> Result<Proxy> {
    role("copy", "copy", target)
}

/// Starts the relay that is nothing but hyper.
pub(super) fn hyper(target: SocketAddr) -> Result<Proxy> {
    role("hyper", "relay", target)
}

/// Starts a role of this program.
fn role(name: &'static str, role: &str, target: SocketAddr) -> Result<Proxy> {
    let (running, pid, address) = wire::start(&[role.into(), target.to_string()])?;
    Ok(Proxy { name, address, secure: None, pid, _process: Some(running), _scratch: None })
}

/// A peer from a package.
struct Peer {
    name: &'static str,
    config: &'static str,
    command: fn(&Path, &Path) -> Command,
}

const PEERS: [Peer; 3] = [
    Peer {
        name: "nginx",
        config: "nginx.conf",
        command: |folder, config| {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder).arg("-c").arg(config);
            command
        },
    },
    Peer {
        name: "haproxy",
        config: "haproxy.cfg",
        command: |_, config| {
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(config);
            command
        },
    },
    Peer {
        name: "caddy",
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
pub(super) fn peers(
    folder: &Path,
    setting: &Setting,
    target: SocketAddr,
    certificate: &Certificate,
) -> Result<Vec<Proxy>> {
    configured(
        &[("nginx", "nginx-proxy.conf"), ("haproxy", "haproxy-proxy.cfg"), ("caddy", "Caddyfile")],
        folder,
        setting,
        &[
            ("@TARGET@", target.to_string()),
            ("@CERT@", certificate.cert.display().to_string()),
            ("@KEY@", certificate.key.display().to_string()),
            ("@PEM@", certificate.both.display().to_string()),
        ],
    )
}

/// Starts peers by configurations from `bench/peers`, in which `words` are filled in; says which are not installed.
pub(super) fn configured(
    wanted: &[(&str, &str)],
    folder: &Path,
    setting: &Setting,
    words: &[(&str, String)],
) -> Result<Vec<Proxy>> {
    let mut started = Vec::new();
    for (name, template) in wanted {
        let peer = PEERS.iter().find(|peer| peer.name == *name).context("a peer that is known")?;
        let template = setting.repository.join("bench/peers").join(template);
        match start(peer, &template, folder, words)? {
            Some(proxy) => started.push(proxy),
            None => println!("{name} is not installed: it is not measured"),
        }
    }
    Ok(started)
}

fn start(peer: &Peer, template: &Path, folder: &Path, words: &[(&str, String)]) -> Result<Option<Proxy>> {
    let name = peer.name;
    let mut text = std::fs::read_to_string(template)
        .with_context(|| format!("failed to read {}; name the repository", template.display()))?;
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder)?;
    // Both held until both are known: they must differ.
    let free = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let [address, secure] = [free[0].local_addr()?, free[1].local_addr()?];
    drop(free);
    // As root its workers would be somebody who cannot enter the scratch folder.
    let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    let secured = text.contains("@SECURE@").then_some(secure);
    let own = [
        ("@USER@", user.to_owned()),
        ("@FOLDER@", folder.display().to_string()),
        ("@LISTEN@", address.to_string()),
        ("@SECURE@", secure.to_string()),
    ];
    for (word, value) in own.iter().chain(words) {
        text = text.replace(word, value);
    }
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
            let text = std::fs::read_to_string(&config).unwrap_or_default();
            bail!("{name} ended with {status}; its configuration:\n{text}");
        }
        ensure!(begun.elapsed() < Duration::from_secs(10), "{name} does not listen after 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (_process, _scratch) = (Some(process), None);
    Ok(Some(Proxy { name: peer.name, address, secure: secured, pid, _process, _scratch }))
}
