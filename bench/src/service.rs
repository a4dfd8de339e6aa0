//! A small HTTP service for tests: says who it is, records what it receives, and misbehaves on demand.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | its version |
//! | `GET /health` | 200, or what `HEALTH` says |
//! | `POST /ids` | appends the id to the file `RECEIVED`, returns it |
//! | `POST /upload` | takes the known body, says how long it was |
//! | `GET /slow?bytes=N&ms=N&framing=length\|chunked` | the known body, dripped |
//! | `GET /ws` | a WebSocket that echoes |
//! | `POST /bench.Bench/Echo` | a call of gRPC: each message comes back, the status in trailers |
//!
//! It speaks HTTP/1.1, and HTTP/2 with prior knowledge.
//!
//! The environment chooses how it behaves: [`Settings::from_env`].

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::grpc::{self, CALL};
use crate::payload::{Follower, Payload};

pub use crate::settings::Settings;

/// The version that answered, in every answer.
pub const VERSION_HEADER: &str = "x-version";
/// Marks an error that the service intends.
pub const INTENDED_HEADER: &str = "x-intended";
/// How long what is under way may take after the stop signal.
const FINISH_LIMIT: Duration = Duration::from_secs(60);

/// Runs the service as the environment says, until SIGTERM; returns the exit code.
pub fn run() -> io::Result<u8> {
    let settings = Settings::from_env()?;
    if settings.exit_now {
        eprintln!("version {} ends at once, as it was told", settings.version);
        return Ok(3);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        tokio::time::sleep(settings.start_delay).await;
        let port = if settings.wrong_port { 0 } else { settings.port };
        let address = if settings.everywhere { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let listener = TcpListener::bind((address, port)).await?;
        println!("version {} listens on {}", settings.version, listener.local_addr()?);
        let ignore_term = settings.ignore_term;
        let stop = async move {
            loop {
                term.recv().await;
                if !ignore_term {
                    return;
                }
            }
        };
        serve(listener, settings, stop).await
    })?;
    Ok(0)
}

/// Serves until `stop`, then finishes what it has.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let received = match &settings.received {
        Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
        None => None,
    };
    let (leave, leaving) = watch::channel(false);
    let version = HeaderValue::from_str(&settings.version)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "VERSION cannot be a header"))?;
    let (served, eaten) = (AtomicU64::new(0), Mutex::default());
    let service = Arc::new(Service { settings, version, received, served, eaten, leaving });
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(service.clone(), stream));
            }
            // Out of descriptors, say: the next may be accepted again.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    // What waits in the queue was accepted by the kernel in our name.
    while let Ok(Ok((stream, _))) = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await {
        connections.spawn(connection(service.clone(), stream));
    }
    drop(listener);
    leave.send_replace(true);
    let finish = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FINISH_LIMIT, finish).await;
    Ok(())
}

struct Service {
    settings: Settings,
    version: HeaderValue,
    received: Option<File>,
    served: AtomicU64,
    eaten: Mutex<Vec<Vec<u8>>>,
    leaving: watch::Receiver<bool>,
}

/// Serves one connection; on leaving it finishes the request it has. A WebSocket is waited for as well.
async fn connection(service: Arc<Service>, stream: TcpStream) {
    let mut leaving = service.leaving.clone();
    // At most one: an upgrade ends the HTTP on a connection.
    let (give, mut upgraded) = mpsc::channel(1);
    let answers = hyper::service::service_fn(|request| {
        let (service, give) = (service.clone(), give.clone());
        async move { Ok::<_, Infallible>(service.answer(request, &give).await) }
    });
    let http2 = tokio::select! {
        biased;
        http2 = begins_http2(&stream) => http2,
        // Nothing was asked.
        () = told(&mut leaving) => return,
    };
    if http2 {
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let mut served = pin!(http.serve_connection(TokioIo::new(stream), answers));
        tokio::select! {
            _ = &mut served => return,
            () = told(&mut leaving) => served.as_mut().graceful_shutdown(),
        }
        let _ = served.await;
        return;
    }
    let http = hyper::server::conn::http1::Builder::new();
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), answers).with_upgrades());
    tokio::select! {
        _ = &mut served => {}
        () = told(&mut leaving) => {
            served.as_mut().graceful_shutdown();
            let _ = served.await;
        }
    }
    if let Ok(upgrade) = upgraded.try_recv() {
        echo(upgrade, leaving).await;
    }
}

/// Waits for the first bytes; those of HTTP/2 are no request of HTTP/1.1.
async fn begins_http2(stream: &TcpStream) -> bool {
    let mut first = [0; 4];
    stream.peek(&mut first).await.is_ok() && first.starts_with(b"PRI")
}

