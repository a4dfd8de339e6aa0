//! One data thread: accepts, serves, and obeys the control thread.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::body::SERVING;
use crate::compiled::Compiled;
use crate::count::Counts;
use crate::crowd::{Crowd, Handed, Inbox};
use crate::drain::{Drain, Drained, What};
use crate::exhausted;
use crate::forward::{From, forward};
use crate::greet::greet;
use crate::judging;
use crate::pool;
use crate::protocol::{ArmObservation, RevisionObservation};
use crate::route::Router;

/// How long a client may take to send a head, and how long it may idle between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns how long that is; a test waits for less.
pub(crate) fn header_timeout() -> Duration {
    #[cfg(debug_assertions)]
    if let Some(ms) = std::env::var("CUTOVER_TEST_IDLE_MS").ok().and_then(|text| text.parse().ok()) {
        return Duration::from_millis(ms);
    }
    HEADER_TIMEOUT
}
const SWEEP: Duration = Duration::from_millis(250);

/// What the control thread asks of a data thread.
pub(crate) enum Command {
    Swap {
        compiled: Arc<Compiled>,
        done: oneshot::Sender<()>,
    },
    Observe {
        done: oneshot::Sender<ThreadObservation>,
    },
    Drain {
        service: String,
        what: What,
        window: Duration,
        done: oneshot::Sender<Drained>,
    },
    Listen {
        address: SocketAddr,
        listener: TcpListener,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Begin to accept, on what there is to listen and what comes.
    Open {
        done: oneshot::Sender<()>,
    },
    /// Stop accepting, let requests end, then report.
    Quit {
        grace: Duration,
        done: oneshot::Sender<ThreadObservation>,
    },
}

/// One thread's share of an observation.
#[derive(Debug, Default)]
pub(crate) struct ThreadObservation {
    pub(crate) revisions: Vec<(Arc<str>, Arc<str>, RevisionObservation)>,
    pub(crate) arms: Vec<(Arc<str>, ArmObservation)>,
    pub(crate) unrouted: Vec<(&'static str, u64)>,
    pub(crate) connections: u64,
}

/// The control thread's end of a data thread.
#[derive(Debug, Clone)]
pub(crate) struct ThreadHandle {
    pub(crate) commands: mpsc::Sender<Command>,
}

/// Starts a data thread.
pub(crate) fn start(index: usize, crowd: Arc<Crowd>, inbox: Inbox) -> io::Result<ThreadHandle> {
    let (commands, receiver) = mpsc::channel(64);
    // Not joined: the process ends with its control thread, which waits for every thread's last word.
    std::thread::Builder::new().name(format!("proxy-{index}")).spawn(move || {
        judging::on_thread(index);
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime.block_on(obey(receiver, Place { index, crowd }, inbox)),
            // The receiver is dropped, which the control thread notices at once.
            Err(error) => tracing::error!(%error, "thread cannot start its runtime"),
        }
    })?;
    Ok(ThreadHandle { commands })
}

/// Which thread this is, among how many.
#[derive(Debug, Clone)]
struct Place {
    index: usize,
    crowd: Arc<Crowd>,
}

async fn obey(mut commands: mpsc::Receiver<Command>, place: Place, mut inbox: Inbox) {
    SERVING.set(true);
    let router = Rc::new(Router::default());
    router.threads.set(place.crowd.threads());
    let (quit, quitting) = watch::channel(Phase::Shut);
    let (quit, left) = (Rc::new(quit), Rc::new(Notify::new()));
    let mut sweep = tokio::time::interval(SWEEP);
    let mut acceptors = Vec::new();
    loop {
        let command = tokio::select! {
            biased;
            command = commands.recv() => command,
            _ = sweep.tick() => {
                if exhausted::is_pressed() {
                    router.targets.borrow().values().for_each(|target| target.purge());
                }
                router.targets.borrow().values().for_each(|target| pool::sweep(target));
                router.forget();
                router.open_requests.look(std::time::Instant::now());
                continue;
            }
            Some(handed) = inbox.recv() => {
                take(handed, &router, &place, &quitting);
                continue;
            }
            () = left.notified() => {
                SERVING.set(false);
                return;
            }
        };
        // An answer nobody waits for any more is dropped: the caller's deadline passed.
        match command {
            None => {
                SERVING.set(false);
                return;
            }
            Some(Command::Swap { compiled, done }) => {
                router.swap(compiled);
                let _ = done.send(());
            }
            Some(Command::Observe { done }) => {
                let _ = done.send(observe(&router));
            }
            Some(Command::Drain { service, what, window, done }) => {
                let drain = Drain::begin(&router, &service, &what);
                tokio::task::spawn_local(async move {
                    let _ = done.send(drain.run(window).await);
                });
            }
            Some(Command::Listen { address, listener, done }) => {
                let opened = tokio::net::TcpListener::from_std(listener);
                let answer = opened.map(|listener| {
                    let (router, place, quitting) = (router.clone(), place.clone(), quitting.clone());
                    acceptors
                        .push(tokio::task::spawn_local(accept(listener, address, router, place, quitting)));
                });
                let _ = done.send(answer);
            }
            Some(Command::Open { done }) => {
                quit.send_replace(Phase::Open);
                let _ = done.send(());
            }
            Some(Command::Quit { grace, done }) => {
                let (router, quit, left) = (router.clone(), quit.clone(), left.clone());
                let acceptors = std::mem::take(&mut acceptors);
                // Nobody hands this thread anything from here on; what is on its way still counts.
                inbox.close();
                while let Some(handed) = inbox.recv().await {
                    take(handed, &router, &place, &quitting);
                }
                // Beside what is still to be obeyed: the table may change while the last requests are served.
                tokio::task::spawn_local(async move {
                    leave(&router, &quit, acceptors, grace).await;
                    let _ = done.send(observe(&router));
                    left.notify_one();
                });
            }
        }
    }
}

/// How far a thread is on its way in or out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Another worker may serve still.
    Shut,
    Open,
    /// No new connections; responses ask clients to go.
    Leaving,
    /// Idle connections are closed.
    Closing,
}

