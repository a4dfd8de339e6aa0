//! Checks and smoke tests of real servers: nginx, Python's http.server, grpcio, OpenSSL.
//!
//! `./test` installs them, and says in `CUTOVER_TEST_PYTHON` whose packages to use.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cutover_checks::NetworkChecker;
use cutover_core::file::{Check, Through};
use cutover_core::{Blame, CheckOutcome, Fault};
use cutover_ports::{CheckedRoute, CheckedTls, Checker};

use super::harness::{ask, nowhere, path, request, tests};

/// Ends with its test, by its own id.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server that is told its address, and waits until it accepts.
    async fn start(address: SocketAddr, command: &mut Command) -> Server {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Server { child, address };
        let begin = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "the server ended: {command:?}");
            assert!(begin.elapsed() < Duration::from_secs(20), "the server does not listen: {command:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server
    }

    /// Starts a script of ours, which chooses its port and prints it.
    fn script(name: &str, argument: &str) -> Server {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers").join(name);
        let mut command = Command::new(python());
        let command = command.arg(script).arg(argument).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().unwrap();
        Server { child, address: ([127, 0, 0, 1], port).into() }
    }
}

fn python() -> String {
    std::env::var("CUTOVER_TEST_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Tells whether a program is there; if not it says so in one line, and fails where nothing may be left out.
fn there(test: &str, program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let run = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let there = run.status().is_ok_and(|status| status.success());
    let told = format!("{program} {} cannot be run", arguments.join(" "));
    assert!(there || std::env::var_os("CUTOVER_TEST_SERVERS").is_none(), "{told}; ./test installs it");
    if !there {
        println!("skipped: {test}: {told}");
    }
    there
}

const NGINX: &str = r#"
daemon off; master_process off; pid DIR/pid; error_log DIR/error.log;
events {}
http {
    access_log off;
    client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi;
    uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
    server {
        listen ADDRESS;
        location = /health { return 200 "ok"; }
        location = /ready { return 200 "ok"; }
        location = /metrics { return 503 "warming up"; }
        location = /api/status { return 200 "ok"; }
        location = /api/products {
            default_type application/json;
            return 200 '{"items": [{"id": 7, "name": "lamp"}], "total": 1}';
        }
        location = /api/products/7 {
            default_type application/json;
            return 200 '{"id": 7, "host": "$host", "token": "$http_x_token"}';
        }
        location = /gone { return 301 /api/products; }
    }
}
"#;

async fn nginx(folder: &Path) -> Server {
    let address = nowhere().await;
    let text = NGINX.replace("DIR", &folder.display().to_string()).replace("ADDRESS", &address.to_string());
    std::fs::write(folder.join("nginx.conf"), text).unwrap();
    let mut command = Command::new("nginx");
    command.env("PATH", path_with_sbin()).arg("-c").arg(folder.join("nginx.conf")).arg("-p").arg(folder);
    Server::start(address, &mut command).await
}

/// Debian keeps nginx where users do not look.
fn path_with_sbin() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

fn nginx_there(test: &str) -> bool {
    let found = path_with_sbin().split(':').any(|folder| Path::new(folder).join("nginx").exists());
    assert!(found || std::env::var_os("CUTOVER_TEST_SERVERS").is_none(), "no nginx; ./test installs it");
    if !found {
        println!("skipped: {test}: nginx is not there");
    }
    found
}

#[tokio::test]
async fn four_endpoints_of_nginx_are_all_reported_though_one_fails() {
    if !nginx_there("four_endpoints_of_nginx_are_all_reported_though_one_fails") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = nginx(folder.path()).await;
    let four = ["/health", "/ready", "/metrics", "/api/status"].map(path).to_vec();
    let fault =
        NetworkChecker::new().check(&request(folder.path(), server.address, 200, four)).await.unwrap_err();
    let seen: Vec<(&str, CheckOutcome, &str)> = fault
        .results
        .iter()
        .map(|result| (result.check.as_str(), result.outcome, result.detail.as_str()))
        .collect();
    let failed = "answered 503, expected 200-399; body begins: warming up";
    let wanted = [
        ("GET /health", CheckOutcome::Passed, "200"),
        ("GET /ready", CheckOutcome::Passed, "200"),
        ("GET /metrics", CheckOutcome::Failed, failed),
        ("GET /api/status", CheckOutcome::Passed, "200"),
    ];
    assert_eq!(seen, wanted);
    assert!(fault.results.iter().all(|result| result.duration_us > 0 && result.tries > 0), "{fault:?}");
}

#[tokio::test]
async fn smoke_tests_of_nginx_pass_what_they_captured_on() {
    if !nginx_there("smoke_tests_of_nginx_pass_what_they_captured_on") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = nginx(folder.path()).await;
    let smoke = tests(
        r#"
- get: /api/products
  expect: {status: 200, headers: {content-type: application/json}, within: 10s,
           json: {"$.items": {length: 1}, "$.items[0].name": lamp, "$.total": {min: 1, max: 9}}}
  capture: {id: "$.items[0].id", kind: header content-type}
- {name: one product, get: "/api/products/${id}", headers: {x-token: "t-${id}"},
   expect: {json: {"$.id": "${id}", "$.token": "t-${id}", "$.host": shop.test}, body: "t-7"}}
- {get: /gone, expect: {status: 301, headers: {location: /api/products}}}
- {head: /health}
- {get: /api/products, expect: {json: {"$.total": 2}}}
- {run: "test \"$id\" = 7 && echo \"$kind at $CUTOVER_URL of $CUTOVER_REVISION\" && exit 4"}
"#,
    );
    let log = folder.path().join("smoke.log");
    let mut request = request(folder.path(), server.address, 5000, Vec::new());
    request.host = Some("shop.test".into());
    request.checks.smoke = smoke;
    let fault = NetworkChecker::new().smoke(&request, &log).await.unwrap_err();
    let lines: Vec<String> = fault.results.iter().map(|result| result.line()).collect();
    let passed = |line: &str, name: &str| line.starts_with(&format!("{name} passed in "));
    assert!(passed(&lines[0], "GET /api/products") && passed(&lines[1], "one product"), "{lines:#?}");
    assert!(passed(&lines[2], "GET /gone") && passed(&lines[3], "HEAD /health"), "{lines:#?}");
    assert!(
        lines[4].starts_with("GET /api/products failed: $.total is 1, expected 2; body begins"),
        "{lines:#?}"
    );
    assert!(lines[5].ends_with("failed: exit status 4"), "{lines:#?}");
    assert_eq!(fault.blame, Blame::Candidate);
    let said = format!("application/json at http://{} of r-0123456789ab", server.address);
    assert_eq!(fault.results[5].output, [said.as_str()]);
    assert!(std::fs::read_to_string(&log).unwrap().ends_with(&format!("{said}\n")));
    assert!(fault.hint.contains("smoke.log"), "{}", fault.hint);
}

#[tokio::test]
async fn the_http_server_of_python_passes() {
    if !there("the_http_server_of_python_passes", "python3", &["--version"]) {
        return;
    }
    let (folder, address) = (tempfile::tempdir().unwrap(), nowhere().await);
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", &address.port().to_string(), "--bind", "127.0.0.1"]);
    let server = Server::start(address, command.current_dir(folder.path())).await;
    assert!(ask(server.address, 5000, vec![path("/")]).await.unwrap().starts_with("GET / passed"));
    let fault = ask(server.address, 200, vec![path("/missing")]).await.unwrap_err();
    assert!(fault.what.contains("answered 404"), "{fault}");
}

fn grpc(service: &str) -> Check {
    Check { path: None, grpc: Some(service.into()), ..path("/") }
}

async fn failure_of(address: SocketAddr, service: &str) -> String {
    let fault = ask(address, 150, vec![grpc(service)]).await.unwrap_err();
    assert_eq!(fault.results[0].outcome, CheckOutcome::Failed, "{fault}");
    fault.results[0].detail.clone()
}

#[tokio::test]
async fn a_grpc_server_is_asked_by_its_health_protocol() {
    let test = "a_grpc_server_is_asked_by_its_health_protocol";
    if !there(test, &python(), &["-c", "import grpc_health.v1.health"]) {
        return;
    }
    let server = Server::script("health_server.py", "health");
    for service in ["", "shop.Catalog"] {
        ask(server.address, 10_000, vec![grpc(service)]).await.unwrap();
    }
    let not_serving = "says NOT_SERVING, expected SERVING";
    assert_eq!(failure_of(server.address, "shop.Carts").await, not_serving);
    let unknown = "says NOT_FOUND: it tells no health of \"shop.Orders\"";
    assert_eq!(failure_of(server.address, "shop.Orders").await, unknown);
    let bare = Server::script("health_server.py", "bare");
    let none = "says UNIMPLEMENTED: it has no health service (grpc.health.v1.Health)";
    assert_eq!(failure_of(bare.address, "").await, none);
}

/// Asks `GET /` through a TLS server of OpenSSL as the route of `host`.
async fn through_tls(folder: &Path, address: SocketAddr, host: &str, trust: bool) -> Result<(), Fault> {
    let check = Check { through: Through::Route, ..path("/") };
    let mut request = request(folder, address, 60_000, vec![check]);
    request.host = Some(host.into());
    let trust = if trust { vec![folder.join("cert.pem")] } else { Vec::new() };
    let pin = ("x-pin".to_string(), "r-1".to_string());
    request.route = Some(CheckedRoute { address, pin, tls: Some(CheckedTls { trust }) });
    NetworkChecker::new().check(&request).await.map(drop)
}

#[tokio::test]
async fn a_wrong_certificate_is_no_fault_of_the_candidate() {
    if !there("a_wrong_certificate_is_no_fault_of_the_candidate", "openssl", &["version"]) {
        return;
    }
    let (folder, address) = (tempfile::tempdir().unwrap(), nowhere().await);
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=shop.test", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem"])
        .args(["-addext", "subjectAltName=DNS:shop.test", "-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = Command::new("openssl");
    command.args([
        "s_server",
        "-accept",
        &address.to_string(),
        "-cert",
        "cert.pem",
        "-key",
        "key.pem",
        "-www",
    ]);
    let _server = Server::start(address, command.current_dir(folder.path())).await;
    through_tls(folder.path(), address, "shop.test", true).await.unwrap();
    for (host, trust, why) in
        [("other.test", true, "not valid for name"), ("shop.test", false, "the certificate is not good")]
    {
        let fault = through_tls(folder.path(), address, host, trust).await.unwrap_err();
        assert_eq!(fault.blame, Blame::Configuration, "{fault}");
        assert!(fault.what.contains(why) && fault.what.contains(host), "{fault}");
        assert_eq!(
            (fault.results[0].outcome, fault.results[0].blame),
            (CheckOutcome::Error, Some(Blame::Configuration))
        );
    }
}
