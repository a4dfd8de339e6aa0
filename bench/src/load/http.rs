//! Clients of plain HTTP: kept and new connections, POSTs, slow uploads and downloads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::report::{Answer, Kind, Trouble};
use super::seat::Seat;
use super::shared::Shared;
use super::wire::{self, Speaks};
use crate::payload::{Follower, Payload};
use crate::service::{INTENDED_HEADER, VERSION_HEADER};

const UPLOAD_BYTES: u64 = 64 << 10;
const DOWNLOAD_BYTES: u64 = 256 << 10;

/// One client.
pub(crate) struct HttpClient {
    shared: Arc<Shared>,
    kind: Kind,
    number: usize,
    turn: u64,
    kept: Option<SendRequest<Payload>>,
    seat: Seat,
}

impl HttpClient {
    pub(crate) fn new(shared: Arc<Shared>, kind: Kind, number: usize) -> Self {
        Self { shared, kind, number, turn: number as u64, kept: None, seat: Seat::default() }
    }

    /// Sends until the load is over.
    pub(crate) async fn run(mut self) {
        let interval = match self.kind {
            Kind::GetKept | Kind::GetNew | Kind::Post | Kind::Sticky => self.shared.interval(),
            _ => None,
        };
        // Clients begin spread over one interval, not all at once.
        let spread = interval.unwrap_or(Duration::ZERO).mul_f64(fastrand::f64());
        self.shared.pause(spread).await;
        let mut due = Instant::now();
        while let Some(begun) = self.shared.begin(self.kind) {
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
        self.turn += 1;
        let announced = self.turn.is_multiple_of(2);
        let slow = self.shared.options.slow;
        match self.kind {
            Kind::GetKept | Kind::GetNew | Kind::Sticky => {
                let (answer, body) = self.whole("GET", "/", Bytes::new().into()).await?;
                if !answer.intended_error {
                    same(&body, format!("{}\n", answer.version).as_bytes())?;
                }
                Ok(answer)
            }
            Kind::Post => {
                let (number, id) = self.shared.next_id(self.number);
                let outcome = self.post(&id).await;
                if !matches!(outcome, Ok(Answer { intended_error: false, .. })) {
                    self.shared.post_failed(self.number, number);
                }
                outcome
            }
            Kind::SlowUpload => {
                let body = Payload::drip(UPLOAD_BYTES, slow, announced);
                let (answer, body) = self.whole("POST", "/upload", body).await?;
                if !answer.intended_error {
                    same(&body, format!("received {UPLOAD_BYTES} bytes\n").as_bytes())?;
                }
                Ok(answer)
            }
            Kind::SlowDownload => {
                let framing = if announced { "length" } else { "chunked" };
                let path = format!("/slow?bytes={DOWNLOAD_BYTES}&ms={}&framing={framing}", slow.as_millis());
                self.download(&path).await
            }
            Kind::WebSocket | Kind::Http2 | Kind::Grpc => {
                unreachable!("{:?} has a client of its own", self.kind)
            }
        }
    }

    async fn post(&mut self, id: &str) -> Result<Answer, Trouble> {
        let (answer, body) = self.whole("POST", "/ids", Bytes::copy_from_slice(id.as_bytes()).into()).await?;
        if !answer.intended_error {
            same(&body, format!("{id}\n").as_bytes())?;
        }
        Ok(answer)
    }

    async fn whole(&mut self, method: &str, path: &str, body: Payload) -> Result<(Answer, Bytes), Trouble> {
        let (answer, response, sender) = self.exchange(method, path, body).await?;
        let body = response.into_body().collect().await.map_err(|error| truncated(&error))?.to_bytes();
        self.keep(sender);
        Ok((answer, body))
    }

    async fn download(&mut self, path: &str) -> Result<Answer, Trouble> {
        let (answer, response, sender) = self.exchange("GET", path, Bytes::new().into()).await?;
        let mut body = response.into_body();
        let mut follower = Follower::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| truncated(&error))?;
            if let Some(bytes) = frame.data_ref() {
                follower.follow(bytes);
            }
        }
        if !answer.intended_error {
            follower.verdict(DOWNLOAD_BYTES)?;
        }
        self.keep(sender);
        Ok(answer)
    }

    fn keep(&mut self, sender: SendRequest<Payload>) {
        if !self.anew() {
            self.kept = Some(sender);
        }
    }

    /// Tells whether each request has a connection of its own.
    fn anew(&self) -> bool {
        self.kind == Kind::GetNew || (self.kind == Kind::Sticky && self.number.is_multiple_of(2))
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: Payload,
    ) -> Result<(Answer, Response<Incoming>, SendRequest<Payload>), Trouble> {
        let host = &self.shared.options.host;
        let mut request = Request::builder().method(method).uri(path).header("host", host);
        if self.anew() {
            request = request.header("connection", "close");
        }
        if let (Kind::Sticky, Some(cookie)) = (self.kind, self.seat.cookie()) {
            request = request.header("cookie", cookie);
        }
        let request =
            request.body(body).map_err(|error| format!("the load's own request is wrong: {error}"))?;
        let (response, sender) = self.send(request).await?;
        let answer = judge(&response)?;
        self.seat.learn(&response, &answer.version)?;
        Ok((answer, response, sender))
    }

    /// Sends on the kept connection, or on a new one where there is none or it was closed while idle.
    async fn send(
        &mut self,
        mut request: Request<Payload>,
    ) -> Result<(Response<Incoming>, SendRequest<Payload>), Trouble> {
        if let Some(mut sender) = self.kept.take()
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
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
        let stream = wire::connect(&self.shared.options, Speaks::Http1).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("failed to connect: {}", chain(&error)))?;
        // Ends with its sender, or with the other side; what it meets reaches the request.
        tokio::spawn(connection);
        match sender.send_request(request).await {
            Ok(response) => Ok((response, sender)),
            Err(error) => Err(format!("on a new connection, before any answer: {}", chain(&error)).into()),
        }
    }
}

/// Tells whether the service itself answered, and who.
pub(super) fn judge<T>(response: &Response<T>) -> Result<Answer, Trouble> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let intended_error = header(INTENDED_HEADER).is_some();
    let status = response.status();
    match header(VERSION_HEADER) {
        Some(version) if status.is_success() || intended_error => {
            Ok(Answer { version: version.to_owned(), intended_error })
        }
        version => {
            let by =
                version.map_or("not by the service".to_owned(), |version| format!("by version {version}"));
            let why =
                header(cutover_proxy::REASON_HEADER).map(|why| format!(", reason {why}")).unwrap_or_default();
            Err(format!("answered {status} {by}{why}").into())
        }
    }
}

pub(super) fn same(body: &[u8], expected: &[u8]) -> Result<(), String> {
    if body == expected {
        return Ok(());
    }
    let seen = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
    Err(format!("wrong body: {seen:?} instead of {:?}", String::from_utf8_lossy(expected)))
}

pub(super) fn truncated(error: &hyper::Error) -> Trouble {
    format!("truncated body: {}", chain(error)).into()
}

/// Returns an error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}
