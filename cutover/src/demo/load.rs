//! Steady load: some clients on kept connections, some on a new one each time, counting what fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CLIENTS: u64 = 8;
/// Each client's pause between requests: together some 200 requests a second.
const PAUSE: Duration = Duration::from_millis(40);
const LIMIT: Duration = Duration::from_secs(10);

/// What the clients saw so far.
#[derive(Default)]
pub(super) struct Seen {
    sent: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
    begun: std::sync::OnceLock<Instant>,
    last_failure_us: AtomicU64,
    first_failure_us: AtomicU64,
}

/// Steady load on an address, until it is stopped.
pub(super) struct Load {
    seen: Arc<Seen>,
    clients: JoinSet<()>,
}

/// Counters at one moment.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) failed: u64,
}

impl Load {
    /// Begins to send.
    pub(super) fn start(address: SocketAddr) -> Load {
        let seen = Arc::new(Seen::default());
        seen.begun.get_or_init(Instant::now);
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(run(address, seen.clone(), client % 2 == 0));
        }
        Load { seen, clients }
    }

    /// Returns the counters now.
    pub(super) fn tally(&self) -> Tally {
        Tally {
            sent: self.seen.sent.load(Ordering::Relaxed),
            failed: self.seen.failed.load(Ordering::Relaxed),
        }
    }

    /// Forgets when failures were seen.
    pub(super) fn forget_failures(&self) {
        self.seen.first_failure_us.store(0, Ordering::Relaxed);
        self.seen.last_failure_us.store(0, Ordering::Relaxed);
    }

    /// Returns the time from the first failed request to the last; none without failures.
    pub(super) fn failing_for(&self) -> Option<Duration> {
        let first = self.seen.first_failure_us.load(Ordering::Relaxed);
        let last = self.seen.last_failure_us.load(Ordering::Relaxed);
        (first > 0).then(|| Duration::from_micros(last.saturating_sub(first)))
    }

    /// Stops; every request under way is finished and counted.
    pub(super) async fn stop(mut self) -> Tally {
        self.seen.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        self.tally()
    }
}

async fn run(address: SocketAddr, seen: Arc<Seen>, keep: bool) {
    let mut kept: Option<SendRequest<Empty<Bytes>>> = None;
    while !seen.stop.load(Ordering::Relaxed) {
        let answer = tokio::time::timeout(LIMIT, ask(address, kept.take())).await;
        seen.sent.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(Some(sender)) => kept = keep.then_some(sender),
            _ => {
                let now = seen
                    .begun
                    .get()
                    .map_or(0, |begun| u64::try_from(begun.elapsed().as_micros()).unwrap_or(0));
                seen.failed.fetch_add(1, Ordering::Relaxed);
                let _ = seen.first_failure_us.compare_exchange(
                    0,
                    now.max(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                seen.last_failure_us.fetch_max(now, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends one request; returns the connection when it was answered well, whole.
async fn ask(
    address: SocketAddr,
    kept: Option<SendRequest<Empty<Bytes>>>,
) -> Option<SendRequest<Empty<Bytes>>> {
    let mut sender = match kept {
        Some(sender) if !sender.is_closed() => sender,
        _ => {
            let stream = TcpStream::connect(address).await.ok()?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            sender
        }
    };
    let request = hyper::Request::get("/").header("host", "shop.localhost").body(Empty::new()).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let good = response.status().is_success();
    response.into_body().collect().await.ok()?;
    good.then_some(sender)
}