impl Service {
    async fn answer(
        &self,
        mut request: Request<Incoming>,
        upgraded: &mpsc::Sender<OnUpgrade>,
    ) -> Response<Payload> {
        let path = request.uri().path().to_owned();
        if path == "/health" {
            let status = self.settings.health.unwrap_or(200);
            return self.reply(status, format!("version {} says {status}\n", self.settings.version));
        }
        let before = self.served.fetch_add(1, Ordering::Relaxed);
        if self.settings.fail_after.is_some_and(|most| before >= most) || self.trouble() {
            let mut reply =
                self.reply(500, format!("version {} fails, as it was told\n", self.settings.version));
            reply
                .headers_mut()
                .insert(HeaderName::from_static(INTENDED_HEADER), HeaderValue::from_static("1"));
            return reply;
        }
        if !self.settings.latency.is_zero() {
            tokio::time::sleep(self.settings.latency).await;
        }
        match (request.method(), path.as_str()) {
            (&Method::GET, "/") => self.reply(200, format!("{}\n", self.settings.version)),
            (&Method::POST, "/ids") => match request.into_body().collect().await {
                Ok(body) => self.receive(&body.to_bytes()),
                Err(error) => self.reply(400, format!("truncated id: {error}\n")),
            },
            (&Method::POST, CALL) => {
                let mut reply = self.with(200, Payload::Streamed(grpc::echo(request.into_body())));
                reply.headers_mut().insert(CONTENT_TYPE, grpc::CONTENT_TYPE);
                reply
            }
            (&Method::POST, "/upload") => self.upload(request.into_body()).await,
            (&Method::GET, "/slow") => {
                let query = request.uri().query().unwrap_or_default();
                let value =
                    |name| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
                let number = |name| value(name).and_then(|text| text.parse().ok()).unwrap_or(0);
                let span = Duration::from_millis(number("ms"));
                self.with(200, Payload::drip(number("bytes"), span, value("framing") != Some("chunked")))
            }
            (&Method::GET, "/ws") => {
                let key =
                    request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
                match key.and_then(|key| HeaderValue::try_from(key).ok()) {
                    Some(accept) => {
                        let _ = upgraded.try_send(hyper::upgrade::on(&mut request));
                        let mut reply = self.reply(101, String::new());
                        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                        reply.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
                        reply.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
                        reply
                    }
                    None => self.reply(400, "a WebSocket needs a key\n".into()),
                }
            }
            _ => self.reply(404, format!("nothing at {path}\n")),
        }
    }

    /// Gets into the trouble that is ordered; tells whether the request is to fail.
    fn trouble(&self) -> bool {
        let Some(path) = &self.settings.trouble else { return false };
        let ordered = std::fs::read_to_string(path).unwrap_or_default();
        if ordered.trim() == "eat" {
            // Written to: memory that was never touched is not taken.
            self.eaten.lock().unwrap_or_else(PoisonError::into_inner).push(vec![1; 4 << 20]);
        }
        ordered.trim() == "fail"
    }

    fn receive(&self, id: &[u8]) -> Response<Payload> {
        let mut line = id.to_vec();
        line.push(b'\n');
        // One write to a file opened for appending: lines of several instances do not mix.
        match self.received.as_ref().map_or(Ok(()), |mut file| file.write_all(&line)) {
            Ok(()) => self.with(200, Bytes::from(line).into()),
            Err(error) => self.reply(500, format!("failed to record the id: {error}\n")),
        }
    }

    async fn upload(&self, mut body: Incoming) -> Response<Payload> {
        let (mut follower, mut length) = (Follower::default(), 0);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if let Some(bytes) = frame.data_ref() {
                        follower.follow(bytes);
                        length += bytes.len() as u64;
                    }
                }
                Err(error) => return self.reply(400, format!("truncated upload: {error}\n")),
            }
        }
        match follower.verdict(length) {
            Ok(()) => self.reply(200, format!("received {length} bytes\n")),
            Err(wrong) => self.reply(400, format!("{wrong}\n")),
        }
    }

    fn reply(&self, status: u16, text: String) -> Response<Payload> {
        self.with(status, Bytes::from(text).into())
    }

    fn with(&self, status: u16, body: Payload) -> Response<Payload> {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(HeaderName::from_static(VERSION_HEADER), self.version.clone());
        response
    }
}

/// Waits until the service leaves.
async fn told(leaving: &mut watch::Receiver<bool>) {
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

/// Echoes until the client leaves; on leaving it says 1001 and waits for the answer.
async fn echo(upgrade: OnUpgrade, mut leaving: watch::Receiver<bool>) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            () = told(&mut leaving) => {
                let goodbye = CloseFrame { code: CloseCode::Away, reason: "this version stops".into() };
                let _ = socket.close(Some(goodbye)).await;
                let answered = async { while let Some(Ok(_)) = socket.next().await {} };
                let _ = tokio::time::timeout(Duration::from_secs(5), answered).await;
                return;
            }
        };
        let sent = match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => socket.send(message).await,
            // The answers to pings and close frames are sent by reading on.
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => return,
        };
        if sent.is_err() {
            return;
        }
    }
}
