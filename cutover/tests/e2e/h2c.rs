//! A service that speaks HTTP/2 without TLS and nothing else, as servers of gRPC do, and clients that do likewise.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// Not a test of anything by itself: the entry point when an instance runs this binary.
#[test]
fn entry() {
    if std::env::var_os("E2E_H2C").is_some() {
        runtime().block_on(serve());
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Answers everything with its version.
async fn serve() {
    let port = std::env::var("PORT").unwrap().parse::<u16>().unwrap();
    let version = Bytes::from(std::env::var("VERSION").unwrap_or_default());
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let version = version.clone();
        let service = service_fn(move |_| {
            let version = version.clone();
            async move { Ok::<_, Infallible>(Response::new(Full::new(version))) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
    }
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    answered: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// Clients with prior knowledge: one connection, eight streams at once.
pub(crate) struct Streams {
    seen: Arc<Seen>,
    thread: JoinHandle<()>,
}

impl Streams {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let seen = Arc::new(Seen::default());
        let own = seen.clone();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let clients = (0..8).map(|_| tokio::spawn(ask_on(address, own.clone()))).collect::<Vec<_>>();
                for client in clients {
                    client.await.unwrap();
                }
            });
        });
        Self { seen, thread }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.seen.answered.load(Ordering::Relaxed)
    }

    /// Stops, and returns how many were answered and what failed.
    pub(crate) fn stop(self) -> (u64, Vec<String>) {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let failures = self.seen.failures.lock().unwrap().clone();
        (self.seen.answered.load(Ordering::Relaxed), failures)
    }
}

async fn ask_on(address: SocketAddr, seen: Arc<Seen>) {
    let mut sender = connect(address).await;
    while !seen.stop.load(Ordering::Relaxed) {
        match ask(&mut sender, address).await {
            Ok(()) => {
                seen.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => {
                seen.failures.lock().unwrap().push(why);
                sender = connect(address).await;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn connect(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Every answer must be a whole 200.
async fn ask(sender: &mut SendRequest<Empty<Bytes>>, address: SocketAddr) -> Result<(), String> {
    let request = Request::get(format!("http://{address}/")).body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| format!("body: {error}"))?.to_bytes();
    if status == 200 && !body.is_empty() { Ok(()) } else { Err(format!("{status} {body:?}")) }
}
