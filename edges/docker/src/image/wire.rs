//! The engine's API as it is on the wire, for what takes long and is watched meanwhile: pull, push, build, and the session
//! in which the engine asks back.
//!
//! The client library of the rest of this crate does not hand out the digest of a push nor the trace of a build, and opens a
//! session only with a whole gRPC stack.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cutover_core::Fault;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::http::request::Builder;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::refusal::Refusal;

/// The newest API that is asked for: what comes after it may mean something else.
const NEWEST: Api = Api(1, 44);
/// The oldest that has all that is asked for: Docker 20.10.
const OLDEST: Api = Api(1, 41);
/// How long the engine may take to begin its answer to a question that needs no work.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the engine may stay silent in the middle of a pull, a push or a build: a long step of a Dockerfile says nothing.
const SILENCE: Duration = Duration::from_secs(3600);
/// The longest line of an answer.
const LINE: usize = 16 << 20;

/// Where the engine listens.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    socket: PathBuf,
    api: Arc<OnceCell<Api>>,
}

/// A version of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Api(u32, u32);

impl Api {
    fn read(text: &str) -> Option<Api> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Api(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// One question to the engine.
pub(crate) struct Ask<'a> {
    method: Method,
    path: &'a str,
    query: Vec<(&'a str, String)>,
    headers: Vec<(&'static str, String)>,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, query: Vec::new(), headers: Vec::new() }
    }

    pub(crate) fn query(mut self, key: &'a str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    pub(crate) fn header(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((key, value.into()));
        self
    }

    fn uri(&self, Api(major, minor): Api) -> String {
        let mut uri = format!("/v{major}.{minor}{}", self.path);
        for (i, (key, value)) in self.query.iter().enumerate() {
            uri.push(if i == 0 { '?' } else { '&' });
            uri.push_str(key);
            uri.push('=');
            uri.push_str(&escape(value));
        }
        uri
    }
}

/// An answer that is still coming in, a line at a time.
pub(crate) struct Lines {
    body: Incoming,
    rest: BytesMut,
    _connection: Connection,
}

/// What drives a connection: it ends with the answer that comes over it.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Wire {
    /// Names the engine at a place such as `unix:///var/run/docker.sock`.
    pub(crate) fn to(place: &str) -> Result<Wire, Fault> {
        let socket = place.strip_prefix("unix://").map(PathBuf::from);
        let socket = socket.filter(|path| path.is_absolute()).ok_or_else(|| {
            Fault::configuration(format!("use the engine at {place}: it is no unix socket"))
                .hint("Set DOCKER_HOST to an engine of this machine, such as unix:///var/run/docker.sock.")
        })?;
        Ok(Wire { socket, api: Arc::default() })
    }

    /// Asks a question whose answer is one JSON document.
    pub(crate) async fn json<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, Refusal> {
        let body = self.whole(ask).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Refusal::broken(format!("an answer that is no JSON: {error}")))
    }

    /// Asks for something whose answer is of no interest.
    pub(crate) async fn done(&self, ask: Ask<'_>) -> Result<(), Refusal> {
        self.whole(ask).await.map(|_| ())
    }

