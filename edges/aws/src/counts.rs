//! Counters of both arms, added up from CloudWatch's periods. Each period is counted once, when it is final.
//!
//! CloudWatch has sums of periods and no counters that only grow, so they are made here. What comes late, after its period
//! was counted, is never added: the requests and their failures are two metrics, and half of a late period would be a lie.
//! It is seen, though, and said, and from then on periods are let settle longer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_sdk_cloudwatch::types::MetricDataQuery;
use cutover_core::file::{CloudWatchCounters, CloudWatchPreset, CloudWatchSeries};
use cutover_judge::Scraped;
use cutover_sources::{AskError, Found, Names, Reading, Source, lag};

use crate::data::Data;
use crate::periods::Periods;
use crate::queries::{self, FAILED, REQUESTS};
use crate::store::{Budgets, Store};

/// So many counted periods are looked at again, to see what came late.
const AGAIN: u64 = 5;

/// Periods are let settle at most so much longer than the file says.
const LONGER_MS: u64 = 300_000;

/// Counters that are read in periods.
pub(crate) struct Counts {
    store: Store,
    budgets: Arc<Budgets>,
    /// Of each arm, stable's first: the ids of its requests, and of what of them failed.
    arms: [Ids; 2],
    queries: Vec<MetricDataQuery>,
    since_ms: u64,
    max_age_ms: u64,
    tally: Mutex<Tally>,
}

struct Ids {
    requests: String,
    failed: Vec<String>,
}

/// What was counted so far.
#[derive(Clone, Debug)]
struct Tally {
    periods: Periods,
    /// The first settling that the file asked for.
    settle_ms: u64,
    /// Where the first period begins that is not counted yet; none before the first look.
    next_ms: Option<u64>,
    /// Where the first period began that was counted.
    base_ms: Option<u64>,
    sums: [Scraped; 2],
    /// What the newest counted periods had when they were counted.
    recent: BTreeMap<u64, [Scraped; 2]>,
    /// Where the newest period with a request ends.
    newest_ms: Option<u64>,
    late: u64,
}

/// What one period had.
type Period = [Scraped; 2];

impl Counts {
    pub(crate) fn new(
        asked: &CloudWatchCounters,
        names: &Names,
        since_ms: u64,
        store: Store,
        budgets: Arc<Budgets>,
    ) -> Option<Counts> {
        let periods = Periods { length_ms: asked.period.ms(), settle_ms: asked.settle.ms() };
        let mut queries = Vec::new();
        let mut ask = |id: String, series: &CloudWatchSeries| {
            let stat = series.stat.as_deref().unwrap_or("Sum");
            queries.push(queries::metric(&id, series, stat, periods.length_ms, names));
            id
        };
        let arms = match (&asked.queries, asked.preset) {
            (Some(own), _) => [
                ("stable", &own.stable_requests, &own.stable_errors),
                ("candidate", &own.candidate_requests, &own.candidate_errors),
            ]
            .map(|(arm, requests, errors)| Ids {
                requests: ask(format!("{arm}_requests"), requests),
                failed: vec![ask(format!("{arm}_errors"), errors)],
            }),
            (None, Some(CloudWatchPreset::Alb)) => {
                let balancer = asked.load_balancer.as_deref()?;
                let groups =
                    [("stable", asked.stable.as_deref()?), ("candidate", asked.candidate.as_deref()?)];
                groups.map(|(arm, group)| {
                    let mut of = |name: &str| {
                        let series = queries::of_target_group(name, balancer, group);
                        ask(format!("{arm}_{}", name.to_ascii_lowercase()), &series)
                    };
                    Ids { requests: of(REQUESTS), failed: FAILED.iter().map(|name| of(name)).collect() }
                })
            }
            (None, None) => return None,
        };
        let tally = Mutex::new(Tally::new(periods));
        let max_age_ms = asked.max_age.ms();
        Some(Counts { store, budgets, arms, queries, since_ms, max_age_ms, tally })
    }

    async fn ask_at(&self, now_ms: u64) -> Result<Reading, AskError> {
        let tally = self.tally().clone();
        let periods = tally.periods;
        let next = tally.next_ms.unwrap_or_else(|| periods.first_after(self.store.skew.there(self.since_ms)));
        let end = periods.last_final(now_ms).max(next);
        let from = periods.back(next.min(periods.last_final(now_ms)), AGAIN);
        let data = Data::ask(&self.store, &self.budgets, &self.queries, from, end).await?;
        let seen = self.seen(&data, from, end, periods)?;
        let mut tally = self.tally();
        tally.take(next, end, &seen);
        let ahead_ms = Some(self.store.skew.ahead_ms());
        // Sums from another beginning are other counters: nothing is concluded of how they differ.
        let base = tally.base_ms.unwrap_or(next);
        let counters = tally.sums.map(|sum| BTreeMap::from([(format!("since {base}"), sum)]));
        let lag_ms = match tally.newest_ms {
            Some(newest) => Some(lag(newest, now_ms, self.max_age_ms)?),
            // Nothing is final yet, or nobody asked for anything yet.
            None => None,
        };
        Ok(Reading { found: Found::Counters(counters), sampled_at_ms: Some(end), lag_ms, ahead_ms })
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(
        &self,
        data: &Data,
        from: u64,
        end: u64,
        periods: Periods,
    ) -> Result<BTreeMap<u64, Period>, AskError> {
        let mut seen: BTreeMap<u64, Period> = BTreeMap::new();
        for (arm, ids) in self.arms.iter().enumerate() {
            for (at, requests) in data.points(&ids.requests)? {
                seen.entry(at).or_default()[arm].requests = requests.max(0.0).round() as u64;
            }
            for id in &ids.failed {
                for (at, errors) in data.points(id)? {
                    let of = &mut seen.entry(at).or_default()[arm].errors;
                    *of = of.saturating_add(errors.max(0.0).round() as u64);
                }
            }
        }
        for period in seen.values_mut().flatten() {
            // One request may fail to connect more than once.
            period.errors = period.errors.min(period.requests);
        }
        let whole = |at: &u64| (from..end).contains(at) && at.is_multiple_of(periods.length_ms);
        seen.retain(|at, _| whole(at));
        Ok(seen)
    }
}

impl Tally {
    fn new(periods: Periods) -> Tally {
        Tally {
            periods,
            settle_ms: periods.settle_ms,
            next_ms: None,
            base_ms: None,
            sums: [Scraped::default(); 2],
            recent: BTreeMap::new(),
            newest_ms: None,
            late: 0,
        }
    }

