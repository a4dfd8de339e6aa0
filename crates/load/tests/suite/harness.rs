//! Tests to run, and servers that do what they are told.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cutover_load::{Against, Pace, Protocol, Report, Scenario, Side, Spec, Summary, Target, start};
use http::{HeaderMap, Method, Request, Response, uri::PathAndQuery};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A GET of `/`, of which `200` is expected.
pub(crate) fn get(path: &'static str) -> Scenario {
    Scenario {
        name: format!("GET {path}"),
        weight: 1,
        method: Method::GET,
        path: PathAndQuery::from_static(path),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        expect: 200..=299,
    }
}

pub(crate) fn spec(pace: Pace, span: Duration) -> Spec {
    Spec {
        scenarios: vec![get("/")],
        pace,
        span,
        timeout: Duration::from_secs(20),
        protocol: Protocol::Http1,
        against: Against::Candidate,
    }
}

pub(crate) fn rate(per_s: u64) -> Pace {
    Pace::Rate { per_1000_s: per_s * 1000, open: 1000 }
}

pub(crate) fn clients(count: usize) -> Pace {
    Pace::Clients { count, pause: None }
}

pub(crate) fn candidate(address: SocketAddr) -> Target {
    Target { side: Side::Candidate, address }
}

pub(crate) async fn run(spec: Spec, targets: &[Target]) -> Report {
    start(spec, targets).unwrap().await.unwrap()
}

pub(crate) fn seen(report: &Report) -> &Summary {
    report.total(Side::Candidate).unwrap()
}

/// Serves HTTP/1.1 or HTTP/2, whichever `protocol` says, until the test's runtime ends. Each answer is what `answer` makes.
pub(crate) async fn server<A, F>(protocol: Protocol, answer: A) -> SocketAddr
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(async move {
                match protocol {
                    Protocol::Http1 => {
                        let _ =
                            hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                    }
                    Protocol::Http2 => {
                        let executor = hyper_util::rt::TokioExecutor::new();
                        let server = hyper::server::conn::http2::Builder::new(executor);
                        let _ = server.serve_connection(io, service).await;
                    }
                }
            });
        }
    });
    address
}

pub(crate) fn status(status: u16) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::from("some text")).unwrap()
}

/// Gives each connection to `serve` once its first bytes have come; returns what they were, through the list.
pub(crate) async fn raw<S, F>(serve: S) -> (SocketAddr, Arc<Mutex<Vec<String>>>)
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let count = stream.read(&mut head).await.unwrap_or(0);
            seen.lock().unwrap().push(String::from_utf8_lossy(&head[..count]).into_owned());
            tokio::spawn(serve(stream));
        }
    });
    (address, heads)
}

/// Answers every connection with these bytes, and closes it.
pub(crate) async fn bytes(answer: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    raw(move |mut stream| async move {
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
    })
    .await
}
