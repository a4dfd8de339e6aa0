//! Clients of HTTP/2, by prior knowledge or by TLS: GETs in streams of a kept connection, and calls of gRPC.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::{Instant, sleep, timeout};

use super::http::{chain, judge, same, truncated};
use super::report::{Answer, Kind, Trouble};
use super::shared::Shared;
use super::wire::{self, Speaks};
use crate::grpc::{self, CALL, MESSAGES, STATUS, Unframed, framed, streamed};

type Body = BoxBody<Bytes, Infallible>;

/// Messages of a call, spread over [`Options::slow`](super::Options).
const CALL_MESSAGES: u32 = 8;

/// One client.
pub(crate) struct StreamClient {
    shared: Arc<Shared>,
    kind: Kind,
    number: usize,
    turn: u64,
    kept: Option<SendRequest<Body>>,
}

impl StreamClient {
    pub(crate) fn new(shared: Arc<Shared>, kind: Kind, number: usize) -> Self {
        Self { shared, kind, number, turn: 0, kept: None }
    }

    /// Sends until the load is over.
    pub(crate) async fn run(mut self) {
        let interval = if self.kind == Kind::Http2 { self.shared.interval() } else { None };
        let spread = interval.unwrap_or(Duration::ZERO).mul_f64(fastrand::f64());
        self.shared.pause(spread).await;
        let mut due = Instant::now();
        while let Some(begun) = self.shared.begin(self.kind) {
            self.turn += 1;
            let limit = self.shared.options.limit;
            let outcome = match timeout(limit, self.request()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no whole answer within {limit:?}").into()),
            };
            if outcome.is_err() {
                self.kept = None;
            }
            self.shared.end(begun, outcome).await;
            if let Some(interval) = interval {
                // Who is late does not catch up by more than one request.
                due = (due + interval).max(Instant::now() - interval);
                self.shared.pause(due.saturating_duration_since(Instant::now())).await;
            }
        }
    }

    async fn request(&mut self) -> Result<Answer, Trouble> {
        match self.kind {
            Kind::Http2 => self.get().await,
            _ => self.call().await,
        }
    }

    async fn get(&mut self) -> Result<Answer, Trouble> {
        let request = self.head("GET", "/").body(Empty::new().boxed());
        let response = self.send(request.map_err(own)?).await?;
        let answer = judge(&response)?;
        let body = response.into_body().collect().await.map_err(|error| truncated(&error))?.to_bytes();
        if !answer.intended_error {
            same(&body, format!("{}\n", answer.version).as_bytes())?;
        }
        Ok(answer)
    }

    /// Sends each message when the one before is back, and expects the status in trailers.
    async fn call(&mut self) -> Result<Answer, Trouble> {
        let (sender, body) = streamed();
        let head = self.head("POST", CALL).header(CONTENT_TYPE, grpc::CONTENT_TYPE).header(TE, "trailers");
        let mut response = self.send(head.body(body).map_err(own)?).await?;
        let answer = judge(&response)?;
        if answer.intended_error {
            return Ok(answer);
        }
        let pause = self.shared.options.slow / CALL_MESSAGES;
        let mut unframed = Unframed::default();
        for at in 0..CALL_MESSAGES {
            let text = format!("{}-{}-{at}", self.number, self.turn);
            let message = Frame::data(framed(text.as_bytes()));
            sender.send(message).await.map_err(|_| "a call ended before its messages".to_owned())?;
            let back = message_of(&mut response, &mut unframed).await?;
            same(&back, text.as_bytes())?;
            sleep(pause).await;
        }
        drop(sender);
        let trailers = rest_of(&mut response).await?;
        let told = |name| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
        let (status, count) = (told(STATUS), told(MESSAGES));
        if status != "0" || count != CALL_MESSAGES.to_string() {
            return Err(format!("a call ended with grpc-status {status} after {count} messages").into());
        }
        Ok(answer)
    }

    fn head(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        let options = &self.shared.options;
        let scheme = if options.secure.is_some() { "https" } else { "http" };
        Request::builder().method(method).uri(format!("{scheme}://{}{path}", options.host))
    }

    /// Sends on the kept connection, or on a new one where there is none or it was retired.
    async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, Trouble> {
        if let Some(mut sender) = self.kept.take()
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.kept = Some(sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    // Not a byte was written: every client sends it anew.
                    Some(unsent) => request = unsent,
                    None => {
                        let text =
                            format!("on a kept connection, before any answer: {}", chain(error.error()));
                        return Err(Trouble { text, stale: true });
                    }
                },
            }
        }
        let stream = wire::connect(&self.shared.options, Speaks::Http2).await?;
        let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| format!("failed to connect: {}", chain(&error)))?;
        // Ends with its sender, or with the other side; what it meets reaches the request.
        tokio::spawn(connection);
        match sender.send_request(request).await {
            Ok(response) => {
                self.kept = Some(sender);
                Ok(response)
            }
            Err(error) => Err(format!("on a new connection, before any answer: {}", chain(&error)).into()),
        }
    }
}

fn own(error: hyper::http::Error) -> Trouble {
    format!("the load's own request is wrong: {error}").into()
}

/// Reads the next message of a call.
async fn message_of(response: &mut Response<Incoming>, unframed: &mut Unframed) -> Result<Bytes, Trouble> {
    loop {
        if let Some(message) = unframed.next() {
            return Ok(message);
        }
        let frame = response.body_mut().frame().await;
        let frame = frame.ok_or_else(|| "a call ended before its messages".to_owned())?;
        let frame = frame.map_err(|error| truncated(&error))?;
        unframed.add(frame.data_ref().map_or(&[], |data| &data[..]));
    }
}

/// Reads on to the trailers; there must be no further message.
async fn rest_of(response: &mut Response<Incoming>) -> Result<HeaderMap, Trouble> {
    while let Some(frame) = response.body_mut().frame().await {
        match frame.map_err(|error| truncated(&error))?.into_trailers() {
            Ok(trailers) => return Ok(trailers),
            Err(frame) if frame.data_ref().is_none_or(Bytes::is_empty) => {}
            Err(_) => return Err("a call got a message that it had not sent".to_owned().into()),
        }
    }
    Err("a call ended without trailers".to_owned().into())
}
