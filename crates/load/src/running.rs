//! A test on a thread of its own: looked at, awaited, stopped.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::course::{Board, Course, lock};
use crate::report::Report;
use crate::spec::{Pace, Side, Spec, SpecError, Target};
use crate::{clients, rate};

/// A test that runs; a future of its report. Dropped, it stops at once: what is open is cut.
///
/// It has a thread and a runtime of its own, so that neither it nor whoever waits for it slows the other down.
#[derive(Debug)]
pub struct Running {
    spec: Arc<Spec>,
    board: Arc<Mutex<Board>>,
    begun: Instant,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<std::io::Result<Duration>>,
}

/// How far a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How long it has run, in milliseconds.
    pub passed_ms: u64,
    /// For how long it sends requests.
    pub span_ms: u64,
    /// Answers of the candidate, and requests given up, so far.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// The median latency so far, in microseconds.
    pub p50_us: u64,
    /// The 99th percentile so far.
    pub p99_us: u64,
    /// Requests that are open now, to both sides.
    pub open: u64,
}

/// Starts a test.
///
/// # Errors
/// When it makes no sense, or names a target that it was not told it may ask; nothing was sent then.
pub fn start(spec: Spec, targets: &[Target]) -> Result<Running, SpecError> {
    spec.check(targets)?;
    let spec = Arc::new(spec);
    let board = Arc::new(Mutex::new(Board::new(&spec)));
    let (stop, stopped) = oneshot::channel::<()>();
    let (end, ended) = oneshot::channel();
    let (course, targets) = ((spec.clone(), board.clone()), targets.to_vec());
    let thread = std::thread::Builder::new().name("load".into()).spawn(move || {
        let _ = end.send(work(course.0, &targets, course.1, stopped));
    });
    thread.map_err(|error| SpecError::Senseless { what: format!("start a thread for the load: {error}") })?;
    Ok(Running { spec, board, begun: Instant::now(), _stop: stop, ended })
}

/// Runs the test on this thread, until it is over or stopped. Returns how long it took.
fn work(
    spec: Arc<Spec>,
    targets: &[Target],
    board: Arc<Mutex<Board>>,
    stopped: oneshot::Receiver<()>,
) -> std::io::Result<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        let course = Course::new(spec, targets, board);
        let test = async {
            match course.spec.pace {
                Pace::Rate { per_1000_s, open } => rate::run(&course, per_1000_s, open).await?,
                Pace::Clients { count, pause } => clients::run(&course, count, pause).await,
            }
            Ok(course.now())
        };
        tokio::select! {
            biased;
            _ = stopped => Ok(course.now()),
            took = test => took,
        }
    }))
}

impl Running {
    /// Returns how far it is.
    pub fn progress(&self) -> Progress {
        let board = lock(&self.board);
        let mut whole = crate::tally::Tally::new(self.spec.timeout);
        let candidate = board.sides.iter().find(|(side, _)| *side == Side::Candidate);
        candidate.into_iter().flat_map(|(_, tallies)| tallies).for_each(|tally| whole.merge(tally));
        let open = board.open;
        drop(board);
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let (p50_us, p99_us) = whole.middle_and_tail_us();
        Progress {
            passed_ms: ms(self.begun.elapsed()),
            span_ms: ms(self.spec.span),
            requests: whole.requests,
            failed: whole.failures.all(),
            p50_us,
            p99_us,
            open,
        }
    }
}

impl Future for Running {
    type Output = std::io::Result<Report>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.ended).poll(context).map(|ended| {
            let took = ended.map_err(|_| std::io::Error::other("the load test's thread panicked"))??;
            Ok(lock(&self.board).report(&self.spec, took))
        })
    }
}
