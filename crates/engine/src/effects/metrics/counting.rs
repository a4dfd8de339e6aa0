//! Counters of both arms: looked at again and again, and told to the judge in blocks.

use std::time::Duration;

use cutover_core::Weight;
use cutover_core::file::{Counters, OnOutage};
use cutover_judge::{History, Judge, Question, Settings, State, Verdict};
use cutover_sources::{AskError, AskErrorKind, Feed, Look, Source};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::memory::{Kept, Memory};
use super::{Stand, Told, probe, unmeasured};

/// What the end of a bake asks for: that the candidate does not fail by 5 percentage points more often.
const MARGIN_PPB: u64 = 50_000_000;
const NAME: &str = "counters";

/// What was counted in a release, as it is kept: judge and last look belong together, or a block would count twice.
#[derive(Serialize, Deserialize)]
struct Memo {
    judge: State,
    feed: Feed,
    began_before_ms: u64,
}

pub(super) struct Counting {
    counters: Counters,
    source: Result<Box<dyn Source>, AskError>,
    feed: Feed,
    judge: Judge,
    begin: Instant,
    next: Instant,
    /// Why the last look was none, and how many in a row.
    trouble: Option<AskError>,
    errors_in_a_row: u32,
    outage_told: bool,
    /// How old the last answer was.
    age: String,
}

impl Counting {
    /// Goes on with the judge of the bake before, at another weight, or with the one that another driver kept.
    pub(super) fn next(
        before: Option<Counting>,
        counters: &Counters,
        source: impl FnOnce() -> Result<Box<dyn Source>, AskError>,
        weight: Weight,
        kept: &Kept,
    ) -> Counting {
        let mut counting = before.unwrap_or_else(|| {
            let (judge, feed, began_before) = resumed(kept).unwrap_or_else(begun);
            let now = Instant::now();
            Counting {
                counters: counters.clone(),
                source: source(),
                feed,
                judge,
                begin: now.checked_sub(began_before).unwrap_or(now),
                next: now,
                trouble: None,
                errors_in_a_row: 0,
                outage_told: false,
                age: String::new(),
            }
        });
        counting.judge.set_share(weight.bp());
        counting
    }

    async fn look(&mut self, memory: &Memory<'_>) {
        self.count().await;
        let began_before_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let memo = Memo { judge: self.judge.state().clone(), feed: self.feed.clone(), began_before_ms };
        memory.keep(NAME, &memo).await;
    }

    async fn count(&mut self) {
        let answer = match &self.source {
            Ok(source) => probe::ask(&**source, self.counters.timeout.duration()).await,
            Err(error) => Err(error.clone()),
        };
        let interval = self.counters.interval.duration();
        self.next = Instant::now() + interval;
        match answer {
            Ok(reading) => {
                self.age = reading.age();
                self.trouble = match self.feed.look(&reading) {
                    Look::Block(block) => {
                        self.judge.block(block);
                        if self.judge.due() {
                            self.judge.next_epoch();
                        }
                        None
                    }
                    Look::First | Look::Same => None,
                    Look::ClockBack { by_ms } => {
                        let back = cutover_core::Span::from_ms(by_ms);
                        Some(AskError::no_data(format!("the store's clock went back by {back}")))
                    }
                    Look::Nothing => Some(AskError::wrong("the answer holds no counters", "")),
                };
                self.errors_in_a_row = 0;
                self.outage_told = false;
            }
            Err(error) => {
                if error.kind == AskErrorKind::NoData {
                    self.errors_in_a_row = 0;
                    self.outage_told = false;
                } else {
                    self.errors_in_a_row += 1;
                    self.next = Instant::now() + interval.min(Duration::from_secs(10));
                }
                self.trouble = Some(error);
            }
        }
    }

    fn outage(&self) -> Option<&AskError> {
        self.trouble.as_ref().filter(|error| error.kind != AskErrorKind::NoData)
    }

    /// Looks whenever it is due, until there is something to tell.
    ///
    /// # Cancel safety
    /// A look that is dropped was none; what was counted meanwhile is in the next one.
    pub(super) async fn told(&mut self, memory: &Memory<'_>) -> Told {
        loop {
            if let Some(failure) = self.judge.failure() {
                return Told::Failed(self.said(&failure.to_string()));
            }
            let limit = self.counters.consecutive_error_limit;
            if self.errors_in_a_row > limit && !self.outage_told {
                self.outage_told = true;
                if let Some(error) = self.outage() {
                    let why = format!("{error} ({} times in a row)", self.errors_in_a_row);
                    return Told::Outage(unmeasured(NAME, error.kind, &why, &error.hint));
                }
            }
            sleep_until(self.next).await;
            self.look(memory).await;
        }
    }

    /// Looks once more: what was counted since the last look may decide.
    pub(super) async fn close(&mut self, memory: &Memory<'_>) {
        if self.judge.failure().is_none() {
            self.look(memory).await;
        }
    }

    pub(super) fn stand(&self) -> Stand {
        let verdict = self.judge.verdict(&self.question());
        if matches!(verdict, Verdict::Fail(_)) {
            return Stand::Failed(self.said(&verdict.to_string()));
        }
        if let Some(error) = self.outage() {
            return Stand::Outage {
                fault: unmeasured(NAME, error.kind, &error.what, &error.hint),
                hold: self.counters.on_outage == OnOutage::Hold,
            };
        }
        let trouble = self.trouble.as_ref().map(|error| format!("; {error}")).unwrap_or_default();
        let said = self.said(&format!("{verdict}{trouble}"));
        match verdict {
            Verdict::Pass(_) if trouble.is_empty() => Stand::Passed(said),
            _ => Stand::Inconclusive(said),
        }
    }

    fn question(&self) -> Question {
        let ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let requests = self.judge.seen().candidate.requests;
        let candidate_per_hour = requests.saturating_mul(3_600_000).checked_div(ms).unwrap_or(0);
        Question { margin_ppb: MARGIN_PPB, latency: false, step_ms: ms, floor_ms: 0, candidate_per_hour }
    }

    fn said(&self, verdict: &str) -> String {
        let mut text = format!("{NAME}: {verdict}");
        if !self.age.is_empty() {
            text += &format!(" ({})", self.age);
        }
        if self.feed.resets() > 0 {
            text += &format!(", {} counters began again", self.feed.resets());
        }
        text
    }
}

fn begun() -> (Judge, Feed, Duration) {
    let judge = Judge::new(Settings::new(vec![MARGIN_PPB]), History::default())
        .expect("the settings are usual ones: checked in the judge's own tests");
    (judge, Feed::default(), Duration::ZERO)
}

fn resumed(kept: &Kept) -> Option<(Judge, Feed, Duration)> {
    let Memo { judge, feed, began_before_ms } = kept.of(NAME)?;
    let judge = Judge::resume(judge)
        .inspect_err(|why| tracing::warn!(why, "what was counted before cannot be gone on with"))
        .ok()?;
    Some((judge, feed, Duration::from_millis(began_before_ms)))
}
