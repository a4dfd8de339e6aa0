//! A number in the JSON answer of any URL, as Datadog's query API gives it.

use async_trait::async_trait;
use cutover_core::file::JsonPath;
use serde_json::Value;

use crate::client::{Answer, Client};
use crate::names::Names;
use crate::source::{AskError, Found, Reading, Source, Wall, lag};
use crate::words::shown;

/// Seconds since 1970 stay below this for 3000 years; milliseconds have been above it since 1973.
const SECONDS_BELOW: f64 = 1e11;

/// A URL that answers JSON.
pub(crate) struct HttpJson {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) names: Names,
    pub(crate) window_ms: u64,
    pub(crate) value: JsonPath,
    pub(crate) sampled_at: Option<JsonPath>,
    pub(crate) max_age_ms: u64,
    pub(crate) wall: Wall,
}

#[async_trait]
impl Source for HttpJson {
    async fn ask(&self) -> Result<Reading, AskError> {
        let url = self.names.url(&self.url, (self.wall)() / 1_000, self.window_ms / 1_000);
        let answer = self.client.get(&url).await?;
        self.read(&answer, (self.wall)())
    }
}

impl HttpJson {
    fn read(&self, answer: &Answer, now_ms: u64) -> Result<Reading, AskError> {
        let address = self.url.split('?').next().unwrap_or_default();
        let body = || shown(&String::from_utf8_lossy(&answer.body));
        match answer.status {
            200..=299 => {}
            status @ (400 | 401 | 403 | 404 | 405 | 422 | 300..=399) => {
                return Err(AskError::wrong(
                    format!("{address} refuses the question (status {status}): {}", body()),
                    "look at `url` and `secret_headers`",
                ));
            }
            status => return Err(AskError::down(format!("{address} answers {status}: {}", body()))),
        }
        let json: Value = serde_json::from_slice(&answer.body)
            .map_err(|_| AskError::down(format!("{address} answers with what is no JSON: {}", body())))?;
        let value = number(&json, &self.value)?
            .ok_or_else(|| AskError::no_data(format!("the answer has no number at {}", self.value)))?;
        let sampled_at_ms = match &self.sampled_at {
            None => None,
            Some(path) => {
                let at = number(&json, path)?
                    .ok_or_else(|| AskError::no_data(format!("the answer has no time at {path}")))?;
                let at = if at.abs() < SECONDS_BELOW { at * 1_000.0 } else { at };
                if at < 0.0 {
                    let hint = "it is in seconds or milliseconds since 1970";
                    return Err(AskError::wrong(format!("the answer's time at {path} is before 1970"), hint));
                }
                Some(at as u64)
            }
        };
        let lag_ms = sampled_at_ms.map(|at| lag(at, now_ms, self.max_age_ms)).transpose()?;
        Ok(Reading { found: Found::Value(value), sampled_at_ms, lag_ms, ahead_ms: None })
    }
}

/// The number at the path, also as a text; none where there is nothing, null, or NaN.
fn number(json: &Value, path: &JsonPath) -> Result<Option<f64>, AskError> {
    let number = match path.find(json) {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) if text.trim().parse::<f64>().is_ok() => text.trim().parse().ok(),
        Some(other) => {
            return Err(AskError::wrong(
                format!("the answer has no number at {path}, but {}", shown(&other.to_string())),
                "give the path of one number, such as series[0].pointlist[-1][1]",
            ));
        }
    };
    Ok(number.filter(|number| number.is_finite()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::AskErrorKind;

    fn read(status: u16, body: &str) -> Result<Reading, AskError> {
        let source = HttpJson {
            client: Client::new(&[], None).unwrap(),
            url: "https://api.example.com/v1/query?api_key=hidden".into(),
            names: Names::default(),
            window_ms: 60_000,
            value: "series[0].pointlist[-1][1]".parse().unwrap(),
            sampled_at: Some("series[0].pointlist[-1][0]".parse().unwrap()),
            max_age_ms: 60_000,
            wall: Arc::new(|| 0),
        };
        let answer = Answer { status, body: body.as_bytes().to_vec().into(), location: None };
        source.read(&answer, 1_700_000_030_000)
    }

    #[test]
    fn an_answer_of_datadog_is_read_with_its_age() {
        let reading = read(200, r#"{"series":[{"pointlist":[[1,2],[1700000020000.0,0.25]]}]}"#).unwrap();
        assert_eq!((reading.found, reading.lag_ms), (Found::Value(0.25), Some(10_000)));
        let seconds = read(200, r#"{"series":[{"pointlist":[[1700000020,"0.25"]]}]}"#).unwrap();
        assert_eq!((seconds.found, seconds.lag_ms), (Found::Value(0.25), Some(10_000)));
    }

    #[test]
    fn what_it_cannot_tell_is_told_apart() {
        let kind = |status, body: &str| read(status, body).unwrap_err().kind;
        for body in [
            r#"{"series":[]}"#,
            r#"{"series":[{"pointlist":[[1700000020000,null]]}]}"#,
            r#"{"series":[{"pointlist":[[1700000020000,"NaN"]]}]}"#,
            r#"{"series":[{"pointlist":[[1600000000000,1]]}]}"#,
            r#"{"series":[{"pointlist":[[1800000000000,1]]}]}"#,
        ] {
            assert_eq!(kind(200, body), AskErrorKind::NoData, "{body}");
        }
        assert_eq!(kind(200, r#"{"series":[{"pointlist":[[1,{"a":1}]]}]}"#), AskErrorKind::Wrong);
        assert_eq!(kind(403, "{}"), AskErrorKind::Wrong);
        assert_eq!(kind(200, "<html>"), AskErrorKind::Down);
        assert_eq!(kind(502, "{}"), AskErrorKind::Down);
        assert!(!read(502, "").unwrap_err().what.contains("hidden"));
    }
}
