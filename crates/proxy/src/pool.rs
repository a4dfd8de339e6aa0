//! Connections to targets: opened, kept for a short while, never shared between threads.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::TryFutureExt;
use futures_util::future::Either;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body::UpBody;
use crate::cells::{ConnState, TargetCell};
use crate::exhausted;
use crate::headers;
use crate::multiplex;

/// Longest time a connection is kept idle: shorter than the idle timeout of any server we know.
pub(crate) const KEEP_IDLE: Duration = Duration::from_secs(2);
/// Requests that cannot be repeated use a kept connection only when it was in use this recently.
const FRESH_FOR: Duration = Duration::from_millis(300);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A connection that was idle for this long shows that its server keeps connections.
const KEPT_FOR: Duration = Duration::from_millis(50);
/// Most that is read from a target ahead of its client, and the longest head of a response.
const MAX_BUFFER: usize = 64 << 10;
/// Most idle connections a thread keeps to one target.
const MAX_IDLE: usize = 1024;

/// A connection to a target in use; dropping it closes the connection.
#[derive(Debug)]
pub(crate) enum Conn {
    /// Of HTTP/1.1, with this request alone.
    Own(Own),
    /// A stream of a connection of HTTP/2; the connection stays.
    Shared(multiplex::Stream),
}

/// A connection of HTTP/1.1 in use.
#[derive(Debug)]
pub(crate) struct Own {
    sender: SendRequest<UpBody>,
    state: Rc<ConnState>,
    target: Rc<TargetCell>,
}

/// A connection kept for the next request.
#[derive(Debug)]
pub(crate) struct Idle {
    sender: SendRequest<UpBody>,
    state: Rc<ConnState>,
    since: Instant,
    until: Instant,
}

impl Idle {
    /// Closes the connection on purpose.
    pub(crate) fn retire(self) {
        self.state.idle.set(false);
    }
}

/// What came of a request.
pub(crate) type Answer = Result<Response<Incoming>, SendFailure>;

/// Why no response head came.
pub(crate) enum SendFailure {
    /// Nothing of the request was sent; here it is again.
    Unsent(Box<Request<UpBody>>),
    /// The request may have reached the target.
    Sent(hyper::Error),
}

/// How a request is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    /// A connection that will hardly be closed under the request.
    pub(crate) strict: bool,
    /// One of its own, which it will keep as a tunnel: HTTP/1.1, whatever the target speaks otherwise.
    pub(crate) own: bool,
}

impl SendFailure {
    pub(crate) fn of(mut error: TrySendError<Request<UpBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Sent(error.into_error()),
        }
    }
}

/// Takes a kept connection.
pub(crate) fn checkout(target: &Rc<TargetCell>, needs: Needs) -> Option<Conn> {
    if target.multiplexes(needs) {
        return multiplex::checkout(target).map(Conn::Shared);
    }
    let strict = needs.strict;
    // A server may close right after its response, unannounced, while the next request is on its way: until it is
    // known that it does not, what cannot be repeated goes over a new connection.
    if strict && (target.closes_silently.get() || !target.keeps.get()) {
        return None;
    }
    let mut kept = target.idle.borrow_mut();
    let now = Instant::now();
    while let Some(idle) = kept.pop() {
        let stale = idle.until <= now || !idle.sender.is_ready();
        if stale || (strict && (now - idle.since > FRESH_FOR || !idle.state.is_quiet())) {
            if !idle.sender.is_closed() {
                idle.retire();
            }
            continue;
        }
        idle.state.idle.set(false);
        return Some(Conn::Own(Own { sender: idle.sender, state: idle.state, target: target.clone() }));
    }
    None
}

/// Opens a connection; the error is the machine-readable reason.
pub(crate) async fn connect(target: &Rc<TargetCell>, needs: Needs) -> Result<Conn, &'static str> {
    if target.multiplexes(needs) {
        return multiplex::connect(target).await.map(Conn::Shared);
    }
    connected(target, || open(target)).await.map(Conn::Own)
}

/// Opens a connection within the limits; a failure makes the target suspect.
pub(crate) async fn connected<T, F>(target: &Rc<TargetCell>, open: impl Fn() -> F) -> Result<T, &'static str>
where
    F: Future<Output = io::Result<T>>,
{
    let begun = Instant::now();
    let opened = loop {
        match timeout(CONNECT_TIMEOUT, open()).await {
            Ok(Err(error)) if exhausted::is_exhausted(&error) => {
                if begun.elapsed() >= exhausted::WAIT {
                    return Err(exhausted::EXHAUSTED);
                }
                // What is idle here holds two each.
                target.purge();
                tokio::time::sleep(exhausted::AGAIN).await;
            }
            opened => break opened,
        }
    };
    let reason = match opened {
        Ok(Ok(conn)) => return Ok(conn),
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect-refused",
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "connect-unreachable",
            io::ErrorKind::TimedOut => "connect-timeout",
            _ => "connect-failed",
        },
        Err(_) => "connect-timeout",
    };
    let now = Instant::now();
    if target.revision.balance.get().eject_after > 0 && !target.trust.is_ejected(now) {
        // Whoever accepts no connection is found out by one request: nothing was sent, another target takes it.
        target.trust.eject(now);
    }
    Err(reason)
}

