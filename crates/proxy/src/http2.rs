//! HTTP/2 from clients: one connection, many streams, each a request like any other.
//!
//! What a client could make us hold is bounded: streams, headers, buffers, and streams that are opened only to be reset.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::body::DownBody;
use crate::extended::{self, Alive};
use crate::forward::{From, forward};
use crate::paced::PATIENCE;
use crate::route::Router;
use crate::thread::{Phase, header_timeout};
use crate::upload::Pace;

/// What a client of prior knowledge, or of ALPN, says first (RFC 9113, 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most streams a client may have open at once.
const MAX_STREAMS: u32 = 128;
/// Largest list of header fields, and so the most that CONTINUATION frames may bring.
const MAX_HEADERS: u32 = 32 << 10;
/// Most of a response that waits, per stream, for a client that reads slowly.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// Streams that a client may reset before we have even looked at them.
const MAX_RESET_UNSEEN: usize = 32;
/// Streams that our own errors may reset.
const MAX_RESET_BY_US: usize = 256;
/// From this many streams on a connection is closed when most of them were reset at once.
const JUDGED_FROM: u64 = 500;
/// A stream that its client gave up this early was not meant to be answered.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A client that does not answer a ping for this long is gone.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an idle client has to take leave after GOAWAY.
const LEAVE: Duration = Duration::from_secs(5);
/// How long the last streams of a connection may go on.
const LAST_STREAMS: Duration = Duration::from_secs(600);

/// Runs the tasks of a connection on its own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, task: F) {
        // Nobody joins them: a stream ends with its connection, which the thread counts.
        drop(tokio::task::spawn_local(task));
    }
}

/// Serves one connection until either side ends it; when the thread leaves, GOAWAY lets the streams in flight finish.
pub(crate) async fn serve<I>(io: I, router: Rc<Router>, from: From, mut quitting: watch::Receiver<Phase>)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let pace = router.compiled.borrow().doors.pace(from.listener);
    let streams = Rc::new(Streams::default());
    let own = streams.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, mut open) = (router.clone(), Open::new(&own));
        // The stream outlives its response.
        let tunnel = extended::is_websocket(&request).then(|| {
            let mut tunnel = Open::new(&own);
            tunnel.answered = true;
            Rc::new(tunnel) as Alive
        });
        // In a box: the task of a stream is moved several times before it runs.
        Box::pin(async move {
            let response = forward(router, request, from, tunnel).await;
            open.answered = true;
            Ok::<_, Infallible>(response.map(|body| Counted { body, open: Rc::new(open) }))
        })
    });
    let connection = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESET_UNSEEN)
        .max_local_error_reset_streams(MAX_RESET_BY_US)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let stuck = longest_wait(pace);
    let mut look = header_timeout().min(stuck);
    let mut leaving = *quitting.borrow() != Phase::Open;
    while !leaving {
        tokio::select! {
            // A client that breaks off or sends nonsense: hyper has answered what can be answered.
            _ = connection.as_mut() => return,
            () = streams.abused.notified() => return,
            // The thread leaves, or is gone.
            _ = quitting.changed() => leaving = true,
            () = tokio::time::sleep(look) => {
                // It opens no window for a stream, and would hold what is at the other end of it for ever.
                if streams.stuck_since().is_some_and(|since| since.elapsed() >= stuck) {
                    return;
                }
                look = header_timeout().saturating_sub(streams.idle_for());
                leaving = look.is_zero();
                look = look.min(stuck);
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    loop {
        // A drain limits the time of requests; a client that never reads, or never answers the GOAWAY, is cut.
        let limit = if streams.open.get() > 0 { LAST_STREAMS } else { LEAVE };
        let ended = timeout(limit, connection.as_mut()).await.is_ok();
        // A stream that was on its way meanwhile is accepted, so it is served.
        if ended || limit == LAST_STREAMS || streams.open.get() == 0 {
            return;
        }
    }
}

/// Returns how long a client at this pace may take for what a stream holds for it at once.
fn longest_wait(pace: Pace) -> Duration {
    let times = (MAX_SEND_BUFFER as u64 / pace.bytes.max(1)).clamp(1, 1 << 16);
    Duration::from_millis(pace.within_ms.saturating_mul(times).min(PATIENCE.within_ms))
}

/// What the streams of one connection came to.
#[derive(Debug)]
struct Streams {
    open: Cell<u64>,
    opened: Cell<u64>,
    /// Given up by the client as soon as they were opened.
    reset_at_once: Cell<u64>,
    /// When the last one ended.
    ended: Cell<Instant>,
    abused: Notify,
    /// When a body gave data that its client has not made room for yet, by the place of its stream.
    handed: RefCell<Vec<Option<Instant>>>,
    /// Places that no stream has.
    free: RefCell<Vec<usize>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            open: Cell::new(0),
            opened: Cell::new(0),
            reset_at_once: Cell::new(0),
            ended: Cell::new(Instant::now()),
            abused: Notify::new(),
            handed: RefCell::default(),
            free: RefCell::default(),
        }
    }
}

impl Streams {
    fn idle_for(&self) -> Duration {
        if self.open.get() > 0 { Duration::ZERO } else { self.ended.get().elapsed() }
    }

    /// Returns since when the stream that waits longest for its client does.
    fn stuck_since(&self) -> Option<Instant> {
        self.handed.borrow().iter().flatten().min().copied()
    }

    fn place(&self) -> usize {
        self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut handed = self.handed.borrow_mut();
            handed.push(None);
            handed.len() - 1
        })
    }
}

/// One open stream.
#[derive(Debug)]
struct Open {
    streams: Rc<Streams>,
    place: usize,
    since: Instant,
    /// Its response head is there: a client may well give up a long download.
    answered: bool,
}

impl Open {
    fn new(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        streams.opened.set(streams.opened.get() + 1);
        Self { streams: streams.clone(), place: streams.place(), since: Instant::now(), answered: false }
    }

    /// Notes whether the client has data before it; the connection asks for more once it has room for it.
    fn handed(&self, data: bool) {
        if let Some(handed) = self.streams.handed.borrow_mut().get_mut(self.place) {
            *handed = data.then(Instant::now);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.handed(false);
        let streams = &self.streams;
        streams.free.borrow_mut().push(self.place);
        streams.open.set(streams.open.get().saturating_sub(1));
        streams.ended.set(Instant::now());
        if self.answered || self.since.elapsed() >= AT_ONCE {
            return;
        }
        streams.reset_at_once.set(streams.reset_at_once.get() + 1);
        if streams.opened.get() >= JUDGED_FROM && streams.reset_at_once.get() * 2 > streams.opened.get() {
            streams.abused.notify_one();
        }
    }
}

/// Body of a response that keeps its stream counted as open.
struct Counted {
    body: DownBody,
    open: Rc<Open>,
}

/// Data of a body. It keeps its stream counted as open until it was sent: the body may have ended long before.
struct Held {
    data: Bytes,
    open: Rc<Open>,
}

impl Buf for Held {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        // The client makes room.
        self.open.handed(count < self.data.remaining());
        self.data.advance(count);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.open.handed(false);
    }
}

impl Body for Counted {
    type Data = Held;
    type Error = <DownBody as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Held>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let open = self.open.clone();
        polled.map_ok(|frame| {
            frame.map_data(|data| {
                open.handed(true);
                Held { data, open }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
