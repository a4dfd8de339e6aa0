//! Connections of HTTP/2 to targets: a few for each target and thread, each with many requests at once.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::TryFutureExt;
use http::Request;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::body::UpBody;
use crate::cells::{ConnState, TargetCell};
use crate::headers;
use crate::http2::Local;
use crate::pool::{Answer, SendFailure, connected, next_id};

/// Most streams of one connection, if the target allows as many.
pub(crate) const MAX_STREAMS: usize = 100;
/// Streams before the target has said how many it allows; the others wait, instead of being refused.
const UNTIL_SETTINGS: usize = 1;
/// Most connections to one target; from there on requests queue for a stream.
const MAX_CONNECTIONS: usize = 8;
/// What a target may send ahead of a client that reads slowly.
const STREAM_WINDOW: u32 = 256 << 10;
/// Room for all streams at once: one slow client must not stop the others on the connection.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
const MAX_SEND_BUFFER: usize = 64 << 10;
const MAX_HEADERS: u32 = 64 << 10;
/// A connection without a stream for this long is closed. Pings would be taken for abuse by servers of gRPC.
const IDLE: Duration = Duration::from_secs(60);

/// A connection that requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    id: u64,
    sender: SendRequest<UpBody>,
    state: Rc<ConnState>,
    streams: Cell<usize>,
    /// When the last stream ended.
    ended: Cell<Instant>,
}

/// One request's part in a connection; dropping it ends the stream, and the connection with the last one once nobody
/// wants it any more.
#[derive(Debug)]
pub(crate) struct Stream(Rc<Shared>);

impl Stream {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self(shared.clone())
    }

    pub(crate) fn state(&self) -> &Rc<ConnState> {
        &self.0.state
    }

    /// Sends a request and waits for the response head.
    pub(crate) fn send(&mut self, mut request: Request<UpBody>) -> impl Future<Output = Answer> + use<> {
        headers::to_http2(&mut request);
        self.0.sender.clone().try_send_request(request).map_err(SendFailure::of)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.ended.set(Instant::now());
    }
}

/// Takes a stream of a connection that is open.
pub(crate) fn checkout(target: &Rc<TargetCell>) -> Option<Stream> {
    let mut shared = target.shared.borrow_mut();
    shared.retain(|shared| !shared.sender.is_closed() && !shared.state.killed.get());
    let least = shared.iter().min_by_key(|shared| shared.streams.get())?;
    if least.streams.get() < target.most_streams.get() || shared.len() >= MAX_CONNECTIONS {
        return Some(Stream::new(least));
    }
    None
}

/// When a connection could not be made, and the machine-readable reason.
pub(crate) type LastFailure = Option<(Instant, &'static str)>;

/// Opens a connection, or takes a stream of one that was opened meanwhile; the error is the machine-readable reason.
pub(crate) async fn connect(target: &Rc<TargetCell>) -> Result<Stream, &'static str> {
    let begun = Instant::now();
    // Requests that come while there is no connection wait for the first one to have it, and share its failure.
    let mut last_failure = target.connecting.lock().await;
    if let Some(stream) = checkout(target) {
        return Ok(stream);
    }
    if let Some((_, reason)) = last_failure.filter(|(at, _)| *at >= begun) {
        return Err(reason);
    }
    let opened = connected(target, || open(target)).await;
    *last_failure = opened.as_ref().err().map(|reason| (Instant::now(), *reason));
    opened
}

async fn open(target: &Rc<TargetCell>) -> io::Result<Stream> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let state = Rc::new(ConnState::new(&stream)?);
    let id = next_id();
    target.open.borrow_mut().insert(id, state.clone());
    let socket = Socket { stream, id, target: target.clone() };
    let (sender, connection) = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .initial_max_send_streams(UNTIL_SETTINGS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_header_list_size(MAX_HEADERS)
        .handshake::<_, UpBody>(TokioIo::new(socket))
        .await
        .map_err(io::Error::other)?;
    let owner = target.clone();
    tokio::task::spawn_local(async move {
        let mut connection = connection;
        // It takes no more streams: a GOAWAY, a failure that reaches whoever waits for a response, or nobody wants it
        // any more. The streams that it has may go on.
        let _ = std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            let most = connection.current_max_send_streams();
            if most != UNTIL_SETTINGS {
                owner.most_streams.set(most.clamp(1, MAX_STREAMS));
            }
            polled
        })
        .await;
        owner.shared.borrow_mut().retain(|shared| shared.id != id);
    });
    let (streams, ended) = (Cell::new(0), Cell::new(Instant::now()));
    let shared = Rc::new(Shared { id, sender, state, streams, ended });
    let stream = Stream::new(&shared);
    if !target.leaves() {
        target.shared.borrow_mut().push(shared);
    }
    Ok(stream)
}

/// Returns the machine-readable reason why a request that was sent got no response head.
pub(crate) fn reason(error: &hyper::Error) -> &'static str {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match cause {
        Some(cause) if cause.is_reset() && cause.is_remote() => "target-reset",
        // What it sends is no HTTP/2.
        Some(cause) if cause.is_go_away() && cause.is_library() => "bad-response",
        _ if error.is_parse() => "bad-response",
        _ => "target-closed",
    }
}

/// Closes connections that had no stream for a while.
pub(crate) fn sweep(target: &TargetCell) {
    let idle = |shared: &Rc<Shared>| shared.streams.get() == 0 && shared.ended.get().elapsed() >= IDLE;
    target.shared.borrow_mut().retain(|shared| !idle(shared));
}

/// The socket of a connection, which is over when this is dropped.
#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    id: u64,
    target: Rc<TargetCell>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.target.open.borrow_mut().remove(&self.id);
        self.target.wake_drain();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
