//! One metric of a bake: what is asked, and what came of it.

use std::time::Duration;

use cutover_core::StepKey;
use cutover_core::file::{Metric, OnOutage};
use cutover_sources::{Analysis, AskError, AskErrorKind, Measured, Reading, Rules, Source, Standing};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};

use super::memory::{Kept, Memory};
use super::{Close, Stand, Told, unmeasured};

pub(super) struct Probe {
    metric: Metric,
    /// Without one nothing can be asked, and the error is the answer.
    source: Result<Box<dyn Source>, AskError>,
    analysis: Analysis,
    begin: Instant,
    /// Of the last answer that was none.
    kind: AskErrorKind,
    hint: String,
}

/// What a probe measured in a bake, as it is kept.
#[derive(Serialize, Deserialize)]
struct Memo {
    step: StepKey,
    measured: Measured,
}

fn name_of(metric: &Metric) -> String {
    format!("metric {}", metric.name)
}

/// Asks with a deadline.
pub(super) async fn ask(source: &dyn Source, limit: Duration) -> Result<Reading, AskError> {
    timeout(limit, source.ask()).await.unwrap_or_else(|_| {
        let limit = cutover_core::Span::from_ms(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        Err(AskError::down(format!("no answer within {limit}")))
    })
}

impl Probe {
    /// Begins to measure, or goes on with what was kept of the same bake.
    pub(super) fn new(
        metric: &Metric,
        source: Result<Box<dyn Source>, AskError>,
        kept: &Kept,
        step: StepKey,
    ) -> Probe {
        let kept = kept.of::<Memo>(&name_of(metric)).filter(|memo| memo.step == step);
        let rules = Rules::of(metric);
        Probe {
            metric: metric.clone(),
            source,
            analysis: match kept {
                Some(memo) => Analysis::resume(rules, memo.measured, 0),
                None => Analysis::new(rules, 0),
            },
            begin: Instant::now(),
            kind: AskErrorKind::Down,
            hint: String::new(),
        }
    }

    fn name(&self) -> String {
        name_of(&self.metric)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn measure(&mut self, memory: &Memory<'_>) {
        let answer = match &self.source {
            Ok(source) => ask(&**source, self.metric.timeout.duration()).await,
            Err(error) => Err(error.clone()),
        };
        if let Err(error) = &answer {
            self.kind = error.kind;
            self.hint.clone_from(&error.hint);
        }
        let now = self.now_ms();
        self.analysis.record(&answer, now);
        let memo = Memo { step: memory.step, measured: self.analysis.measured().clone() };
        memory.keep(&self.name(), &memo).await;
    }

    /// Measures whenever it is due, until there is something to tell.
    ///
    /// # Cancel safety
    /// A question that is dropped was not asked; it is due again. An answer that is there counts, and is kept with the next
    /// one if it was not.
    pub(super) async fn told(&mut self, memory: &Memory<'_>) -> Told {
        loop {
            if let Standing::Failed(why) = self.analysis.standing() {
                return Told::Failed(format!("{}: {why}", self.name()));
            }
            if let Some(why) = self.analysis.outage() {
                return Told::Outage(unmeasured(&self.name(), self.kind, &why, &self.hint));
            }
            match self.analysis.next_ms() {
                Some(due) => sleep_until(self.begin + Duration::from_millis(due)).await,
                None => std::future::pending().await,
            }
            self.measure(memory).await;
        }
    }

    /// Measures once more where nothing is concluded yet, as `close` says.
    pub(super) async fn close(&mut self, memory: &Memory<'_>, close: Close) {
        let is_due = self.analysis.next_ms().is_some_and(|due| self.now_ms() >= due);
        if self.analysis.is_open() && (is_due || close == Close::WhatIsOpen) {
            self.measure(memory).await;
        }
    }

    pub(super) fn stand(&self) -> Stand {
        let name = self.name();
        match self.analysis.standing() {
            Standing::Failed(why) => Stand::Failed(format!("{name}: {why}")),
            Standing::Inconclusive(why) => Stand::Inconclusive(format!("{name}: {why}")),
            Standing::Passed(why) => Stand::Passed(format!("{name}: {why}")),
            Standing::Outage(why) => Stand::Outage {
                fault: unmeasured(&name, self.kind, &why, &self.hint),
                hold: self.metric.on_outage == OnOutage::Hold,
            },
        }
    }
}
