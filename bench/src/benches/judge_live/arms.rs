//! The two revisions of each service, on a thread of their own: they fail as they are told, and know what they were asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::benches::wire::end_of_head;

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfine\n";
const FAILS: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\n\r\nfails\n";
const WHOLE: u32 = 10_000;

/// A request that an arm had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Had {
    /// What its client calls it.
    pub(super) number: u64,
    pub(super) arrived: Instant,
    /// Taken before the answer is written: nobody can know it earlier.
    pub(super) answered: Instant,
    pub(super) failed: bool,
}

/// A revision of one service.
pub(super) struct ArmServer {
    pub(super) address: SocketAddr,
    /// Answers that fail, in basis points.
    failing_bp: AtomicU32,
    /// Whether it keeps what it had.
    keeps: AtomicBool,
    had: Mutex<Vec<Had>>,
}

impl ArmServer {
    pub(super) fn fail(&self, basis_points: u32) {
        self.failing_bp.store(basis_points, Ordering::Relaxed);
    }

    /// Forgets what it had, and keeps what comes.
    pub(super) fn begin(&self) {
        self.had().clear();
        self.keeps.store(true, Ordering::Relaxed);
    }

    /// Returns what it had since it began, in the order of the answers.
    pub(super) fn had_so_far(&self) -> Vec<Had> {
        let mut had = self.had().clone();
        had.sort_by_key(|one| one.answered);
        had
    }

    fn had(&self) -> MutexGuard<'_, Vec<Had>> {
        self.had.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Servers at work; dropped, they end.
pub(super) struct ArmServers {
    pub(super) all: Vec<Arc<ArmServer>>,
    stop: Arc<Notify>,
}

impl ArmServers {
    /// Starts so many.
    pub(super) fn start(count: usize) -> Result<ArmServers> {
        let (mut all, mut listeners) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            all.push(Arc::new(ArmServer {
                address: listener.local_addr()?,
                failing_bp: AtomicU32::new(0),
                keeps: AtomicBool::new(false),
                had: Mutex::default(),
            }));
            listeners.push(listener);
        }
        let stop = Arc::new(Notify::new());
        let (stopped, arms) = (stop.clone(), all.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                for (listener, arm) in listeners.into_iter().zip(arms) {
                    tokio::spawn(accept(listener, arm));
                }
                stopped.notified().await;
            });
        });
        Ok(ArmServers { all, stop })
    }
}

impl Drop for ArmServers {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

async fn accept(listener: std::net::TcpListener, arm: Arc<ArmServer>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream, arm.clone()));
    }
}

async fn serve(mut stream: TcpStream, arm: Arc<ArmServer>) -> Result<()> {
    let mut bytes = Vec::with_capacity(4096);
    while stream.read_buf(&mut bytes).await? > 0 {
        while let Some(end) = end_of_head(&bytes) {
            let arrived = Instant::now();
            let number = number(&bytes[..end]).context("a request without a number")?;
            bytes.drain(..end);
            let failed = fastrand::u32(0..WHOLE) < arm.failing_bp.load(Ordering::Relaxed);
            if arm.keeps.load(Ordering::Relaxed) {
                arm.had().push(Had { number, arrived, answered: Instant::now(), failed });
            }
            stream.write_all(if failed { FAILS } else { FINE }).await?;
        }
    }
    Ok(())
}

/// Reads `GET /NUMBER …`.
fn number(head: &[u8]) -> Option<u64> {
    std::str::from_utf8(head).ok()?.split(' ').nth(1)?.strip_prefix('/')?.parse().ok()
}
