//! Malformed requests, as data: what the proxy answers, what reaches a target, and what nginx and HAProxy do.
//!
//! `malformed_requests.txt` has the requests, docs/malformed-requests.md what became of them. After a change that is meant:
//! `UPDATE_EXPECT=1 CUTOVER_TEST_SERVERS=1 cargo test -p cutover-proxy malformed`.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::harness::{Proxy, table, track, until};

const REQUESTS: &str = include_str!("malformed_requests.txt");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/malformed-requests.md");
/// Who has not answered by then waits for more of the request.
const PATIENCE: Duration = Duration::from_secs(4);
/// Said in a request that hides in another one.
const HIDDEN: &str = "/smuggled";

/// Returns the names and the bytes.
fn requests() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let read = |line: &'static str| {
        let (name, text) = line.split_once(" | ").unwrap();
        (name, text, unescape(text))
    };
    REQUESTS.lines().map(read).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match (byte == b'\\').then(|| rest.next().unwrap()) {
            None => byte,
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            Some(other) => panic!("\\{} in {text}", other as char),
        });
    }
    bytes
}

/// A target that writes down every byte, and answers what it takes for requests in the plainest way.
struct Recorder {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let own = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(record(stream, own.clone()));
            }
        });
        Self { addr, seen }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn record(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    loop {
        while let Some(length) = whole(&bytes) {
            let request: Vec<u8> = bytes.drain(..length).collect();
            seen.lock().unwrap().push(shown(&request));
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}

/// Returns the length of the first request, once it is whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("transfer-encoding:").is_some() {
        let body = &bytes[head..];
        let last = if body.starts_with(b"0\r\n") { 0 } else { find(body, b"\r\n0\r\n")? + 2 };
        return Some(head + last + find(&body[last..], b"\r\n\r\n")? + 4);
    }
    let length = head + field("content-length:").map_or(0, |length| length.parse().unwrap_or(0));
    (bytes.len() >= length).then_some(length)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The request as the target got it, without what the proxy itself always adds.
fn shown(request: &[u8]) -> String {
    let text = request.escape_ascii().to_string();
    let lines = text.split("\\r\\n").filter(|line| !line.starts_with("x-forwarded-"));
    lines.collect::<Vec<_>>().join("\\r\\n")
}

/// Sends the bytes; returns the status of the answer and whether the connection was closed after it.
async fn ask(addr: SocketAddr, bytes: &[u8]) -> (String, bool) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // It may be refused before all of it was read.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut closed = false;
    while whole_answer(&answer).is_none() && !closed {
        match timeout(PATIENCE, stream.read_buf(&mut answer)).await {
            Ok(read) => closed = !matches!(read, Ok(1..)),
            // For it the request is not over: the end of it is.
            Err(_) => return ("waits".into(), true),
        }
    }
    let Some(length) = whole_answer(&answer) else {
        let status =
            answer.get(9..12).map_or("closed".to_owned(), |status| String::from_utf8_lossy(status).into());
        return (status, true);
    };
    let status = String::from_utf8_lossy(&answer[9..12]).into_owned();
    // Whether it closes is known when it has, or when it answers one more request.
    while !closed && answer.len() == length {
        let _ = stream.write_all(b"GET /more HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let read = timeout(Duration::from_secs(5), stream.read_buf(&mut answer)).await;
        closed = !matches!(read, Ok(Ok(1..)));
    }
    (status, closed)
}

fn whole_answer(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    if text.starts_with("http/1.1 1") {
        return None;
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    let length = head + length.trim().parse::<usize>().unwrap();
    (bytes.len() >= length).then_some(length)
}

/// What became of one request.
#[derive(PartialEq, Eq)]
struct Fate {
    status: String,
    closed: bool,
    /// Requests that reached the target.
    reached: Vec<String>,
}

impl Fate {
    /// In a word: refused, or passed on as how many requests.
    fn word(&self) -> String {
        let hidden = self.reached.iter().any(|request| request.contains(HIDDEN));
        match self.reached.len() {
            _ if hidden => format!("**{}, two requests**", self.status),
            0 if self.status == "waits" => "waits for more".into(),
            0 if self.closed => format!("{}, closes", self.status),
            0 => self.status.clone(),
            1 => "passes on".into(),
            count => format!("**passes on as {count}**"),
        }
    }
}

async fn fates(addr: SocketAddr, recorder: &Recorder) -> Vec<Fate> {
    let mut fates = Vec::new();
    for (_, _, bytes) in requests() {
        recorder.take();
        let (status, closed) = ask(addr, &bytes).await;
        let mut reached = recorder.take();
        // Ours, to see whether the connection lives.
        reached.retain(|request| !request.starts_with("GET /more "));
        fates.push(Fate { status, closed, reached });
    }
    fates
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a peer with its configuration; returns it once it accepts connections.
async fn peer(
    program: &str,
    arguments: &[&str],
    config: &str,
    dir: &std::path::Path,
    port: u16,
) -> (Peer, SocketAddr) {
    let path = dir.join(format!("{port}.conf"));
    std::fs::write(&path, config).unwrap();
    let child = Command::new(program)
        .args(arguments)
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    until(program, || std::net::TcpStream::connect(addr).ok()).await;
    (Peer(child), addr)
}

fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("-v").output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let words = text.split([' ', '/', '-', '\n']);
    words.map(str::to_owned).find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn peers(recorder: &Recorder) -> Option<[(String, Vec<Fate>); 2]> {
    if std::env::var_os("CUTOVER_TEST_SERVERS").is_none() {
        println!(
            "skipped: what nginx and HAProxy answer to malformed requests; CUTOVER_TEST_SERVERS=1 asks them"
        );
        return None;
    }
    let program = |name: &str| {
        let path = format!("/usr/sbin/{name}");
        if std::path::Path::new(&path).exists() { path } else { name.to_owned() }
    };
    let (nginx, haproxy) = (program("nginx"), program("haproxy"));
    let (dir, target) = (tempfile::tempdir().unwrap(), recorder.addr);
    let at = dir.path().display();
    let port = free_port().await;
    let config = format!(
        "daemon off; master_process off; pid {at}/nginx.pid; error_log /dev/null;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
         fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{target}; proxy_http_version 1.1;\n\
         proxy_set_header Host $http_host; proxy_set_header Connection \"\"; }} }} }}\n"
    );
    let (_nginx, addr) = peer(&nginx, &["-c"], &config, dir.path(), port).await;
    let of_nginx = (format!("nginx {}", version(&nginx).unwrap()), fates(addr, recorder).await);
    let port = free_port().await;
    let config = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
         frontend in\n bind 127.0.0.1:{port}\n default_backend target\n\
         backend target\n server one {target}\n"
    );
    let (_haproxy, addr) = peer(&haproxy, &["-f"], &config, dir.path(), port).await;
    let of_haproxy = (format!("HAProxy {}", version(&haproxy).unwrap()), fates(addr, recorder).await);
    Some([of_nginx, of_haproxy])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_or_passed_on_safely() {
    let (proxy, recorder) = (Proxy::start().await, Recorder::start().await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[recorder.addr])])).await;
    let ours = fates(proxy.addr, &recorder).await;
    let requests = requests();
    assert!(requests.len() >= 100 && ours.len() == requests.len());
    let mut table = String::new();
    for ((name, text, _), fate) in requests.iter().zip(&ours) {
        // What is safe whatever the table says: nothing hidden is ever let out, one request stays one, and whoever is
        // refused for its form gets no further chance on the connection.
        assert!(fate.reached.len() <= 1, "{name}: {text}\n{:#?}", fate.reached);
        assert!(!fate.reached.concat().contains(HIDDEN), "{name}: {text}");
        assert!(
            fate.reached.len() == 1 || fate.closed || fate.status == "501",
            "{name}: {} stays open",
            fate.status
        );
        let reached = fate.reached.first().map_or("-".to_owned(), |request| format!("`{request}`"));
        table.push_str(&format!("{name} | `{text}` | {} | {reached}\n", fate.word()));
    }
    expect_test::expect_file!["malformed_fates.txt"].assert_eq(&table);
    let Some([nginx, haproxy]) = peers(&recorder).await else { return };
    let mut page = format!(
        "# Malformed requests\n\n\
         What the proxy does with requests that are wrong, and what {} and {} do with them in their default configuration as \
         a proxy: the status of a refusal and whether the connection is closed, or that the request is passed on. Kept true \
         by `crates/proxy/tests/suite/malformed.rs`, which has each request, and each byte that reached the target.\n\n\
         | request | cutover | {} | {} |\n| --- | --- | --- | --- |\n",
        nginx.0, haproxy.0, nginx.0, haproxy.0
    );
    for (at, (name, _, _)) in requests.iter().enumerate() {
        let words = [&ours, &nginx.1, &haproxy.1].map(|fates| fates[at].word());
        page.push_str(&format!("| {name} | {} |\n", words.join(" | ")));
    }
    let before = std::fs::read_to_string(PAGE).unwrap_or_default();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return std::fs::write(PAGE, page).unwrap();
    }
    // Other versions may answer otherwise: ours is compared in any case, by the lines above.
    if before.lines().nth(2) == page.lines().nth(2) {
        assert_eq!(before, page, "docs/malformed-requests.md is not up to date; see the head of this file");
    } else {
        println!(
            "skipped: docs/malformed-requests.md is about other versions of nginx and HAProxy than those here"
        );
    }
}