    /// Counts the periods from `next` to `end`, and looks what came late in those before.
    fn take(&mut self, next: u64, end: u64, seen: &BTreeMap<u64, Period>) {
        let nothing = Period::default();
        let mut late = 0;
        for (at, counted) in &mut self.recent {
            let now = seen.get(at).unwrap_or(&nothing);
            let more = |arm: usize| {
                let Scraped { requests, errors } = counted[arm];
                // Also a failure alone that came late is one that was not counted.
                now[arm].requests.saturating_sub(requests).max(now[arm].errors.saturating_sub(errors))
            };
            let more = more(0) + more(1);
            if more > 0 {
                late += more;
                *counted = *now;
            }
        }
        if late > 0 {
            self.late += late;
            let longest = self.settle_ms.saturating_add(LONGER_MS);
            self.periods.settle_ms = (self.periods.settle_ms + self.periods.length_ms).min(longest);
            tracing::warn!(
                requests = late,
                settle_ms = self.periods.settle_ms,
                "CloudWatch had more requests of a period after it was counted; periods now settle longer"
            );
        }
        let mut at = next;
        while at < end {
            let period = seen.get(&at).copied().unwrap_or_default();
            for (sum, arm) in self.sums.iter_mut().zip(period) {
                sum.requests = sum.requests.saturating_add(arm.requests);
                sum.errors = sum.errors.saturating_add(arm.errors);
            }
            if period.iter().any(|arm| arm.requests > 0) {
                self.newest_ms = Some(at + self.periods.length_ms);
            }
            self.recent.insert(at, period);
            at += self.periods.length_ms;
        }
        let oldest = self.periods.back(end, AGAIN);
        self.recent.retain(|at, _| *at >= oldest);
        self.base_ms.get_or_insert(next);
        self.next_ms = Some(end);
    }
}

#[async_trait]
impl Source for Counts {
    async fn ask(&self) -> Result<Reading, AskError> {
        let skew = &self.store.skew;
        if self.tally().next_ms.is_none() {
            // What time it is there decides what is counted first, and only an answer says it.
            let end = self.tally().periods.last_final(skew.now_ms());
            let from = self.tally().periods.back(end, 1);
            Data::ask(&self.store, &self.budgets, &self.queries, from, end).await?;
        }
        self.ask_at(skew.now_ms()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(stable: u64, candidate: u64, errors: u64) -> Period {
        [Scraped { requests: stable, errors: 0 }, Scraped { requests: candidate, errors }]
    }

    #[test]
    fn each_period_is_counted_once_and_late_requests_make_the_next_ones_wait() {
        let mut tally = Tally::new(Periods { length_ms: 60_000, settle_ms: 120_000 });
        tally.take(60_000, 60_000, &BTreeMap::new());
        assert_eq!((tally.next_ms, tally.sums[0].requests, tally.newest_ms), (Some(60_000), 0, None));
        let mut seen =
            BTreeMap::from([(0, period(7, 7, 7)), (60_000, period(90, 10, 1)), (180_000, period(9, 1, 0))]);
        tally.take(60_000, 240_000, &seen);
        assert_eq!(tally.sums, [Scraped { requests: 99, errors: 0 }, Scraped { requests: 11, errors: 1 }]);
        assert_eq!((tally.newest_ms, tally.late), (Some(240_000), 0));
        // The same again, and then more of a period that was counted.
        tally.take(240_000, 240_000, &seen);
        assert_eq!((tally.sums[1].requests, tally.periods.settle_ms), (11, 120_000));
        seen.insert(180_000, period(9, 5, 4));
        tally.take(240_000, 240_000, &seen);
        assert_eq!((tally.sums[1].requests, tally.late, tally.periods.settle_ms), (11, 4, 180_000));
        // It is told once.
        tally.take(240_000, 240_000, &seen);
        assert_eq!((tally.late, tally.periods.settle_ms), (4, 180_000));
        // A failure alone may come late, too.
        seen.insert(180_000, period(9, 5, 5));
        tally.take(240_000, 240_000, &seen);
        assert_eq!((tally.sums[1].errors, tally.late, tally.periods.settle_ms), (1, 5, 240_000));
    }

    #[test]
    fn settling_ends_somewhere() {
        let mut tally = Tally::new(Periods { length_ms: 60_000, settle_ms: 120_000 });
        tally.take(0, 60_000, &BTreeMap::new());
        for more in 1..20 {
            tally.take(60_000, 60_000, &BTreeMap::from([(0, period(more, 0, 0))]));
        }
        assert_eq!((tally.periods.settle_ms, tally.late), (420_000, 19));
    }
}
