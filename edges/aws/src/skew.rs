//! By how much CloudWatch's clock is ahead of this machine's: each answer says when it was given.
//!
//! Which periods are final is a question of CloudWatch's time. A machine whose clock is minutes ahead would otherwise count
//! periods that are still growing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_sdk_cloudwatch::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_cloudwatch::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_cloudwatch::error::BoxError;
use aws_sdk_cloudwatch::primitives::{DateTime, DateTimeFormat};
use cutover_sources::Wall;

/// A date has whole seconds, and an answer takes a while: less is no wrong clock.
const NOTHING_MS: i64 = 3_000;

/// CloudWatch's time, as far as it is known.
#[derive(Clone)]
pub(crate) struct Skew {
    ahead_ms: Arc<AtomicI64>,
    wall: Wall,
}

impl std::fmt::Debug for Skew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Skew").field("ahead_ms", &self.ahead_ms()).finish_non_exhaustive()
    }
}

impl Skew {
    pub(crate) fn new(wall: Wall) -> Skew {
        Skew { ahead_ms: Arc::default(), wall }
    }

    /// By how much its clock is ahead; negative behind.
    pub(crate) fn ahead_ms(&self) -> i64 {
        self.ahead_ms.load(Ordering::Relaxed)
    }

    /// What time it is there.
    pub(crate) fn now_ms(&self) -> u64 {
        self.there((self.wall)())
    }

    /// What time it was there at a moment of this machine.
    pub(crate) fn there(&self, here_ms: u64) -> u64 {
        here_ms.saturating_add_signed(self.ahead_ms())
    }

    fn note(&self, date: &str) {
        let Ok(date) = DateTime::from_str(date, DateTimeFormat::HttpDate) else { return };
        let here = i64::try_from((self.wall)()).unwrap_or(i64::MAX);
        let ahead = date.secs().saturating_mul(1_000).saturating_sub(here);
        let ahead = if ahead.abs() < NOTHING_MS { 0 } else { ahead };
        self.ahead_ms.store(ahead, Ordering::Relaxed);
    }
}

impl Intercept for Skew {
    fn name(&self) -> &'static str {
        "Skew"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date") {
            self.note(date);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_an_answer_tells_a_wrong_clock_from_a_slow_answer() {
        let skew = Skew::new(Arc::new(|| 1_700_000_000_000));
        skew.note("Tue, 14 Nov 2023 22:13:19 GMT");
        assert_eq!((skew.ahead_ms(), skew.now_ms()), (0, 1_700_000_000_000));
        skew.note("Tue, 14 Nov 2023 22:18:20 GMT");
        assert_eq!((skew.ahead_ms(), skew.now_ms()), (300_000, 1_700_000_300_000));
        skew.note("yesterday");
        assert_eq!(skew.ahead_ms(), 300_000);
        skew.note("Tue, 14 Nov 2023 22:08:20 GMT");
        assert_eq!(skew.there(1_000_000), 700_000);
    }
}
