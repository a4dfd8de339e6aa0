//! Debian's registry, with and without certificate and login, and a wire to it that can be cut.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::suite::harness::engines_wanted;

/// How long a registry may take to listen, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `me` with `word`, as Apache's htpasswd writes it.
const LOGIN: &str = "me:$2y$05$O.sFxsGbAqcnXIFIrML/4.rg4BQIDRj2qhzW3K5e5lMF.pfOKYW6K\n";

/// Whether registries must be there, and engines.
pub(crate) fn registries_wanted(test: &str) -> bool {
    let there = Path::new("/usr/bin/docker-registry").exists();
    let wanted = engines_wanted(test);
    if wanted && !there && std::env::var_os("CI").is_none() {
        println!("skipped: {test}: it needs docker-registry");
        return false;
    }
    wanted
}

/// How a registry is reached.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wants {
    /// The address that it listens at; the engine takes loopback for safe and checks no certificate there.
    pub(crate) host: Option<std::net::IpAddr>,
    /// It has a certificate, signed by an authority of its own.
    pub(crate) tls: bool,
    /// It wants a login: `me` with `word`.
    pub(crate) login: bool,
}

/// A registry that runs until it is dropped.
pub(crate) struct Registry {
    child: Option<Child>,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Registry {
    pub(crate) fn start() -> Registry {
        Registry::start_as(Wants::default())
    }

    pub(crate) fn start_as(wants: Wants) -> Registry {
        let folder = tempfile::Builder::new().prefix("cutover-registry-").tempdir().unwrap();
        let host = wants.host.unwrap_or_else(|| "127.0.0.1".parse().unwrap());
        let mut text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {0}/data}}\n  delete: {{enabled: true}}\nhttp:\n  addr: ADDRESS\n  secret: x\n",
            folder.path().display()
        );
        if wants.tls {
            certificate(folder.path(), &host.to_string());
            text +=
                &format!("  tls: {{certificate: {0}/cert.pem, key: {0}/key.pem}}\n", folder.path().display());
        }
        if wants.login {
            fs::write(folder.path().join("htpasswd"), LOGIN).unwrap();
            text +=
                &format!("auth:\n  htpasswd: {{realm: test, path: {}/htpasswd}}\n", folder.path().display());
        }
        fs::write(folder.path().join("template.yml"), text).unwrap();
        let mut registry = Registry { child: None, folder, address: SocketAddr::new(host, 0) };
        registry.begin();
        registry
    }

    /// Returns its name in image references, such as `127.0.0.1:5000`.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the certificate of who signed its own.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again, at the same address and with what it had.
    pub(crate) fn start_again(&mut self) {
        self.begin();
    }

    fn begin(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let text = fs::read_to_string(path("template.yml")).unwrap();
        fs::write(path("config.yml"), text.replace("ADDRESS", &self.address.to_string())).unwrap();
        let log = path("log");
        let output = fs::File::create(&log).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path("config.yml")).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output).env("OTEL_TRACES_EXPORTER", "none");
        let mut child = command.spawn().unwrap();
        let begun = Instant::now();
        let address = loop {
            let text = fs::read_to_string(&log).unwrap();
            let found = text.split("listening on ").nth(1).and_then(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c))?;
                rest[..end].parse().ok()
            });
            match found {
                Some(address) => break address,
                None if begun.elapsed() < PATIENCE && child.try_wait().unwrap().is_none() => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                None => panic!("the registry does not listen:\n{text}"),
            }
        };
        self.address = address;
        self.child = Some(child);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes an authority and a certificate of it for a host.
fn certificate(folder: &Path, host: &str) {
    let path = |name: &str| folder.join(name).display().to_string();
    let script = format!(
        "set -e\nopenssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout {ca_key} -out {ca}\n\
         openssl req -newkey rsa:2048 -nodes -subj /CN={host} -keyout {key} -out {request}\n\
         printf 'subjectAltName=IP:{host}\\n' >{extra}\n\
         openssl x509 -req -in {request} -CA {ca} -CAkey {ca_key} -CAcreateserial -days 2 -extfile {extra} -out {cert}",
        ca_key = path("ca-key.pem"),
        ca = path("ca.pem"),
        key = path("key.pem"),
        request = path("request.pem"),
        extra = path("extra"),
        cert = path("cert.pem"),
    );
    run(Command::new("sh").args(["-c", &script]));
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A wire to a registry that is cut after so many bytes have come over it.
pub(crate) struct Wire {
    address: SocketAddr,
    state: Arc<WireState>,
}

struct WireState {
    /// How many bytes may still come.
    left: AtomicI64,
    /// It was cut, and lets nothing pass until it is mended.
    cut: AtomicBool,
}

impl Wire {
    /// Cuts all connections once `bytes` came from the registry, and every later one, until it is mended.
    pub(crate) fn cut_after(bytes: i64, to: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(WireState { left: AtomicI64::new(bytes), cut: AtomicBool::new(false) });
        let shared = state.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(to) else { continue };
                let (from, back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down) = (shared.clone(), shared.clone());
                std::thread::spawn(move || pass(from, back, |_| !up.cut.load(Ordering::SeqCst)));
                std::thread::spawn(move || pass(server, client, |bytes| down.comes(bytes)));
            }
        });
        Wire { address, state }
    }

    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    /// Lets everything pass from here on. It must have been cut.
    pub(crate) fn mend(&self) {
        assert!(self.state.cut.load(Ordering::SeqCst), "the wire was never cut");
        self.state.left.store(i64::MAX, Ordering::SeqCst);
        self.state.cut.store(false, Ordering::SeqCst);
    }
}

impl WireState {
    fn comes(&self, bytes: usize) -> bool {
        if self.left.fetch_sub(bytes as i64, Ordering::SeqCst) <= bytes as i64 {
            self.cut.store(true, Ordering::SeqCst);
        }
        !self.cut.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, may: impl Fn(usize) -> bool) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || !may(read) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A registry that answers everything with the same status and words.
pub(crate) fn stubborn(status: &'static str, body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 4096];
            let _ = client.read(&mut request);
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
            );
            let _ = write!(
                client,
                "{head}docker-distribution-api-version: registry/2.0\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    address
}
