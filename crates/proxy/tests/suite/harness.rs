//! A proxy of its own for each test, and a plain client that sees every byte.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cutover_proxy::{
    Arm, CandidateLease, Client, Counts, Guard, Observation, ServiceTable, SetReply, Target, TargetProtocol,
    Track,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const SERVICE: &str = "shop";

pub(crate) struct Proxy {
    pub(crate) dir: TempDir,
    pub(crate) holder: Child,
    pub(crate) client: Client,
    pub(crate) addr: SocketAddr,
}

pub(crate) fn spawn_holder(dir: &Path, listen: &[SocketAddr]) -> Child {
    spawn_holder_with(dir, listen, &[])
}

pub(crate) fn spawn_holder_with(dir: &Path, listen: &[SocketAddr], environment: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_cutover-proxy-test"))
        .envs(environment.iter().copied())
        .arg("holder")
        .arg(dir)
        .arg("1500")
        .env("CUTOVER_TEST_MOMENT", dir.join("moment"))
        .args(listen.iter().map(ToString::to_string))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_on(dir).await
    }

    pub(crate) async fn start_on(dir: TempDir) -> Self {
        Self::start_with(dir, &[]).await
    }

    pub(crate) async fn start_with(dir: TempDir, environment: &[(&str, &str)]) -> Self {
        let holder = spawn_holder_with(dir.path(), &[any()], environment);
        let client = Client::new(dir.path()).with_deadline(LIMIT);
        let addr = first_listener(&client).await;
        Self { dir, holder, client, addr }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        Wire::connect(self.addr).await.get(path).await
    }

    pub(crate) async fn set(&self, expected: u64, table: &ServiceTable) -> SetReply {
        self.client.set(SERVICE, expected, 1, table).await.unwrap()
    }

    pub(crate) async fn worker_pid(&self) -> u32 {
        self.client.hello().await.unwrap().worker_pid
    }

    /// Counts of an arm, zero when it has counted nothing.
    pub(crate) async fn counts(&self, revision: &str, arm: Arm) -> Counts {
        let seen = self.client.observe_service(SERVICE).await.unwrap();
        counts(&seen, revision, arm)
    }

    pub(crate) async fn terminate(mut self) -> TempDir {
        signal(self.holder.id(), Signal::TERM);
        until("holder ends", || self.holder.try_wait().unwrap()).await;
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

pub(crate) fn counts(seen: &Observation, revision: &str, arm: Arm) -> Counts {
    let mut sum = Counts::default();
    for seen in &seen.services[SERVICE].arms {
        if seen.revision == revision && seen.arm == arm {
            sum.merge(&seen.counts);
        }
    }
    sum
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        kill_all_of(self.dir.path());
        let _ = self.holder.wait();
    }
}

/// Kills the holder and the workers of one folder, which nobody else uses.
pub(crate) fn kill_all_of(dir: &Path) {
    for _ in 0..2 {
        all_of(dir).into_iter().for_each(|pid| signal(pid, Signal::KILL));
    }
}

/// Returns the processes of one folder: holder and workers, whoever started them.
pub(crate) fn all_of(dir: &Path) -> Vec<u32> {
    let dir = dir.to_str().unwrap();
    let is_of = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = command.split(|byte| *byte == 0);
        *pid != std::process::id() && arguments.any(|argument| argument == dir.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).filter(is_of).collect()
}

async fn first_listener(client: &Client) -> SocketAddr {
    let end = Instant::now() + LIMIT;
    loop {
        match client.hello().await {
            Ok(hello) => return hello.listeners[0],
            Err(error) => assert!(Instant::now() < end, "proxy does not start: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls until there is something, or fails with what was waited for.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Polls the proxy's observation until it satisfies.
pub(crate) async fn until_seen(
    proxy: &Proxy,
    what: &str,
    look: impl Fn(&Observation) -> bool,
) -> Observation {
    let end = Instant::now() + LIMIT;
    loop {
        let seen = proxy.client.observe().await.unwrap();
        if look(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "waited in vain: {what}: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

pub(crate) fn track(revision: &str, weight_bp: u16, addresses: &[SocketAddr]) -> Track {
    let targets = addresses.iter().enumerate().map(|(at, address)| Target {
        instance: format!("{revision}-{at}"),
        address: *address,
        ready: true,
    });
    let (protocol, checks) = (TargetProtocol::Http1, None);
    Track { revision: revision.into(), weight_bp, targets: targets.collect(), checks, protocol }
}

pub(crate) fn table(tracks: Vec<Track>) -> ServiceTable {
    ServiceTable { tracks, ..ServiceTable::default() }
}

pub(crate) fn candidate(
    release: &str,
    revision: &str,
    lease_ms: u64,
    guard: Option<Guard>,
) -> Option<CandidateLease> {
    Some(CandidateLease {
        release: release.into(),
        revision: revision.into(),
        lease_ms,
        fallback: vec![("v1".into(), 10_000)],
        guard,
        judge: None,
    })
}

/// A response as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// One client connection.
pub(crate) struct Wire {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Wire {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = timeout(LIMIT, TcpStream::connect(addr)).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        timeout(LIMIT, self.stream.write_all(text.as_ref())).await.unwrap().unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\n\r\n")).await;
        self.response(false).await.unwrap()
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> std::io::Result<Response> {
        let length = body.len();
        let text =
            format!("POST {path} HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {length}\r\n\r\n{body}");
        self.stream.write_all(text.as_bytes()).await?;
        self.response(false).await
    }

    pub(crate) async fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        loop {
            line.push(timeout(LIMIT, self.stream.read_u8()).await??);
            if line.ends_with(b"\r\n") {
                line.truncate(line.len() - 2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
        }
    }

    pub(crate) async fn head(&mut self) -> std::io::Result<(u16, String)> {
        let mut head = String::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            head.push_str(&line);
            head.push('\n');
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, head))
    }

    /// Reads a whole response; a truncated one is an error.
    pub(crate) async fn response(&mut self, to_head: bool) -> std::io::Result<Response> {
        let (status, head) = self.head().await?;
        let mut response = Response { status, head, body: Vec::new(), trailers: String::new() };
        if to_head || status == 204 || status == 304 {
            return Ok(response);
        }
        let chunked =
            response.header("transfer-encoding").is_some_and(|te| te.eq_ignore_ascii_case("chunked"));
        if chunked {
            loop {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    break;
                }
                response.body.extend(chunk);
            }
            loop {
                let line = self.line().await?;
                if line.is_empty() {
                    break;
                }
                response.trailers.push_str(&line);
            }
        } else if let Some(length) = response.header("content-length") {
            response.body = vec![0; length.parse().unwrap()];
            timeout(LIMIT, self.stream.read_exact(&mut response.body)).await??;
        } else {
            timeout(LIMIT, self.stream.read_to_end(&mut response.body)).await??;
        }
        Ok(response)
    }

    /// Reads one chunk; empty for the last.
    pub(crate) async fn chunk(&mut self) -> std::io::Result<Vec<u8>> {
        let length = usize::from_str_radix(self.line().await?.trim(), 16).unwrap();
        let mut chunk = vec![0; length];
        timeout(LIMIT, self.stream.read_exact(&mut chunk)).await??;
        if length > 0 {
            self.line().await?;
        }
        Ok(chunk)
    }

    /// Tells whether the proxy has closed the connection.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(timeout(LIMIT, self.stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
    }
}
