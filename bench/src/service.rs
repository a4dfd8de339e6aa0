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
//!
//! The environment chooses how it behaves: [`Settings::from_env`].

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use crate::payload::{Follower, Payload};

/// The version that answered, in every answer.
pub const VERSION_HEADER: &str = "x-version";
/// Marks an error that the service intends.
pub const INTENDED_HEADER: &str = "x-intended";
/// How long what is under way may take after the stop signal.
const FINISH_LIMIT: Duration = Duration::from_secs(60);

/// How a service behaves. Times are written `250ms`, `2s`, or as a number of milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `PORT`: where it listens, on loopback.
    pub port: u16,
    /// `VERSION`: what it says it is.
    pub version: String,
    /// `RECEIVED`: the file that ids are appended to; none: they are acknowledged all the same.
    pub received: Option<PathBuf>,
    /// `START_DELAY`: listens only after so long.
    pub start_delay: Duration,
    /// `HEALTH=500`: the status of `/health`; 200 by default.
    pub health: Option<u16>,
    /// `EXIT=now`: ends at once with exit code 3.
    pub exit_now: bool,
    /// `IGNORE_TERM=1`: ignores SIGTERM.
    pub ignore_term: bool,
    /// `WRONG_PORT=1`: listens on another port than it was told.
    pub wrong_port: bool,
    /// `FAIL_AFTER=n`: answers with an intended 500 after n requests, those for `/health` not counted.
    pub fail_after: Option<u64>,
    /// `LATENCY`: waits so long before each answer, those for `/health` excepted.
    pub latency: Duration,
    /// `TROUBLE=file`: what the file says, while it is there, for each request but those for `/health`: `fail` is
    /// an intended 500, `eat` keeps another 4 MiB of memory for good. So a test chooses the moment.
    pub trouble: Option<PathBuf>,
}

impl Settings {
    /// Reads the settings from the environment.
    pub fn from_env() -> io::Result<Self> {
        Self::read(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Reads the settings from anything that has named values.
    pub fn read(value: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let flag = |name: &str| value(name).is_some_and(|value| value != "0");
        Ok(Self {
            port: number(&value, "PORT")?.unwrap_or(0),
            version: value("VERSION").unwrap_or_else(|| "none".into()),
            received: value("RECEIVED").map(PathBuf::from),
            start_delay: span(&value, "START_DELAY")?,
            health: number(&value, "HEALTH")?,
            exit_now: value("EXIT").is_some_and(|value| value == "now"),
            ignore_term: flag("IGNORE_TERM"),
            wrong_port: flag("WRONG_PORT"),
            fail_after: number(&value, "FAIL_AFTER")?,
            latency: span(&value, "LATENCY")?,
            trouble: value("TROUBLE").map(PathBuf::from),
        })
    }
}

fn number<T: std::str::FromStr>(value: impl Fn(&str) -> Option<String>, name: &str) -> io::Result<Option<T>> {
    let Some(text) = value(name) else { return Ok(None) };
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}={text} is not a number"));
    text.parse().map(Some).map_err(wrong)
}

fn span(value: impl Fn(&str) -> Option<String>, name: &str) -> io::Result<Duration> {
    let Some(text) = value(name) else { return Ok(Duration::ZERO) };
    let (digits, unit_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1_000),
        (None, None) => (text.as_str(), 1),
    };
    let wrong =
        |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}={text} is not a time such as 250ms"));
    digits.parse::<u64>().map(|count| Duration::from_millis(count * unit_ms)).map_err(wrong)
}

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
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_named_values() {
        let values =
            [("PORT", "81"), ("LATENCY", "5ms"), ("START_DELAY", "2s"), ("FAIL_AFTER", "7"), ("EXIT", "now")];
        let value = |name: &str| {
            values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let settings = Settings::read(value).unwrap();
        let expected = Settings {
            port: 81,
            version: "none".into(),
            latency: Duration::from_millis(5),
            start_delay: Duration::from_secs(2),
            fail_after: Some(7),
            exit_now: true,
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        let wrong = Settings::read(|name| (name == "LATENCY").then(|| "soon".into())).unwrap_err();
        assert_eq!(wrong.to_string(), "LATENCY=soon is not a time such as 250ms");
    }
}