async fn leave(
    router: &Rc<Router>,
    quit: &watch::Sender<Phase>,
    acceptors: Vec<JoinHandle<()>>,
    grace: Duration,
) {
    let end = tokio::time::Instant::now() + grace;
    let gone = async |until: tokio::time::Instant| {
        while router.connections.get() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    quit.send_replace(Phase::Leaving);
    // Whatever they accepted last is counted by now, and will be served.
    for acceptor in acceptors {
        // Ends at once: it waits for nothing but the next connection and this signal.
        let _ = acceptor.await;
    }
    // Clients that are busy learn from a response that the connection ends: no request meets a closing connection.
    gone(tokio::time::Instant::now() + (grace / 4).min(Duration::from_secs(2))).await;
    quit.send_replace(Phase::Closing);
    router.leaving.set(true);
    let revisions: Vec<_> = router.revisions.borrow().values().cloned().collect();
    let drains: Vec<_> = revisions
        .into_iter()
        .map(|cell| {
            cell.weighted.set(false);
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            tokio::task::spawn_local(Drain::of_revision(router, cell).run(left))
        })
        .collect();
    let patience = tokio::task::spawn_local({
        let router = router.clone();
        async move {
            tokio::time::sleep_until(end).await;
            router.give_up_waiting();
        }
    });
    for drain in drains {
        // A drain ends by itself shortly after its deadline.
        let _ = drain.await;
    }
    gone(end + Duration::from_secs(1)).await;
    patience.abort();
}

async fn accept(
    listener: tokio::net::TcpListener,
    address: SocketAddr,
    router: Rc<Router>,
    place: Place,
    mut quitting: watch::Receiver<Phase>,
) {
    if quitting.wait_for(|phase| *phase != Phase::Shut).await.is_err() {
        return;
    }
    loop {
        let accepted = tokio::select! {
            biased;
            _ = quitting.changed() => return,
            // A client more would take what a request under way needs to reach its target.
            () = tokio::time::sleep(exhausted::AGAIN), if exhausted::is_pressed() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let from = From { peer, listener: address, secure: false };
                if let Some(stream) = place.crowd.share(place.index, stream, from) {
                    place.crowd.joined(place.index);
                    let connected = Connected::new(router.clone(), place.clone());
                    tokio::task::spawn_local(greet(stream, from, connected, quitting.clone()));
                }
            }
            // Out of descriptors, mostly: connections wait in the kernel's queue meanwhile.
            Err(error) if exhausted::is_exhausted(&error) => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            // The client went away while it was queued.
            Err(_) => {}
        }
    }
}

