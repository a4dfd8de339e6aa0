//! One number of CloudWatch: that of the newest period that is final and of this bake.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_cloudwatch::types::MetricDataQuery;
use cutover_core::file::{CloudWatchMetric, CloudWatchPreset, Measure};
use cutover_sources::{AskError, Found, Names, Reading, Source, lag};

use crate::data::{Data, Points};
use crate::periods::Periods;
use crate::queries::{self, FAILED, REQUESTS};
use crate::store::{Budgets, Store};

/// What is asked before there is anything to read, so that a question that cannot be asked is found early.
const BEFORE: u64 = 5;

/// A number of one period.
pub(crate) struct Value {
    pub(crate) store: Store,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) queries: Vec<MetricDataQuery>,
    pub(crate) reduce: Reduce,
    pub(crate) periods: Periods,
    pub(crate) since_ms: u64,
    pub(crate) max_age_ms: u64,
}

/// How a number is made of what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reduce {
    /// The answer to the query of this id is it.
    As(String),
    /// The share of requests that failed, or the rest.
    Share {
        /// Whether it is the share of those that failed.
        failed: bool,
    },
    /// Requests per second.
    Rate,
}

impl Value {
    /// Makes what the file asks for; none for alarms, which are no number.
    pub(crate) fn questions(
        asked: &CloudWatchMetric,
        names: &Names,
    ) -> Option<(Vec<MetricDataQuery>, Reduce)> {
        let period = asked.period.ms();
        if let Some(series) = &asked.metric {
            let query = queries::metric(RESULT, series, series.stat(), period, names);
            return Some((vec![query], Reduce::As(RESULT.into())));
        }
        if let Some(expression) = &asked.expression {
            // Its own name must be none of those that the file gives.
            let mut id = RESULT.to_string();
            while asked.metrics.contains_key(&id) {
                id.push('_');
            }
            let parts = asked.metrics.iter();
            let parts = parts.map(|(id, series)| queries::metric(id, series, series.stat(), period, names));
            let mut queries: Vec<_> = parts.map(queries::hidden).collect();
            queries.push(queries::expression(&id, names.plain(expression), period));
            return Some((queries, Reduce::As(id)));
        }
        let (Some(CloudWatchPreset::Alb), Some(balancer), Some(group)) =
            (asked.preset, &asked.load_balancer, &asked.candidate)
        else {
            return None;
        };
        let metric = |id: &str, name: &str, stat: &str| {
            queries::metric(id, &queries::of_target_group(name, balancer, group), stat, period, names)
        };
        let latency = |stat| (vec![metric(RESULT, "TargetResponseTime", stat)], Reduce::As(RESULT.into()));
        let share = |failed| {
            let mut all = vec![metric("requests", REQUESTS, "Sum")];
            all.extend(FAILED.iter().zip(FAILED_IDS).map(|(name, id)| metric(id, name, "Sum")));
            (all, Reduce::Share { failed })
        };
        Some(match asked.measure {
            Measure::SuccessRate => share(false),
            Measure::ErrorRate => share(true),
            Measure::RequestRate => (vec![metric("requests", REQUESTS, "Sum")], Reduce::Rate),
            Measure::LatencyP50 => latency("p50"),
            Measure::LatencyP95 => latency("p95"),
            Measure::LatencyP99 => latency("p99"),
        })
    }

    async fn ask_at(&self, now_ms: u64) -> Result<Reading, AskError> {
        let end = self.periods.last_final(now_ms);
        let begin = self.periods.first_after(self.store.skew.there(self.since_ms));
        let oldest = self.periods.back(self.periods.first_after(now_ms.saturating_sub(self.max_age_ms)), 1);
        let from = begin.max(oldest).min(self.periods.back(end, BEFORE));
        let data = Data::ask(&self.store, &self.budgets, &self.queries, from, end).await?;
        let numbers = self.reduce(&data)?;
        let Some((start, value)) = numbers.range(begin..end.max(begin)).next_back() else {
            return Err(AskError::no_data(self.nothing(&data, begin, now_ms)));
        };
        let sampled_at_ms = start + self.periods.length_ms;
        let lag_ms = lag(sampled_at_ms, now_ms, self.max_age_ms)?;
        Ok(Reading {
            found: Found::Value(*value),
            sampled_at_ms: Some(sampled_at_ms),
            lag_ms: Some(lag_ms),
            ahead_ms: Some(self.store.skew.ahead_ms()),
        })
    }

    fn reduce(&self, data: &Data) -> Result<Points, AskError> {
        Ok(match &self.reduce {
            Reduce::As(id) => data.points(id)?,
            Reduce::Rate => {
                let seconds = self.periods.length_ms as f64 / 1_000.0;
                data.points("requests")?.into_iter().map(|(at, requests)| (at, requests / seconds)).collect()
            }
            Reduce::Share { failed } => {
                let errors = FAILED_IDS.map(|id| data.points(id));
                let [answered, refused] = errors;
                let (answered, refused) = (answered?, refused?);
                let of = |points: &Points, at: u64| points.get(&at).copied().unwrap_or_default();
                let requests = data.points("requests")?.into_iter().filter(|(_, requests)| *requests > 0.0);
                let share = |(at, requests): (u64, f64)| {
                    // One request may fail to connect more than once.
                    let share = ((of(&answered, at) + of(&refused, at)) / requests).min(1.0);
                    (at, if *failed { share } else { 1.0 - share })
                };
                requests.map(share).collect()
            }
        })
    }

    fn nothing(&self, data: &Data, begin: u64, now_ms: u64) -> String {
        let first = begin + self.periods.length_ms + self.periods.settle_ms;
        if first > now_ms {
            let wait = cutover_core::Span::from_ms((first - now_ms).div_ceil(1_000) * 1_000);
            return format!("the first period of this bake is final in {wait}");
        }
        let id = match &self.reduce {
            Reduce::As(id) => id.as_str(),
            Reduce::Share { .. } | Reduce::Rate => "requests",
        };
        let messages = data.messages(id);
        let said = if messages.is_empty() { String::new() } else { format!(": {messages}") };
        format!("CloudWatch has no data of this bake{said}")
    }
}

const RESULT: &str = "result";
const FAILED_IDS: [&str; 2] = ["answered", "refused"];

#[async_trait]
impl Source for Value {
    async fn ask(&self) -> Result<Reading, AskError> {
        let skew = &self.store.skew;
        let known = skew.ahead_ms();
        let answer = self.ask_at(skew.now_ms()).await;
        if skew.ahead_ms().abs_diff(known) < self.periods.length_ms.min(5_000) {
            return answer;
        }
        // What time it is there is only known now, and with it which periods are final.
        self.ask_at(skew.now_ms()).await
    }
}
