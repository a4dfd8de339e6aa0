//! Bodies that pass through without being collected, and tell when they end.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::claim::Claim;
use crate::event_stream::EventStream;
use crate::grpc::{self, Ends};
use crate::pool::Conn;
use crate::upload::Watched;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How far the request body of a client has come.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) failed: Cell<bool>,
    pub(crate) moved: Cell<Instant>,
    /// Why we ended it ourselves.
    pub(crate) refused: Cell<Option<&'static str>>,
}

/// Body of a request on its way to a target.
#[derive(Debug)]
pub(crate) enum UpBody {
    /// The request has none.
    Empty,
    /// It streams from the client.
    Stream(Upstreaming),
}

/// A request body under way. Dropped early, the rest is read and thrown away: a server that closes while its client
/// still sends resets the connection, and the client may never see the response.
#[derive(Debug)]
pub(crate) struct Upstreaming {
    body: Option<Incoming>,
    upload: Rc<Upload>,
    /// The connection carries nothing else meanwhile. A stream of HTTP/2 is reset instead.
    linger: bool,
    watched: Option<Box<Watched>>,
}

/// How long the rest of an unwanted body is read.
const LINGER: Duration = Duration::from_secs(10);

thread_local! {
    /// Tasks can be started: the thread's runtime is alive.
    pub(crate) static SERVING: Cell<bool> = const { Cell::new(false) };
}

impl Drop for Upstreaming {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        if !self.linger || body.is_end_stream() || self.upload.failed.get() || !SERVING.get() {
            return;
        }
        tokio::task::spawn_local(async move {
            let mut body = body;
            let rest = async {
                while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
            };
            // A client that is slower than this gets the reset.
            let _ = tokio::time::timeout(LINGER, rest).await;
        });
    }
}

impl UpBody {
    pub(crate) fn new(body: Incoming, version: Version) -> (Self, Option<Rc<Upload>>) {
        if body.is_end_stream() {
            return (Self::Empty, None);
        }
        let upload = Rc::new(Upload {
            failed: Cell::new(false),
            moved: Cell::new(Instant::now()),
            refused: Cell::new(None),
        });
        let linger = version < Version::HTTP_2;
        (
            Self::Stream(Upstreaming { body: Some(body), upload: upload.clone(), linger, watched: None }),
            Some(upload),
        )
    }

    /// Ends the body with an error when it is too long, or comes too slowly.
    pub(crate) fn watch(&mut self, watched: Option<Box<Watched>>) {
        if let Self::Stream(streaming) = self {
            streaming.watched = watched;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for UpBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(Upstreaming { body: Some(body), upload, watched, .. }) => {
                let polled = Pin::new(body).poll_frame(cx);
                if let Some(reason) = watched.as_mut().and_then(|watched| watched.look(&polled, cx)) {
                    upload.refused.set(Some(reason));
                    return Poll::Ready(Some(Err(reason.into())));
                }
                match &polled {
                    Poll::Ready(Some(Err(_))) => upload.failed.set(true),
                    Poll::Ready(_) => upload.moved.set(Instant::now()),
                    Poll::Pending => {}
                }
                polled.map_err(Into::into)
            }
            Self::Stream(Upstreaming { body: None, .. }) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(streaming) => streaming.body.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(streaming) => match &streaming.body {
                Some(body) => body.size_hint(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}

/// Body of a response on its way to the client.
#[derive(Debug)]
pub(crate) enum DownBody {
    /// Text of the proxy itself.
    Own(Option<Bytes>),
    /// It streams from the target.
    Stream(Box<Stream>),
}

/// A response body under way: it holds the claim, and the connection it will give back.
#[derive(Debug)]
pub(crate) struct Stream {
    body: Incoming,
    claim: Option<Claim>,
    conn: Option<Conn>,
    keep: Duration,
    events: Option<Box<EventStream>>,
    /// Only its trailers will say what it came to, and they have not passed.
    undecided: bool,
}

impl DownBody {
    /// Takes over a response; one without a body is finished already.
    pub(crate) fn stream(
        body: Incoming,
        claim: Claim,
        conn: Conn,
        keep: Duration,
        events: Option<Box<EventStream>>,
        ends: Ends,
    ) -> Self {
        let undecided = ends == Ends::InTrailers;
        let mut stream = Stream { body, claim: Some(claim), conn: Some(conn), keep, events, undecided };
        if stream.body.is_end_stream() {
            stream.end();
        }
        Self::Stream(Box::new(stream))
    }
}

impl Stream {
    fn end(&mut self) {
        // Without trailers it has no status, which is one: UNKNOWN.
        self.decide(true);
        if let Some(claim) = self.claim.take() {
            claim.finish();
        }
        if let Some(conn) = self.conn.take() {
            conn.give_back(self.keep);
        }
    }

    fn decide(&mut self, failed: bool) {
        let undecided = std::mem::replace(&mut self.undecided, false);
        if let Some(claim) = self.claim.as_mut().filter(|_| undecided && failed) {
            claim.refute();
        }
    }

    /// Ends before the target has: its connection with it.
    fn leave(&mut self) {
        self.conn = None;
        self.events = None;
        if let Some(claim) = self.claim.take() {
            claim.finish_closed();
        }
    }

    fn broken(&mut self, reason: &'static str) {
        self.conn = None;
        if let Some(claim) = self.claim.take() {
            claim.fail(reason);
        }
    }

    fn killed(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.ends_bodies() && conn.is_killed())
    }
}

impl Body for DownBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let stream = match self.get_mut() {
            Self::Own(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Stream(stream) => stream,
        };
        if stream.events.as_mut().is_some_and(|events| events.ends(cx)) {
            stream.leave();
            return Poll::Ready(None);
        }
        match std::task::ready!(Pin::new(&mut stream.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let (Some(events), Some(data)) = (&mut stream.events, frame.data_ref()) {
                    events.passed(data);
                }
                if let Some(trailers) = frame.trailers_ref() {
                    stream.decide(grpc::is_failure(trailers));
                }
                if let Some(log) = stream.claim.as_mut().and_then(|claim| claim.log.as_mut()) {
                    log.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                if stream.body.is_end_stream() {
                    stream.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // A body without a length ends where its connection ends: when we cut that, it is not whole.
            None if stream.killed() => {
                stream.broken("truncated");
                Poll::Ready(Some(Err("cut at the deadline of the drain".into())))
            }
            None => {
                stream.end();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                stream.broken("truncated");
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Stream(stream) => stream.claim.is_none() && stream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Stream(stream) => stream.body.size_hint(),
        }
    }
}
