//! Limits of a request body under way: how long it may be, and how slowly it may come.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use serde::{Deserialize, Serialize};
use tokio::time::Sleep;

/// The least that a client must send, or take, while the proxy waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Bytes.
    pub bytes: u64,
    /// Within this time of waiting for it; the time that the target takes does not count.
    pub within_ms: u64,
}

/// Watches one body.
#[derive(Debug)]
pub(crate) struct Watched {
    left: Option<u64>,
    pace: Option<(Pace, Slowness)>,
}

/// How slowly a body has come of late.
#[derive(Debug, Default)]
pub(crate) struct Slowness {
    bytes: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    /// Watches for what is limited; None: nothing is.
    pub(crate) fn new(most: Option<u64>, pace: Option<Pace>) -> Option<Box<Self>> {
        let watched = Self { left: most, pace: pace.map(|pace| (pace, Slowness::default())) };
        (most.is_some() || pace.is_some()).then(|| Box::new(watched))
    }

    /// Looks at what a poll of the body came to; returns why the body ends here, if it does.
    pub(crate) fn look<E>(
        &mut self,
        polled: &Poll<Option<Result<Frame<Bytes>, E>>>,
        cx: &mut Context<'_>,
    ) -> Option<&'static str> {
        let came = match polled {
            Poll::Pending => None,
            Poll::Ready(Some(Ok(frame))) => Some(frame.data_ref().map_or(0, |data| data.len() as u64)),
            Poll::Ready(_) => return None,
        };
        if let (Some(left), Some(came)) = (&mut self.left, came) {
            match left.checked_sub(came) {
                Some(rest) => *left = rest,
                None => return Some("body-too-large"),
            }
        }
        let (pace, slowness) = self.pace.as_mut()?;
        slowness.is_too_slow(*pace, came, Instant::now(), cx).then_some("client-stalled")
    }
}

impl Slowness {
    /// Tells whether too little came, or was taken, while it was waited for; None: there is nothing just now.
    pub(crate) fn is_too_slow(
        &mut self,
        pace: Pace,
        came: Option<u64>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> bool {
        let within = Duration::from_millis(pace.within_ms);
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.saturating_duration_since(since);
        }
        self.bytes += came.unwrap_or(0);
        if self.waited >= within {
            if self.bytes < pace.bytes {
                return true;
            }
            (self.bytes, self.waited) = (0, Duration::ZERO);
        }
        if came.is_none() {
            self.waiting_since = Some(now);
            let end = tokio::time::Instant::from_std(now + (within - self.waited));
            match &mut self.alarm {
                Some(alarm) => alarm.as_mut().reset(end),
                None => self.alarm = Some(Box::pin(tokio::time::sleep_until(end))),
            }
            // Wakes us to look again, at which time the wait is over.
            if let Some(alarm) = &mut self.alarm
                && alarm.as_mut().poll(cx).is_ready()
            {
                cx.waker().wake_by_ref();
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(bytes: usize) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; bytes])))))
    }

    #[test]
    fn a_body_may_have_so_many_bytes_and_not_one_more() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut watched = Watched::new(Some(10), None).unwrap();
        assert_eq!(watched.look(&came(4), &mut cx), None);
        assert_eq!(watched.look(&came(6), &mut cx), None);
        assert_eq!(watched.look(&came(1), &mut cx), Some("body-too-large"));
        assert!(Watched::new(None, None).is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_the_wait_for_the_client_counts() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let pace = Pace { bytes: 100, within_ms: 1_000 };
        let mut slowness = Slowness { bytes: 0, waited: Duration::ZERO, waiting_since: None, alarm: None };
        let begun = Instant::now();
        let mut too_slow =
            |came, ms| slowness.is_too_slow(pace, came, begun + Duration::from_millis(ms), &mut cx);
        assert!(!too_slow(None, 0));
        assert!(!too_slow(Some(60), 600));
        // The target takes an hour to read that.
        assert!(!too_slow(None, 3_600_000));
        assert!(!too_slow(Some(40), 3_600_400), "enough within the second");
        assert!(!too_slow(None, 3_600_500));
        assert!(!too_slow(Some(99), 3_601_400));
        assert!(!too_slow(None, 3_601_400));
        assert!(too_slow(None, 3_601_600));
    }
}
