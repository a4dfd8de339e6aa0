//! The session of a build: the engine asks back over it for files, secrets and logins. It speaks gRPC, with us as the server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::http::HeaderMap;
use hyper::http::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinHandle;

use cutover_ports::Secret;

use super::context::Context;
use super::proto::{Fields, Message};
use super::transfer;
use crate::image::Credentials;
use crate::image::reference::{HUB, is_hub};
use crate::image::refusal::Refusal;
use crate::image::wire::{Ask, Wire};

/// The largest message that is read: a question is a name, or a number of a file.
const MESSAGE: usize = 4 << 20;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const LOGIN: &str = "/moby.filesync.v1.Auth/Credentials";
const FILES: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// gRPC's codes for what is not answered.
const NOT_FOUND: u8 = 5;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;

/// What the engine may ask for.
pub(super) struct Answers {
    pub(super) context: Arc<Context>,
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) credentials: Credentials,
}

/// A session that is open until it is dropped.
pub(super) struct Session {
    /// Its name, under which a build asks for it.
    pub(super) id: String,
    served: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.served.abort();
    }
}

type Body = Channel<Bytes, Infallible>;
/// Where the messages of an answer go.
pub(super) type Answer = Sender<Bytes, Infallible>;

/// Why a question got no answer.
pub(super) struct Status {
    code: u8,
    text: String,
}

impl Status {
    pub(super) fn internal(text: impl Into<String>) -> Self {
        Self { code: INTERNAL, text: text.into() }
    }
}

impl Session {
    /// Opens a session with the engine. `key` names the files: those of another session with the same key need not be sent
    /// again.
    pub(super) async fn open(wire: &Wire, key: &str, answers: Answers) -> Result<Session, Refusal> {
        let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut ask = Ask::new(Method::POST, "/session")
            .header("x-docker-expose-session-uuid", &id)
            .header("x-docker-expose-session-name", "cutover")
            .header("x-docker-expose-session-sharedkey", key);
        for method in [HEALTH, SECRET, LOGIN, FILES] {
            ask = ask.header("x-docker-expose-session-grpc-method", method);
        }
        let io = wire.upgrade(ask).await?;
        let answers = Arc::new(answers);
        let served = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answers = answers.clone();
                async move { Ok::<_, Infallible>(answer(request, answers)) }
            });
            // How it ends is the build's to tell.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service)
                .await;
        });
        Ok(Session { id, served })
    }
}

/// Begins the answer to a question; it goes on in a task that ends with the question's stream.
fn answer(request: Request<Incoming>, answers: Arc<Answers>) -> Response<Body> {
    let (mut sender, body) = Channel::new(8);
    tokio::spawn(async move {
        let status = match respond(request, &answers, &mut sender).await {
            Ok(()) => Status { code: 0, text: String::new() },
            Err(status) => status,
        };
        // Nobody is there to hear it once the build is over.
        let _ = sender.send_trailers(trailers(&status)).await;
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

async fn respond(request: Request<Incoming>, answers: &Arc<Answers>, to: &mut Answer) -> Result<(), Status> {
    let path = request.uri().path().to_owned();
    let headers = request.headers().clone();
    let mut questions = Questions::new(request.into_body());
    if path == FILES {
        return transfer::send(answers.context.clone(), &headers, questions, to).await;
    }
    let question = questions.next().await?.unwrap_or_default();
    let message = match path.as_str() {
        // SERVING.
        HEALTH => Message::default().number(1, 1).done(),
        SECRET => secret(&first_text(&question), &answers.secrets)?,
        LOGIN => login(&first_text(&question), &answers.credentials).await?,
        _ => return Err(Status { code: UNIMPLEMENTED, text: format!("{path} is not offered") }),
    };
    tell(to, &message).await
}

fn secret(name: &str, secrets: &BTreeMap<String, Secret>) -> Result<Vec<u8>, Status> {
    let secret = secrets.get(name).ok_or_else(|| Status {
        code: NOT_FOUND,
        text: format!("the secret {name} is not in platform.docker.build.secrets"),
    })?;
    Ok(Message::default().bytes(1, secret.expose().as_bytes()).done())
}

/// Says who we are to the registry of a base image.
async fn login(host: &str, credentials: &Credentials) -> Result<Vec<u8>, Status> {
    let registry = if is_hub(host) { HUB } else { host };
    let login = credentials.login(registry).await.map_err(|fault| Status::internal(fault.what))?;
    Ok(match login {
        // A token stands alone: that is how the engine tells it from a password.
        Some(login) if !login.identity.is_empty() => {
            Message::default().bytes(2, login.identity.as_bytes()).done()
        }
        Some(login) => {
            Message::default().bytes(1, login.user.as_bytes()).bytes(2, login.password.as_bytes()).done()
        }
        None => Vec::new(),
    })
}

fn first_text(message: &[u8]) -> String {
    Fields(message)
        .flatten()
        .find(|(field, _)| *field == 1)
        .map(|(_, value)| value.text())
        .unwrap_or_default()
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status.code)));
    let plain: String =
        status.text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    if let Ok(text) = HeaderValue::from_str(&plain.replace('%', "%25")) {
        trailers.insert("grpc-message", text);
    }
    trailers
}

/// Sends one message.
pub(super) async fn tell(to: &mut Answer, message: &[u8]) -> Result<(), Status> {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed
        .put_u32(u32::try_from(message.len()).map_err(|_| Status::internal("a message of more than 4 GB"))?);
    framed.put_slice(message);
    to.send_data(framed.freeze()).await.map_err(|_| Status::internal("the build is over"))
}

/// The messages of a question, one after the other.
pub(super) struct Questions {
    body: Incoming,
    rest: BytesMut,
}

impl Questions {
    fn new(body: Incoming) -> Self {
        Self { body, rest: BytesMut::new() }
    }

    /// Returns the next message, None after the last.
    ///
    /// # Cancel safety
    /// What came in already is kept for the next call.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let [_, a, b, c, d, ..] = self.rest[..] {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > MESSAGE {
                    return Err(Status::internal("a message that is too long"));
                }
                if self.rest.len() >= 5 + length {
                    let _ = self.rest.split_to(5);
                    return Ok(Some(self.rest.split_to(length).freeze()));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.rest.extend(frame.into_data().ok()),
                Some(Err(error)) => return Err(Status::internal(error.to_string())),
                None => return Ok(None),
            }
        }
    }
}
