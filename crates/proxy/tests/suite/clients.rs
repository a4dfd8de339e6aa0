//! Programs of others against the proxy: they check what they get by their own reading of the protocols.
//!
//! Those in Python lie in `tests/clients`; `./test` installs what they import and says where in `CUTOVER_TEST_PYTHON`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use cutover_proxy::{Pace, ServiceTable, TargetProtocol};

use super::harness::{LIMIT, Proxy, SERVICE, table, track};
use super::upstream::Upstream;

/// Longer than any client of the tests goes on.
const PATIENCE: Duration = Duration::from_secs(150);
/// Of a drain; no call of a client takes as long, so that none is cut.
const WINDOW: Duration = Duration::from_secs(5);

/// Tells whether a program can be run here; if not it says so in one line, and fails where nothing may be left out.
fn there(test: &str, program: &str, arguments: &[&str], fits: fn(i32) -> bool) -> bool {
    let mut command = std::process::Command::new(program);
    let run = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = run.status().is_ok_and(|status| status.code().is_some_and(fits));
    let told = format!("{program} {} cannot be run", arguments.join(" "));
    assert!(there || std::env::var_os("CUTOVER_TEST_SERVERS").is_none(), "{told}; ./test installs it");
    if !there {
        println!("skipped: {test}: {told}");
    }
    there
}

/// Returns the interpreter whose packages `./test` has installed.
fn python() -> String {
    std::env::var("CUTOVER_TEST_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// The same for a package of Python.
fn imports(test: &str, package: &str) -> bool {
    there(test, &python(), &["-c", &format!("import {package}")], |code| code == 0)
}

/// A script of `tests/clients` that ends when its input does.
struct Script {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// Starts it; returns it with the first line that it prints.
    async fn start(name: &str, arguments: &[&str]) -> (Self, String) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
        let mut child = Command::new(python())
            .arg(path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut script = Self { child, input, output: BufReader::new(output) };
        let first = script.line().await;
        (script, first)
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(LIMIT, self.output.read_line(&mut line)).await.unwrap().unwrap();
        line.trim().to_owned()
    }

    /// Starts a server; returns where it listens.
    async fn server(name: &str, revision: &str) -> (Self, SocketAddr) {
        let (script, port) = Self::start(name, &[revision]).await;
        (script, SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())))
    }

    /// Waits for the end; returns what it still had to say.
    async fn end(self) -> String {
        let Self { mut child, input, mut output } = self;
        drop(input);
        let mut said = String::new();
        timeout(PATIENCE, output.read_to_string(&mut said)).await.unwrap().unwrap();
        assert!(child.wait().await.unwrap().success(), "{said}");
        said
    }
}

