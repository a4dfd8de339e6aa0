//! Alarms as a guard: what they say of themselves, and since when.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{AlarmType, StateValue};
use cutover_core::Span;
use cutover_sources::{AskError, Found, Reading, Source};

use crate::store::{Budgets, Store};
use crate::trouble::one_line;

/// Alarms, by their names.
pub(crate) struct Alarms {
    pub(crate) store: Store,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) names: Vec<String>,
    pub(crate) opened_ms: u64,
}

/// One alarm as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Alarm {
    name: String,
    state: State,
    reason: String,
    since_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Alarm,
    Insufficient,
}

#[async_trait]
impl Source for Alarms {
    async fn ask(&self) -> Result<Reading, AskError> {
        let found = self.find().await?;
        let skew = &self.store.skew;
        let (good, said) = weigh(&self.names, &found, skew.there(self.opened_ms), skew.now_ms())?;
        Ok(Reading {
            found: Found::State { good, said },
            sampled_at_ms: None,
            lag_ms: None,
            ahead_ms: Some(skew.ahead_ms()),
        })
    }
}

impl Alarms {
    async fn find(&self) -> Result<Vec<Alarm>, AskError> {
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let ask = |client: aws_sdk_cloudwatch::Client| {
                client
                    .describe_alarms()
                    .set_alarm_names(Some(self.names.clone()))
                    .alarm_types(AlarmType::MetricAlarm)
                    .alarm_types(AlarmType::CompositeAlarm)
                    .max_records(100)
                    .set_next_token(token.clone())
                    .send()
            };
            let page = self.store.call("cloudwatch:DescribeAlarms", &self.budgets.alarms, ask).await?;
            found.extend(page.metric_alarms().iter().map(|alarm| {
                let since = alarm.state_transitioned_timestamp().or(alarm.state_updated_timestamp());
                seen(alarm.alarm_name(), alarm.state_value(), alarm.state_reason(), since)
            }));
            found.extend(page.composite_alarms().iter().map(|alarm| {
                let since = alarm.state_transitioned_timestamp().or(alarm.state_updated_timestamp());
                seen(alarm.alarm_name(), alarm.state_value(), alarm.state_reason(), since)
            }));
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(found);
            }
        }
    }
}

fn seen(
    name: Option<&str>,
    state: Option<&StateValue>,
    reason: Option<&str>,
    since: Option<&DateTime>,
) -> Alarm {
    Alarm {
        name: name.unwrap_or_default().into(),
        state: match state {
            Some(StateValue::Alarm) => State::Alarm,
            Some(StateValue::Ok) => State::Ok,
            // Also what later versions of CloudWatch may say: nothing is concluded of it.
            _ => State::Insufficient,
        },
        reason: one_line(reason.unwrap_or_default()),
        since_ms: since.and_then(|at| at.to_millis().ok()).and_then(|at| u64::try_from(at).ok()),
    }
}

/// Tells whether all is good, and in which words. Only an alarm that began in this release is the candidate's.
fn weigh(names: &[String], found: &[Alarm], opened_ms: u64, now_ms: u64) -> Result<(bool, String), AskError> {
    let began = |alarm: &&Alarm| alarm.since_ms.is_none_or(|since| since >= opened_ms);
    let ringing = || found.iter().filter(|alarm| alarm.state == State::Alarm);
    if let Some(alarm) = ringing().find(began) {
        let since = alarm
            .since_ms
            .map(|since| format!(" since {}", Span::from_ms(now_ms.saturating_sub(since) / 1_000 * 1_000)));
        let reason = if alarm.reason.is_empty() { String::new() } else { format!(": {}", alarm.reason) };
        return Ok((false, format!("{} is in ALARM{}{reason}", alarm.name, since.unwrap_or_default())));
    }
    if let Some(missing) = names.iter().find(|name| !found.iter().any(|alarm| alarm.name == **name)) {
        let hint = "look at its spelling, and at region and account";
        return Err(AskError::wrong(format!("CloudWatch has no alarm {missing}"), hint));
    }
    if let Some(alarm) = ringing().next() {
        let what = "was in ALARM before the release began, which tells nothing of the candidate";
        return Err(AskError::no_data(format!("{} {what}", alarm.name)));
    }
    if let Some(alarm) = found.iter().find(|alarm| alarm.state == State::Insufficient) {
        return Err(AskError::no_data(format!("{} has INSUFFICIENT_DATA", alarm.name)));
    }
    let verb = if names.len() == 1 { "is" } else { "are" };
    Ok((true, format!("{} {verb} OK", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use cutover_sources::AskErrorKind;

    use super::*;

    fn alarm(name: &str, state: State, since_ms: u64) -> Alarm {
        Alarm { name: name.into(), state, reason: "5 of 5 datapoints".into(), since_ms: Some(since_ms) }
    }

    fn weighed(found: &[Alarm]) -> Result<(bool, String), AskError> {
        weigh(&["a".into(), "b".into()], found, 100_000, 190_000)
    }

    #[test]
    fn an_alarm_that_began_in_the_release_is_the_candidates_and_an_older_one_is_not() {
        let good = [alarm("a", State::Ok, 0), alarm("b", State::Ok, 150_000)];
        assert_eq!(weighed(&good), Ok((true, "a, b are OK".into())));
        let bad = [alarm("a", State::Insufficient, 0), alarm("b", State::Alarm, 150_000)];
        assert_eq!(weighed(&bad), Ok((false, "b is in ALARM since 40s: 5 of 5 datapoints".into())));
        let error = weighed(&[alarm("a", State::Ok, 0), alarm("b", State::Alarm, 99_999)]).unwrap_err();
        assert_eq!(error.kind, AskErrorKind::NoData);
        assert!(error.what.starts_with("b was in ALARM before the release began"), "{error}");
    }

    #[test]
    fn what_says_nothing_concludes_nothing_and_what_is_not_there_is_a_mistake() {
        let error = weighed(&[alarm("a", State::Ok, 0), alarm("b", State::Insufficient, 0)]).unwrap_err();
        assert_eq!((error.kind, &*error.what), (AskErrorKind::NoData, "b has INSUFFICIENT_DATA"));
        let error = weighed(&[alarm("a", State::Insufficient, 0)]).unwrap_err();
        assert_eq!((error.kind, &*error.what), (AskErrorKind::Wrong, "CloudWatch has no alarm b"));
    }
}
