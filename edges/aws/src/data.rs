//! One question to `GetMetricData`: all of its pages, and nothing of it when a part is missing.

use std::collections::BTreeMap;

use aws_sdk_cloudwatch::operation::get_metric_data::GetMetricDataOutput;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{MetricDataQuery, MetricDataResult, ScanBy, StatusCode};
use cutover_sources::AskError;

use crate::store::{Budgets, Store};
use crate::trouble::one_line;

/// Two arms with a few series each fit on one page; a search that finds more is no question for one number.
const PAGES: u32 = 50;

/// The points of one series, each by where its period begins, in milliseconds since 1970.
pub(crate) type Points = BTreeMap<u64, f64>;

/// What was answered, by the id of its query.
#[derive(Debug, Default)]
pub(crate) struct Data {
    series: BTreeMap<String, BTreeMap<String, Series>>,
}

#[derive(Debug, Default)]
struct Series {
    points: Points,
    complete: bool,
    messages: Vec<String>,
}

impl Data {
    /// Asks for the periods that begin from `from_ms` on and before `to_ms`.
    pub(crate) async fn ask(
        store: &Store,
        budgets: &Budgets,
        queries: &[MetricDataQuery],
        from_ms: u64,
        to_ms: u64,
    ) -> Result<Data, AskError> {
        let mut data = Data::default();
        let mut token = None;
        for _ in 0..PAGES {
            let ask = |client: aws_sdk_cloudwatch::Client| {
                client
                    .get_metric_data()
                    .set_metric_data_queries(Some(queries.to_vec()))
                    .start_time(moment(from_ms))
                    .end_time(moment(to_ms))
                    .scan_by(ScanBy::TimestampAscending)
                    .set_next_token(token.clone())
                    .send()
            };
            let page = store.call("cloudwatch:GetMetricData", &budgets.data, ask).await?;
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            data.add(&page)?;
            if token.is_none() {
                return data.whole();
            }
        }
        Err(AskError::wrong(
            format!("CloudWatch's answer has more than {PAGES} pages"),
            "ask for fewer series: one number is needed",
        ))
    }

    fn add(&mut self, page: &GetMetricDataOutput) -> Result<(), AskError> {
        if let Some(message) = page.messages().first() {
            // It is about the question as a whole: some series were left out, and which is not said.
            let text = [message.code(), message.value()].map(|part| part.unwrap_or_default()).join(": ");
            let hint = "ask for fewer series at once";
            return Err(AskError::wrong(format!("CloudWatch answers in part ({})", one_line(&text)), hint));
        }
        page.metric_data_results().iter().try_for_each(|result| self.add_result(result))
    }

    fn add_result(&mut self, result: &MetricDataResult) -> Result<(), AskError> {
        let (id, label) = (result.id().unwrap_or_default(), result.label().unwrap_or_default());
        let messages: Vec<String> = result
            .messages()
            .iter()
            .map(|message| one_line(message.value().or(message.code()).unwrap_or_default()))
            .collect();
        let said = if messages.is_empty() { String::new() } else { format!(" ({})", messages.join("; ")) };
        let series = self.series.entry(id.into()).or_default().entry(label.into()).or_default();
        series.complete = match result.status_code() {
            Some(StatusCode::InternalError) => {
                return Err(AskError::down(format!("CloudWatch has an error of its own for `{id}`{said}")));
            }
            Some(StatusCode::Forbidden) => {
                let hint = "who asks may not read this metric, or the account it is of; docs/metrics.md has the policy";
                return Err(AskError::wrong(format!("CloudWatch denies the data of `{id}`{said}"), hint));
            }
            Some(StatusCode::PartialData) => false,
            _ => true,
        };
        series.messages.extend(messages);
        let points = result.timestamps().iter().zip(result.values());
        series.points.extend(points.filter_map(|(at, value)| {
            let at = at.to_millis().ok().and_then(|at| u64::try_from(at).ok())?;
            value.is_finite().then_some((at, *value))
        }));
        Ok(())
    }

    /// A series that stayed incomplete would look as if there had been nothing.
    fn whole(self) -> Result<Data, AskError> {
        for (id, series) in &self.series {
            if series.values().any(|series| !series.complete) {
                return Err(AskError::down(format!(
                    "CloudWatch has only a part of the data of `{id}` by now"
                )));
            }
        }
        Ok(self)
    }

    /// Returns the points of the query's one series; none where there is no data.
    pub(crate) fn points(&self, id: &str) -> Result<Points, AskError> {
        let Some(found) = self.series.get(id) else { return Ok(Points::new()) };
        // A search answers with what has no data, too.
        let with_data: Vec<_> = found.values().filter(|series| !series.points.is_empty()).collect();
        match with_data[..] {
            [] => Ok(Points::new()),
            [one] => Ok(one.points.clone()),
            _ => {
                let labels: Vec<_> = found.keys().take(3).map(String::as_str).collect();
                let what = format!(
                    "CloudWatch answers with {} series ({}, …), one is needed",
                    with_data.len(),
                    labels.join(", ")
                );
                Err(AskError::wrong(what, "make one of them, such as with SUM(…) or AVG(…)"))
            }
        }
    }

    /// What was said beside the data of a query, a division by nothing, say; empty where that is nothing.
    pub(crate) fn messages(&self, id: &str) -> String {
        let all = self.series.get(id).into_iter().flat_map(BTreeMap::values);
        let messages: Vec<&str> = all.flat_map(|series| &series.messages).map(String::as_str).collect();
        messages.join("; ")
    }
}

fn moment(ms: u64) -> DateTime {
    DateTime::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}
