//! The users of many services, in an open loop each: requests are due at random times, whatever became of those before.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};

use crate::benches::wire::open_loop::{Clock, connect, read_answer};

/// Most requests of a service at once; who is due while all are taken waits.
const CONNECTIONS: usize = 8;

/// What the users of one service do, and what they saw.
pub(super) struct Users {
    pub(super) host: String,
    /// Requests per second.
    pub(super) rate: f64,
    /// When a request was sent and when its answer was there, while somebody wants to know.
    seen: Mutex<Option<HashMap<u64, [Instant; 2]>>>,
    pub(super) sent: AtomicU64,
}

impl Users {
    pub(super) fn new(host: String, rate: f64) -> Arc<Users> {
        Arc::new(Users { host, rate, seen: Mutex::default(), sent: AtomicU64::new(0) })
    }

    /// Keeps what is seen from now on.
    pub(super) fn begin(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashMap::new());
    }

    /// Returns what was seen, and keeps no more.
    pub(super) fn end(&self) -> HashMap<u64, [Instant; 2]> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    fn saw(&self, number: u64, times: [Instant; 2]) {
        if let Some(seen) = &mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
            seen.insert(number, times);
        }
    }
}

/// The users of all services, on a thread of their own.
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Crowd {
    pub(super) fn start(proxy: SocketAddr, all: Vec<Arc<Users>>) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, async {
                let mut services = JoinSet::new();
                for (seed, users) in all.into_iter().enumerate() {
                    services.spawn_local(ask(proxy, users, seed as u64, stopped.clone()));
                }
                while let Some(service) = services.join_next().await {
                    service??;
                }
                Ok(())
            })
        });
        Crowd { stop, thread }
    }

    /// Tells whether they gave up; `stop` says why.
    pub(super) fn gave_up(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends them. An answer that no service gave, or none, is an error.
    pub(super) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the clients panicked"))?
    }
}

/// Requests that are due and not yet sent; nobody may hold back who is due.
#[derive(Default)]
struct Due {
    numbers: RefCell<VecDeque<u64>>,
    over: Cell<bool>,
    changed: Notify,
}

async fn ask(proxy: SocketAddr, users: Arc<Users>, seed: u64, stop: Arc<AtomicBool>) -> Result<()> {
    let (due, clock) = (Rc::new(Due::default()), Clock::new()?);
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn_local(client(proxy, users.clone(), due.clone()));
    }
    let (mut at, mut rng, mut number) = (Instant::now(), fastrand::Rng::with_seed(seed), 0);
    while !stop.load(Ordering::Relaxed) && clients.len() == CONNECTIONS {
        at += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / users.rate);
        clock.until(at).await?;
        due.numbers.borrow_mut().push_back(number);
        due.changed.notify_one();
        number += 1;
        if let Some(ended) = clients.try_join_next() {
            ended??;
        }
    }
    due.over.set(true);
    due.changed.notify_waiters();
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

async fn client(proxy: SocketAddr, users: Arc<Users>, due: Rc<Due>) -> Result<()> {
    let (mut stream, mut bytes) = (connect(proxy).await?, Vec::with_capacity(4096));
    loop {
        let next = due.numbers.borrow_mut().pop_front();
        match next {
            Some(number) => one(&mut stream, &mut bytes, &users, number).await?,
            None if due.over.get() => return Ok(()),
            None => due.changed.notified().await,
        }
    }
}

async fn one(stream: &mut TcpStream, bytes: &mut Vec<u8>, users: &Users, number: u64) -> Result<()> {
    let sent = Instant::now();
    let request = format!("GET /{number} HTTP/1.1\r\nhost: {}\r\n\r\n", users.host);
    stream.write_all(request.as_bytes()).await.context("a connection was cut")?;
    let head = read_answer(stream, bytes).await?;
    // Whatever else comes is the proxy's own.
    let known = head.starts_with("http/1.1 200") || head.starts_with("http/1.1 500");
    ensure!(known, "{} was answered by no revision: {head}", users.host);
    users.saw(number, [sent, Instant::now()]);
    users.sent.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