/// What clients say at their end.
#[derive(Debug, Deserialize)]
struct Told {
    done: BTreeMap<String, u64>,
    served_by: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

/// Moves all weight to and fro, with a drain of what was left each time, until told to end after so many shifts at least.
async fn shift(proxy: &Proxy, service: &ServiceTable, least: u64, mut over: impl FnMut() -> bool) {
    let mut service = service.clone();
    for generation in 1.. {
        service.tracks.iter_mut().for_each(|track| track.weight_bp = 10_000 - track.weight_bp);
        proxy.set(generation, &service).await;
        let left = service.tracks.iter().find(|track| track.weight_bp == 0).unwrap();
        proxy.client.drain(SERVICE, &left.revision, WINDOW).await.unwrap();
        if generation >= least && over() {
            return;
        }
    }
}

/// Shifts under the clients of a script, and checks that all of them got what they should.
async fn shifts_under(name: &str, targets: [SocketAddr; 2], protocol: TargetProtocol, kinds: &[&str]) {
    let proxy = Proxy::start().await;
    let mut service = table(vec![track("v1", 10_000, &targets[..1]), track("v2", 0, &targets[1..])]);
    service.tracks.iter_mut().for_each(|track| track.protocol = protocol);
    proxy.set(0, &service).await;
    let (script, _begun) = Script::start(name, &[&proxy.addr.to_string()]).await;
    shift(&proxy, &service, 10, || true).await;
    let said = script.end().await;
    let told: Told = serde_json::from_str(&said).unwrap();
    assert!(told.wrong.is_empty(), "{told:#?}");
    for kind in kinds {
        assert!(told.done.get(*kind).is_some_and(|count| *count > 0), "no {kind}: {told:#?}");
    }
    assert!(["v1", "v2"].iter().all(|revision| told.served_by.contains_key(*revision)), "{told:#?}");
    println!("{name}: {told:?}");
}

#[tokio::test]
async fn calls_of_grpcio_get_their_own_answers_while_all_weight_moves() {
    if !imports("calls_of_grpcio", "grpc") {
        return;
    }
    let (_one, v1) = Script::server("grpc_server.py", "v1").await;
    let (_two, v2) = Script::server("grpc_server.py", "v2").await;
    let kinds = ["unary", "missing", "server_stream", "client_stream", "bidi"];
    shifts_under("grpc_calls.py", [v1, v2], TargetProtocol::H2c, &kinds).await;
}

#[tokio::test]
async fn websockets_get_their_messages_and_leave_with_a_close_frame_while_all_weight_moves() {
    if !imports("websockets_get_their_messages", "websockets") {
        return;
    }
    let (_one, v1) = Script::server("websocket_server.py", "v1").await;
    let (_two, v2) = Script::server("websocket_server.py", "v2").await;
    let kinds = ["messages", "closed with 1001"];
    shifts_under("websocket_clients.py", [v1, v2], TargetProtocol::Http1, &kinds).await;
}

#[tokio::test]
async fn the_h2_library_finds_nothing_wrong_with_any_stream_while_all_weight_moves() {
    if !imports("the_h2_library", "h2") {
        return;
    }
    for protocol in [TargetProtocol::Http1, TargetProtocol::H2c] {
        let (v1, v2) = (Upstream::start("v1").await, Upstream::start("v2").await);
        let kinds = ["get", "upload", "given up"];
        shifts_under("h2_streams.py", [v1.addr, v2.addr], protocol, &kinds).await;
    }
}

/// Runs a load generator to its end while all weight moves to and fro; returns what it prints.
async fn load_over_shifts(program: &str, arguments: &[&str]) -> String {
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let service = table(vec![track("v1", 10_000, &[v1.addr]), track("v2", 0, &[v2.addr])]);
    proxy.set(0, &service).await;
    let url = format!("http://{}/id", proxy.addr);
    let mut command = Command::new(program);
    command.args(arguments).arg(url).stdin(Stdio::null()).kill_on_drop(true);
    let load = tokio::spawn(async move { timeout(PATIENCE, command.output()).await.unwrap().unwrap() });
    shift(&proxy, &service, 5, || load.is_finished()).await;
    let output = load.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(v1.requests() > 0 && v2.requests() > 0, "both were asked");
    println!("{said}");
    said
}

#[tokio::test]
async fn wrk_counts_no_error_while_all_weight_moves() {
    if there("wrk_counts_no_error", "wrk", &["-v"], |_| true) {
        let said = load_over_shifts("wrk", &["-t1", "-c32", "-d3s", "--timeout", "10s"]).await;
        assert!(said.contains("requests in"), "{said}");
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    }
}

#[tokio::test]
async fn h2load_counts_no_error_while_all_weight_moves() {
    if there("h2load_counts_no_error", "h2load", &["--version"], |code| code == 0) {
        let said = load_over_shifts("h2load", &["-n5000", "-c8", "-m16", "-t1"]).await;
        let all = "5000 done, 5000 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(said.contains(all) && said.contains("status codes: 5000 2xx"), "{said}");
    }
}

/// Reads the lines that a script prints about clients that were closed: how, and how many.
async fn closed(script: Script) -> BTreeMap<String, u64> {
    serde_json::from_str(&script.end().await).unwrap()
}

#[tokio::test]
async fn clients_that_drip_their_requests_are_closed_and_keep_nobody_from_being_served() {
    if !there("clients_that_drip", &python(), &["--version"], |code| code == 0) {
        return;
    }
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let mut service = table(vec![track("v1", 10_000, &[upstream.addr])]);
    service.limits.upload = Some(Pace { bytes: 1_024, within_ms: 2_000 });
    proxy.set(0, &service).await;
    let (script, _begun) = Script::start("slowloris.py", &[&proxy.addr.to_string(), "400", "100"]).await;
    let dripping = tokio::spawn(closed(script));
    let mut served = 0;
    while !dripping.is_finished() {
        assert_eq!(proxy.get("/id").await.status, 200, "a client of good manners is served");
        served += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = dripping.await.unwrap();
    let expected = [("body 408".to_owned(), 100), ("head closed".to_owned(), 400)];
    assert_eq!(told, BTreeMap::from(expected), "{served} others were served");
    assert!(upstream.requests() >= served);
}
