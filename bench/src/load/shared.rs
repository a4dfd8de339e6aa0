//! What all clients share: options, tickets, the tally, the end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::report::{Answer, Answered, Kind, Posts, Report, Tally, Trouble, id, ms, us};
use super::{Options, Pace};

/// A client that failed waits so long: a dead address must not be hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Shared by all clients of a load.
pub(crate) struct Shared {
    pub(crate) options: Options,
    begun: Instant,
    run: String,
    stopped: AtomicBool,
    wake: Notify,
    tickets: AtomicU64,
    sent: AtomicU64,
    tally: Mutex<Tally>,
    expected: Mutex<Expected>,
}

#[derive(Default)]
struct Expected {
    /// Raised with every change: an answer is judged only if none happened since its request began.
    epoch: u64,
    version: Option<Arc<str>>,
}

/// A request under way.
pub(crate) struct Begun {
    kind: Kind,
    at: Instant,
    epoch: u64,
    expected: Option<Arc<str>>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        let report = Report { posts: vec![Posts::default(); options.mix.post], ..Report::default() };
        Self {
            begun: Instant::now(),
            run: format!("{:016x}", fastrand::u64(..)),
            stopped: AtomicBool::new(false),
            wake: Notify::new(),
            tickets: AtomicU64::new(options.total.unwrap_or(u64::MAX)),
            sent: AtomicU64::new(0),
            tally: Mutex::new(Tally { report }),
            expected: Mutex::default(),
            options,
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake.notify_waiters();
    }

    pub(crate) fn answers(&self, version: &str) -> u64 {
        self.tally().report.versions.get(version).map_or(0, |seen| seen.answers)
    }

    pub(crate) fn now_us(&self) -> u64 {
        us(self.begun.elapsed())
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn report(&self) -> Report {
        let mut report = self.tally().report.clone();
        report.run.clone_from(&self.run);
        report.ran_ms = ms(self.begun.elapsed());
        report
    }

    pub(crate) fn expect_version(&self, version: Option<&str>) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.epoch += 1;
        expected.version = version.map(Arc::from);
    }

    /// Takes a ticket for one request; none: it is over.
    pub(crate) fn begin(&self, kind: Kind) -> Option<Begun> {
        if self.stopped.load(Ordering::SeqCst) {
            return None;
        }
        let take = |left: u64| left.checked_sub(1);
        self.tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        let (epoch, version) = (expected.epoch, expected.version.clone());
        Some(Begun { kind, at: Instant::now(), epoch, expected: version })
    }

    /// Counts the outcome of a request.
    pub(crate) async fn end(&self, begun: Begun, outcome: Result<Answer, Trouble>) {
        let failed = outcome.is_err();
        {
            let mut tally = self.tally();
            if let (Ok(answer), Some(expected)) = (&outcome, &begun.expected)
                && *answer.version != **expected
                && self.epoch() == begun.epoch
            {
                tally.stray(begun.kind, self.begun, expected, &answer.version);
            }
            if self.options.timeline
                && let Ok(answer) = &outcome
            {
                tally.report.timeline.push(Answered {
                    sent_us: us(begun.at.saturating_duration_since(self.begun)),
                    answered_us: us(self.begun.elapsed()),
                    version: answer.version.clone(),
                    intended_error: answer.intended_error,
                });
            }
            tally.count(
                begun.kind,
                begun.at,
                self.begun,
                outcome
                    .as_ref()
                    .map_err(|trouble| Trouble { text: trouble.text.clone(), stale: trouble.stale }),
            );
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.pause(AFTER_FAILURE).await;
        }
    }

    /// Counts something else.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.tally().report);
    }

    /// Returns the id of the next POST of a client.
    pub(crate) fn next_id(&self, client: usize) -> (u64, String) {
        let mut tally = self.tally();
        let posts = &mut tally.report.posts[client];
        posts.sent += 1;
        (posts.sent - 1, id(&self.run, client, posts.sent - 1))
    }

    /// Remembers that a POST failed.
    pub(crate) fn post_failed(&self, client: usize, number: u64) {
        self.tally().report.posts[client].failed.push(number);
    }

    /// Sleeps, but not beyond the end.
    pub(crate) async fn pause(&self, span: Duration) {
        let woken = self.wake.notified();
        if self.stopped.load(Ordering::SeqCst) || span.is_zero() {
            return;
        }
        let _ = tokio::time::timeout(span, woken).await;
    }

    /// Returns the time between two requests of one client; none: no pause at all.
    pub(crate) fn interval(&self) -> Option<Duration> {
        let mix = &self.options.mix;
        let clients = (mix.get_kept + mix.get_new + mix.post + mix.http2 + mix.sticky) as f64;
        match self.options.pace {
            Pace::Closed => None,
            Pace::PerSecond(rate) => Some(Duration::from_secs_f64(clients / rate.max(0.001))),
        }
    }

    fn epoch(&self) -> u64 {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).epoch
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
