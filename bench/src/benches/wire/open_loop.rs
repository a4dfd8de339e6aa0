//! Clients in an open loop: requests are due at times that were drawn beforehand, whatever became of those before. Latency
//! counts from the time that a request was due, so that a stall is seen by all who would have asked during it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::end_of_head;

const REQUEST: &[u8] = b"GET /some/path?query=1 HTTP/1.1\r\nhost: bench.test\r\naccept: */*\r\n\r\n";
/// How long the answers may take after the last request was due.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(in crate::benches) struct Offer {
    /// Requests per second, at times drawn from a Poisson process; the same times in each run.
    pub(in crate::benches) rate: f64,
    pub(in crate::benches) span: Duration,
    /// Most requests at once; who is due while all are taken waits, and that counts.
    pub(in crate::benches) connections: usize,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(in crate::benches) struct Answer {
    pub(in crate::benches) status: u16,
    pub(in crate::benches) retry_after: bool,
    /// From the time that it was due until its last byte.
    pub(in crate::benches) latency: Duration,
}

/// Clients at work on a thread of their own.
pub(in crate::benches) struct Offering(JoinHandle<Result<Vec<Answer>>>);

impl Offering {
    /// Starts them.
    pub(in crate::benches) fn start(address: SocketAddr, offer: Offer) -> Offering {
        Offering(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio::task::LocalSet::new().block_on(&runtime, all(address, offer))
        }))
    }

    pub(in crate::benches) fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the last answer; a request without one is an error.
    pub(in crate::benches) fn answers(self) -> Result<Vec<Answer>> {
        self.0.join().map_err(|_| anyhow!("the clients panicked"))?
    }
}

/// Requests that are due and not yet sent. Not bounded by more than the offer: nobody may hold back who is due.
#[derive(Default)]
struct Due {
    times: RefCell<VecDeque<Instant>>,
    over: Cell<bool>,
    changed: Notify,
}

impl Due {
    async fn next(&self) -> Option<Instant> {
        loop {
            if let Some(at) = self.times.borrow_mut().pop_front() {
                return Some(at);
            }
            if self.over.get() {
                return None;
            }
            self.changed.notified().await;
        }
    }
}

async fn all(address: SocketAddr, offer: Offer) -> Result<Vec<Answer>> {
    let (due, clock) = (Rc::new(Due::default()), Clock::new()?);
    let mut kept = Vec::new();
    for _ in 0..offer.connections {
        kept.push(connect(address).await?);
    }
    let mut clients = JoinSet::new();
    for stream in kept {
        clients.spawn_local(ask(address, stream, due.clone()));
    }
    let (begun, mut rng, mut after, mut offered) = (Instant::now(), fastrand::Rng::with_seed(1), 0.0, 0);
    loop {
        after -= (1.0 - rng.f64()).ln() / offer.rate;
        if after > offer.span.as_secs_f64() {
            break;
        }
        let at = begun + Duration::from_secs_f64(after);
        clock.until(at).await?;
        due.times.borrow_mut().push_back(at);
        due.changed.notify_one();
        offered += 1;
    }
    due.over.set(true);
    due.changed.notify_waiters();
    let mut answers = Vec::with_capacity(offered);
    let rest = async {
        while let Some(client) = clients.join_next().await {
            answers.extend(client??);
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, rest).await.context("the last answers do not come")??;
    ensure!(answers.len() == offered, "{} of {offered} requests were answered", answers.len());
    Ok(answers)
}

async fn ask(address: SocketAddr, stream: TcpStream, due: Rc<Due>) -> Result<Vec<Answer>> {
    let (mut answers, mut kept, mut bytes) = (Vec::new(), Some(stream), Vec::with_capacity(4096));
    while let Some(at) = due.next().await {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect(address).await?,
        };
        stream.write_all(REQUEST).await.context("a connection was cut")?;
        let head = read_answer(&mut stream, &mut bytes).await?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        let retry_after = head.contains("\r\nretry-after:");
        answers.push(Answer { status, retry_after, latency: at.elapsed() });
        if !head.contains("\r\nconnection: close") {
            kept = Some(stream);
        }
    }
    Ok(answers)
}

pub(in crate::benches) async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.context("a connection was refused")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads a whole answer; returns its head in small letters.
pub(in crate::benches) async fn read_answer(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<String> {
    bytes.clear();
    loop {
        ensure!(stream.read_buf(bytes).await.context("an answer was cut")? > 0, "an answer ended early");
        let Some(end) = end_of_head(bytes) else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|length| length.parse().ok()).context("no content-length")?;
        while bytes.len() < end + length {
            ensure!(stream.read_buf(bytes).await.context("an answer was cut")? > 0, "an answer ended early");
        }
        ensure!(bytes.len() == end + length, "an answer is too long");
        return Ok(head);
    }
}

/// Wakes at a time, where the runtime's own timers wake at the next millisecond.
pub(in crate::benches) struct Clock(AsyncFd<OwnedFd>);

impl Clock {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for what may close its descriptor; this one is owned"
    )]
    pub(in crate::benches) fn new() -> Result<Clock> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Clock(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    pub(in crate::benches) async fn until(&self, at: Instant) -> Result<()> {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(left.as_secs())?,
                tv_nsec: i64::from(left.subsec_nanos()),
            },
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            match rustix::io::read(&self.0, &mut [0_u8; 8]) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