/// Serves a connection that another thread accepted.
fn take(handed: Handed, router: &Rc<Router>, place: &Place, quitting: &watch::Receiver<Phase>) {
    let connected = Connected::new(router.clone(), place.clone());
    match tokio::net::TcpStream::from_std(handed.stream) {
        Ok(stream) => {
            let mut quitting = quitting.clone();
            tokio::task::spawn_local(async move {
                // The thread that accepted it may be open a moment before this one is.
                if quitting.wait_for(|phase| *phase != Phase::Shut).await.is_ok() {
                    greet(stream, handed.from, connected, quitting).await;
                }
            });
        }
        Err(error) => tracing::error!(%error, "a connection is lost between two threads"),
    }
}

/// Counts a connection as long as it lives, however it ends; the crowd knows of it already.
pub(crate) struct Connected {
    pub(crate) router: Rc<Router>,
    place: Place,
}

impl Connected {
    fn new(router: Rc<Router>, place: Place) -> Self {
        router.connections.set(router.connections.get() + 1);
        Self { router, place }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.router.connections.set(self.router.connections.get().saturating_sub(1));
        self.place.crowd.left(self.place.index);
    }
}

/// Serves one connection of HTTP/1.
pub(crate) async fn serve<I>(io: I, router: Rc<Router>, from: From, mut quitting: watch::Receiver<Phase>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let leaving = Rc::new(Cell::new(*quitting.borrow() != Phase::Open));
    let own = leaving.clone();
    let service = service_fn(move |request| {
        let (router, leaving) = (router.clone(), own.clone());
        // In a box: hyper keeps the room of this for as long as the connection lives, and most of them are idle.
        Box::pin(async move {
            let mut response = forward(router, request, from, None).await;
            if leaving.get() && response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
                let close = http::HeaderValue::from_static("close");
                response.headers_mut().insert(http::header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        })
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout())
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            // A client that breaks off or sends nonsense: hyper has answered what can be answered.
            _ = connection.as_mut() => return,
            changed = quitting.changed() => {
                leaving.set(true);
                if changed.is_err() || *quitting.borrow() == Phase::Closing {
                    connection.as_mut().graceful_shutdown();
                    // Ends with its last request, whose time the drain limits; a client that never reads is cut.
                    let _ = timeout(Duration::from_secs(600), connection).await;
                    return;
                }
            }
        }
    }
}

fn observe(router: &Router) -> ThreadObservation {
    let mut seen = ThreadObservation { connections: router.connections.get(), ..Default::default() };
    for cell in router.revisions.borrow().values() {
        let mut revision = RevisionObservation {
            in_flight: cell.in_flight.get(),
            draining: cell.draining.get() && (cell.in_flight.get() > 0),
            ..Default::default()
        };
        for target in router.targets.borrow().values().filter(|target| Rc::ptr_eq(&target.revision, cell)) {
            revision.websockets += target.tunnels.borrow().len() as u64;
            revision.pooled += (target.idle.borrow().len() + target.shared.borrow().len()) as u64;
            revision.connections += target.open.borrow().len() as u64;
        }
        seen.revisions.push((cell.service.clone(), cell.revision.clone(), revision));
    }
    for (key, cell) in router.arms.borrow().iter() {
        let counts = cell.counts.borrow().clone();
        if counts == Counts::default() {
            continue;
        }
        let arm = ArmObservation {
            revision: key.revision.to_string(),
            release: key.release.as_ref().map(ToString::to_string),
            arm: key.arm,
            counts,
        };
        seen.arms.push((key.service.clone(), arm));
    }
    seen.unrouted = router.unrouted.borrow().iter().map(|(reason, count)| (*reason, *count)).collect();
    seen
}