    async fn whole(&self, ask: Ask<'_>) -> Result<Bytes, Refusal> {
        let answer = async {
            let (response, _connection) = self.send(ask, None).await?;
            let collected = response.into_body().collect().await;
            collected.map(|body| body.to_bytes()).map_err(|error| Refusal::broken(spelled(&error)))
        };
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(Refusal::silent(PATIENCE)))
    }

    /// Asks for something that is told about line by line while it happens. Dropping the answer ends it.
    pub(crate) async fn lines(&self, ask: Ask<'_>) -> Result<Lines, Refusal> {
        let sent = timeout(SILENCE, self.send(ask, None)).await;
        let (response, connection) = sent.unwrap_or_else(|_| Err(Refusal::silent(SILENCE)))?;
        Ok(Lines { body: response.into_body(), rest: BytesMut::new(), _connection: connection })
    }

    /// Turns a connection around: the engine asks over it from here on.
    pub(crate) async fn upgrade(&self, ask: Ask<'_>) -> Result<Upgraded, Refusal> {
        let turned = async {
            let (response, connection) = self.send(ask, Some("h2c")).await?;
            let upgraded = hyper::upgrade::on(response).await;
            let io = upgraded.map_err(|error| Refusal::broken(spelled(&error)))?;
            // It ends by itself once it has handed over its socket.
            drop(connection);
            Ok(io)
        };
        timeout(PATIENCE, turned).await.unwrap_or_else(|_| Err(Refusal::silent(PATIENCE)))
    }

    async fn send(
        &self,
        ask: Ask<'_>,
        upgrade: Option<&str>,
    ) -> Result<(Response<Incoming>, Connection), Refusal> {
        let api = *self.api.get_or_try_init(|| self.agree()).await?;
        let mut request = Request::builder().method(ask.method.clone()).uri(ask.uri(api));
        for (key, value) in &ask.headers {
            request = request.header(*key, value);
        }
        if let Some(protocol) = upgrade {
            request = request.header(CONNECTION, "Upgrade").header(UPGRADE, protocol);
        }
        self.exchange(request).await
    }

    /// Asks the engine which versions of its API it speaks, and takes the newest that both know.
    async fn agree(&self) -> Result<Api, Refusal> {
        let asked = self.exchange(Request::builder().method(Method::GET).uri("/_ping"));
        let answered = timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(Refusal::silent(PATIENCE)));
        let (response, _connection) = answered?;
        let said = response.headers().get("api-version").and_then(|said| said.to_str().ok());
        match said.and_then(Api::read) {
            Some(theirs) if theirs >= OLDEST => Ok(theirs.min(NEWEST)),
            _ => Err(Refusal::too_old(said.unwrap_or("none"))),
        }
    }

    async fn exchange(&self, request: Builder) -> Result<(Response<Incoming>, Connection), Refusal> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| Refusal::unreachable(&self.socket, &error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, driven) = handshake.map_err(|error| Refusal::broken(spelled(&error)))?;
        let connection = Connection(tokio::spawn(async move {
            // What breaks it is told to whoever waits for the answer.
            let _ = driven.with_upgrades().await;
        }));
        let request = request.header(HOST, "docker").body(Empty::<Bytes>::new());
        let request =
            request.map_err(|error| Refusal::broken(format!("a question that is none: {error}")))?;
        let response =
            sender.send_request(request).await.map_err(|error| Refusal::broken(spelled(&error)))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok((response, connection));
        }
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Err(Refusal::answered(status.as_u16(), &body))
    }
}

impl Lines {
    /// Returns the next line, None after the last.
    ///
    /// # Cancel safety
    /// What came in already is kept for the next call.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Refusal> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return read(&line).map(Some);
            }
            let frame = timeout(SILENCE, self.body.frame()).await.map_err(|_| Refusal::silent(SILENCE))?;
            match frame {
                Some(Ok(frame)) => self.rest.extend(frame.into_data().ok()),
                Some(Err(error)) => return Err(Refusal::broken(spelled(&error))),
                None if self.rest.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => return read(&self.rest.split()).map(Some),
            }
            if self.rest.len() > LINE {
                return Err(Refusal::broken(format!("a line of more than {LINE} bytes")));
            }
        }
    }
}

fn read<T: DeserializeOwned>(line: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(line).map_err(|error| Refusal::broken(format!("a line that is no JSON: {error}")))
}

/// Returns the error with all of its causes: the first alone says little.
fn spelled(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Escapes a value for the query of a URL.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_spelled_as_a_url() {
        let ask = Ask::new(Method::POST, "/build").query("t", "a/b:1").query("buildargs", r#"{"K":"a b&c"}"#);
        assert_eq!(ask.uri(Api(1, 41)), "/v1.41/build?t=a/b:1&buildargs=%7B%22K%22:%22a%20b%26c%22%7D");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(Api::read("1.41").unwrap() < Api::read("1.100").unwrap());
        assert!(Api::read("1").is_none() && Api::read("1.x").is_none());
    }

    #[test]
    fn only_a_socket_of_this_machine_is_an_engine() {
        assert!(Wire::to("unix:///var/run/docker.sock").is_ok());
        assert!(Wire::to("tcp://host:2375").unwrap_err().hint.contains("DOCKER_HOST"));
        assert!(Wire::to("unix://docker.sock").is_err());
    }
}
