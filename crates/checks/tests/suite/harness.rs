//! Requests to check with, and a server that answers whatever it is told to.

use std::net::SocketAddr;
use std::path::Path;

use cutover_checks::NetworkChecker;
use cutover_core::file::{Check, Checks, SmokeTest, TargetProtocol};
use cutover_core::{Fault, ReleaseFile, Span, check};
use cutover_ports::{CheckRequest, CheckedInstance, Checker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An address of loopback where nobody listens.
pub(crate) async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Answers each connection with the next of `answers`, then with the last; returns the requests through the channel.
pub(crate) async fn server(answers: &[&str]) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers: Vec<String> = answers.iter().map(|answer| answer.to_string()).collect();
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let answer = answers[number.min(answers.len() - 1)].clone();
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let _ = seen.send(String::from_utf8_lossy(&request[..count]).into_owned());
                if answer == "silence" {
                    return std::future::pending().await;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, requests)
}

/// Makes an HTTP answer.
pub(crate) fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Makes a check of a path.
pub(crate) fn path(path: &str) -> Check {
    Check { path: Some(path.into()), ..quick() }
}

/// Makes a check by a command.
pub(crate) fn run(command: &str) -> Check {
    Check { run: Some(command.into()), ..quick() }
}

/// Makes a TCP check.
pub(crate) fn tcp() -> Check {
    Check { tcp: true, ..quick() }
}

fn quick() -> Check {
    serde_json::from_str(r#"{"timeout": "5s", "interval": "50ms"}"#).unwrap()
}

/// Asks the checks of `address`, for at most `within_ms`.
pub(crate) async fn ask(address: SocketAddr, within_ms: u64, health: Vec<Check>) -> Result<String, Fault> {
    ask_in(Path::new("/"), address, within_ms, health).await
}

/// Asks with commands in `base`.
pub(crate) async fn ask_in(
    base: &Path,
    address: SocketAddr,
    within_ms: u64,
    health: Vec<Check>,
) -> Result<String, Fault> {
    ask_as(TargetProtocol::Http1, base, address, within_ms, health).await
}

/// Asks an instance that speaks `protocol`.
pub(crate) async fn ask_as(
    protocol: TargetProtocol,
    base: &Path,
    address: SocketAddr,
    within_ms: u64,
    health: Vec<Check>,
) -> Result<String, Fault> {
    let request = CheckRequest { protocol, ..request(base, address, within_ms, health) };
    let results = NetworkChecker::new().check(&request).await?;
    Ok(check::summary(&results))
}

/// What an instance at `address` is asked.
pub(crate) fn request(base: &Path, address: SocketAddr, within_ms: u64, health: Vec<Check>) -> CheckRequest {
    CheckRequest {
        service: "shop".into(),
        revision: "r-0123456789ab".into(),
        instance: CheckedInstance { id: "012345-1-abcd".into(), address },
        checks: Checks { health, within: Span::from_ms(within_ms), ..Checks::default() },
        host: None,
        protocol: TargetProtocol::Http1,
        route: None,
        base: base.to_path_buf(),
    }
}

/// Replaces what differs from run to run: the address, and the number of tries.
pub(crate) fn told(fault: &Fault, address: SocketAddr) -> String {
    let text = fault.what.replace(&address.to_string(), "ADDRESS");
    let words: Vec<&str> = text.split(' ').collect();
    let word = |at: usize| {
        let next = words.get(at + 1).is_some_and(|next| next.starts_with("tries") || next.starts_with("try"));
        if next && words[at].parse::<u32>().is_ok() { "N" } else { words[at] }
    };
    (0..words.len()).map(word).collect::<Vec<_>>().join(" ").replace("N try", "N tries")
}

/// Answers with HTTP/2, and with `status`; returns the requests through the channel.
pub(crate) async fn server_http2(
    status: u16,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<http::request::Parts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let _ = seen.send(request.into_parts().0);
                let body = http_body_util::Full::new(bytes::Bytes::from_static(b"of http/2"));
                let answer = http::Response::builder().status(status).body(body);
                async move { answer }
            });
            let executor = hyper_util::rt::TokioExecutor::new();
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service));
        }
    });
    (address, requests)
}

/// Reads smoke tests as a release file has them.
pub(crate) fn tests(text: &str) -> Vec<SmokeTest> {
    let lines: String = text.lines().map(|line| format!("    {line}\n")).collect();
    let file = format!(
        "service: shop\nplatform: {{local: {{command: [./shop]}}}}\n\
         route: [{{proxy: {{listen: '127.0.0.1:8080'}}}}]\nchecks:\n  smoke:\n{lines}"
    );
    ReleaseFile::read("cutover.yaml", &file).unwrap_or_else(|errors| panic!("{errors}")).checks.smoke
}
