//! Active checks: what is asked of a target, how it is asked, and what a row of answers means.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body::UpBody;
use crate::headers;
use crate::http2::Local;
use crate::table::TargetProtocol;

/// No more of a body is read.
const BODY_BYTES: usize = 64 << 10;
/// A check that surprises is repeated after a tenth of the interval, but not sooner than this.
const SOONEST_AGAIN: Duration = Duration::from_millis(500);

/// What the proxy asks each target of a track all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetChecks {
    /// Path of an HTTP GET; none: the target must accept a connection.
    #[serde(default)]
    pub path: Option<String>,
    /// Lowest and highest status that passes.
    #[serde(default = "any_success")]
    pub status: (u16, u16),
    /// A text that the first 64 KiB of the body must contain.
    #[serde(default)]
    pub body: Option<String>,
    /// The pause between two checks of a target; at least 1.
    pub interval_ms: u64,
    /// How long one check may take; at least 1.
    pub timeout_ms: u64,
    /// Failures in a row until the target is down; at least 1.
    pub fall: u32,
    /// Passes in a row until it is up again; at least 1.
    pub rise: u32,
}

fn any_success() -> (u16, u16) {
    (200, 399)
}

impl TargetChecks {
    /// Says what makes the checks unusable.
    pub(crate) fn mistake(&self) -> Option<String> {
        if self.interval_ms == 0 || self.timeout_ms == 0 || self.fall == 0 || self.rise == 0 {
            return Some("interval, timeout, fall and rise of its checks must be at least 1".into());
        }
        let path = self.path.as_ref()?;
        let usable = path.starts_with('/') && path.parse::<http::Uri>().is_ok();
        (!usable).then(|| format!("its checks cannot ask for \"{path}\": a path begins with /"))
    }

    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// Returns what is asked, in few words.
    pub(crate) fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "connect".to_owned(), |path| format!("GET {path}"))
    }

    /// Asks once; the error says why the target did not pass.
    pub(crate) async fn ask(
        &self,
        address: SocketAddr,
        host: Option<&str>,
        protocol: TargetProtocol,
    ) -> Result<(), String> {
        let limit = Duration::from_millis(self.timeout_ms);
        match timeout(limit, self.exchange(address, host, protocol)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }

    async fn exchange(
        &self,
        address: SocketAddr,
        host: Option<&str>,
        protocol: TargetProtocol,
    ) -> Result<(), String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let Some(path) = &self.path else { return Ok(()) };
        let host = host.map_or_else(|| address.to_string(), str::to_owned);
        let mut request = Request::get(path.as_str())
            .header(header::HOST, HeaderValue::from_str(&host).map_err(|error| error.to_string())?)
            .header(header::USER_AGENT, "cutover-check")
            .header(header::ACCEPT, "*/*")
            .body(UpBody::Empty)
            .map_err(|error| error.to_string())?;
        if protocol == TargetProtocol::H2c {
            headers::to_http2(&mut request);
            let (mut sender, connection) =
                http2::handshake(Local, TokioIo::new(stream)).await.map_err(broken)?;
            return self.judged(sender.send_request(request), connection).await;
        }
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        self.judged(sender.send_request(request), connection).await
    }

    /// Waits for the answer, while its connection is driven, and compares it with what is expected.
    async fn judged(
        &self,
        sent: impl Future<Output = hyper::Result<Response<Incoming>>>,
        connection: impl Future,
    ) -> Result<(), String> {
        let exchange = async {
            let response = sent.await.map_err(broken)?;
            let status = response.status().as_u16();
            // Read in any case: a server whose answer is not taken logs a broken connection every few seconds.
            let body = read(response.into_body()).await;
            if !(self.status.0..=self.status.1).contains(&status) {
                return Err(format!("answered {status}"));
            }
            match &self.body {
                Some(text) if !contains(&body.map_err(broken)?, text.as_bytes()) => {
                    Err(format!("the body does not contain \"{text}\""))
                }
                _ => Ok(()),
            }
        };
        tokio::select! {
            biased;
            outcome = exchange => outcome,
            // The connection is driven beside the exchange and is dropped with it.
            () = async { let _ = connection.await; std::future::pending::<()>().await } => unreachable!("pending"),
        }
    }
}

fn broken(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < BODY_BYTES {
        match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => bytes.extend(frame.into_data().unwrap_or_else(|_| Bytes::new())),
            Some(Err(error)) => return Err(error),
            None => break,
        }
    }
    bytes.truncate(BODY_BYTES);
    Ok(bytes)
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

/// What a row of answers of one target comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) up: bool,
    /// Answers in a row that say the opposite of `up`.
    against: u32,
    /// Nothing is known yet: the first answer decides alone.
    unknown: bool,
    /// Why the last check failed; none: it passed.
    pub(crate) why: Option<String>,
    pub(crate) asked: u64,
}

impl Row {
    /// Begins with a target that somebody vouches for, or of which nothing is known.
    pub(crate) fn new(vouched: bool) -> Self {
        Self { up: true, against: 0, unknown: !vouched, why: None, asked: 0 }
    }

    /// Takes the next answer; true when the target came up or went down.
    pub(crate) fn judge(&mut self, answer: Result<(), String>, checks: &TargetChecks) -> bool {
        let passed = answer.is_ok();
        self.why = answer.err();
        self.asked += 1;
        let decides = std::mem::take(&mut self.unknown);
        if passed == self.up {
            self.against = 0;
            return false;
        }
        self.against += 1;
        if self.against < if passed { checks.rise } else { checks.fall } && !decides {
            return false;
        }
        self.up = passed;
        self.against = 0;
        true
    }

    /// Returns the pause until the next check: short while the target may be about to change sides.
    pub(crate) fn pause(&self, checks: &TargetChecks) -> Duration {
        let interval = checks.interval();
        if self.against == 0 { interval } else { (interval / 10).max(SOONEST_AGAIN).min(interval) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> TargetChecks {
        TargetChecks {
            path: None,
            status: any_success(),
            body: None,
            interval_ms: 10_000,
            timeout_ms: 1,
            fall: 3,
            rise: 2,
        }
    }

    /// `.` passes, `x` fails; returns `+` for up and `-` for down after each.
    fn judge(mut row: Row, answers: &str) -> String {
        let answer = |letter| if letter == '.' { Ok(()) } else { Err("refused".to_owned()) };
        answers
            .chars()
            .map(|letter| {
                row.judge(answer(letter), &checks());
                if row.up { '+' } else { '-' }
            })
            .collect()
    }

    #[test]
    fn a_target_falls_after_three_and_rises_after_two_in_a_row() {
        assert_eq!(judge(Row::new(true), "xx.xxx.x..x"), "+++++----++");
    }

    #[test]
    fn the_first_answer_of_an_unknown_target_decides() {
        assert_eq!(judge(Row::new(false), "x.."), "--+");
        assert_eq!(judge(Row::new(false), ".xx"), "+++");
    }

    #[test]
    fn a_surprise_is_looked_at_again_soon() {
        let mut row = Row::new(true);
        assert_eq!(row.pause(&checks()).as_millis(), 10_000);
        assert!(!row.judge(Err("refused".into()), &checks()));
        assert_eq!(row.pause(&checks()).as_millis(), 1_000);
        assert!(!row.judge(Ok(()), &checks()));
        assert_eq!(row.pause(&checks()).as_millis(), 10_000);
    }
}