async fn open(target: &Rc<TargetCell>) -> io::Result<Own> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let state = Rc::new(ConnState::new(&stream)?);
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(false)
        .max_buf_size(MAX_BUFFER)
        .handshake::<_, UpBody>(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let id = next_id();
    target.open.borrow_mut().insert(id, state.clone());
    let (owner, own_state) = (target.clone(), state.clone());
    tokio::task::spawn_local(async move {
        // Its failure reaches whoever waits for the response; nobody waits on an idle one.
        let _ = connection.with_upgrades().await;
        if own_state.idle.get() {
            owner.closes_silently.set(true);
        }
        owner.open.borrow_mut().remove(&id);
        owner.wake_drain();
    });
    Ok(Own { sender, state, target: target.clone() })
}

pub(crate) fn next_id() -> u64 {
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
    NEXT.with(|next| {
        next.set(next.get() + 1);
        next.get()
    })
}

impl Conn {
    /// Sends a request and waits for the response head.
    ///
    /// It is sent at once, not when the future is polled: a future that kept the request would be as large as that, in
    /// each of the layers around it, and all of it is moved for each request.
    pub(crate) fn send(&mut self, request: Request<UpBody>) -> impl Future<Output = Answer> + use<> {
        match self {
            Self::Own(own) => Either::Left(own.send(request)),
            Self::Shared(stream) => Either::Right(Box::pin(stream.send(request))),
        }
    }

    /// Tells whether the deadline of a drain cut the connection.
    pub(crate) fn is_killed(&self) -> bool {
        match self {
            Self::Own(own) => own.state.killed.get(),
            Self::Shared(stream) => stream.state().killed.get(),
        }
    }

    /// Tells whether the end of the connection could be taken for the end of a body.
    pub(crate) fn ends_bodies(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Keeps the connection for the next request, if it can be used again and its target still wants requests.
    pub(crate) fn give_back(self, keep: Duration) {
        // A shared one is there for others all the time; this only ends the stream.
        if let Self::Own(own) = self {
            own.give_back(keep);
        }
    }
}

impl Own {
    fn send(&mut self, mut request: Request<UpBody>) -> impl Future<Output = Answer> + use<> {
        // Prepared for another target, which was asked before this one.
        if request.version() == Version::HTTP_2 {
            headers::to_http1(&mut request);
        }
        // Not an async block: that would hold the future twice, and be moved with it.
        self.sender.try_send_request(request).map_err(SendFailure::of)
    }

    fn give_back(mut self, keep: Duration) {
        if keep.is_zero() || exhausted::is_pressed() || self.state.killed.get() || self.sender.is_closed() {
            return;
        }
        if self.sender.is_ready() {
            return self.keep(keep);
        }
        // The connection's own task has not come round yet, or the request body is still under way.
        tokio::task::spawn_local(async move {
            if let Ok(Ok(())) = timeout(Duration::from_secs(1), self.sender.ready()).await {
                self.keep(keep);
            }
        });
    }

    fn keep(self, keep: Duration) {
        let Self { sender, state, target } = self;
        let mut idle = target.idle.borrow_mut();
        if target.leaves() || idle.len() >= MAX_IDLE {
            return;
        }
        state.idle.set(true);
        let since = Instant::now();
        idle.push(Idle { sender, state, since, until: since + keep });
    }
}

/// Closes connections that were idle for too long, before their servers do.
pub(crate) fn sweep(target: &TargetCell) {
    multiplex::sweep(target);
    let now = Instant::now();
    let mut idle = target.idle.borrow_mut();
    if !target.keeps.get() {
        let kept = |idle: &Idle| now - idle.since >= KEPT_FOR && idle.state.is_quiet();
        target.keeps.set(idle.iter().any(kept));
    }
    let mut at = 0;
    while at < idle.len() {
        if idle[at].until <= now || idle[at].sender.is_closed() {
            let old = idle.swap_remove(at);
            if !old.sender.is_closed() {
                old.retire();
            }
        } else {
            at += 1;
        }
    }
}
