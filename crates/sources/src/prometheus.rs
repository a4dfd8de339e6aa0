//! Prometheus' query API: instant and range queries, and what its answers can be.
//!
//! Times are the store's own: the first query of a question says when it was answered, the others of the same question ask
//! for that moment. So a wrong clock of this machine changes nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use cutover_core::file::Reduce;
use cutover_judge::{Arm, Scraped};
use serde_json::Value;

use crate::client::{Answer, Client};
use crate::names::percent;
use crate::source::{AskError, Found, Reading, Source, Wall, lag};
use crate::words::{number, shown};

/// More series than any question with one number per process has.
const MOST_SERIES: usize = 10_000;

/// A store that speaks the API.
pub(crate) struct Prometheus {
    pub(crate) client: Client,
    /// Without a slash at its end.
    pub(crate) address: String,
}

/// One number of a series at one time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) labels: BTreeMap<String, String>,
    /// When it was evaluated, in milliseconds since 1970; not when it was sampled.
    pub(crate) at_ms: u64,
    pub(crate) value: f64,
}

impl Prometheus {
    /// Asks for the current numbers, or for those at a moment.
    pub(crate) async fn instant(&self, query: &str, at_ms: Option<u64>) -> Result<Vec<Sample>, AskError> {
        let time = at_ms.map(|ms| format!("&time={}", seconds(ms))).unwrap_or_default();
        let url = format!("{}/api/v1/query?query={}{time}", self.address, percent(query));
        samples(&self.ask(&url).await?)
    }

    /// Asks for the numbers of one series from one moment to another.
    pub(crate) async fn range(
        &self,
        query: &str,
        from_ms: u64,
        to_ms: u64,
        step_ms: u64,
    ) -> Result<Vec<f64>, AskError> {
        let url = format!(
            "{}/api/v1/query_range?query={}&start={}&end={}&step={}",
            self.address,
            percent(query),
            seconds(from_ms),
            seconds(to_ms),
            seconds(step_ms)
        );
        points(&self.ask(&url).await?)
    }

    /// Asks what time it is there.
    async fn now(&self) -> Result<u64, AskError> {
        let samples = self.instant("time()", None).await?;
        samples
            .first()
            .map(|sample| sample.at_ms)
            .ok_or_else(|| not_prometheus(&self.address, "an empty answer"))
    }

    async fn ask(&self, url: &str) -> Result<Value, AskError> {
        data(&self.address, &self.client.get(url).await?)
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn not_prometheus(address: &str, what: &str) -> AskError {
    AskError {
        hint: "look whether a Prometheus, or what speaks its API, is behind the address".into(),
        ..AskError::down(format!("{address} does not answer as Prometheus does, but with {what}"))
    }
}

/// Takes the data out of an answer, or says what kind of refusal it is.
fn data(address: &str, answer: &Answer) -> Result<Value, AskError> {
    let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let told = json.as_ref().and_then(|json| json.get("error")).and_then(Value::as_str);
    let status = answer.status;
    match status {
        200 => {}
        // Prometheus says 400 of a query that it cannot read, and 422 of one that it cannot evaluate.
        400 | 422 if told.is_some() => {
            let told = shown(told.unwrap_or_default());
            return Err(AskError::wrong(
                format!("{address} refuses the query: {told}"),
                "try it in its web page",
            ));
        }
        401 | 403 => {
            return Err(AskError::wrong(
                format!("{address} wants to know who asks (status {status})"),
                "give it in `secret_headers`, such as `{Authorization: PROM_AUTH}`",
            ));
        }
        300..=399 => {
            let to = answer.location.as_deref().map_or_else(|| "elsewhere".into(), shown);
            return Err(AskError::wrong(
                format!("{address} sends us to {to} (status {status})"),
                "give that address",
            ));
        }
        404 | 405 => {
            return Err(AskError::wrong(
                format!("{address} has no query API (status {status})"),
                "give the URL below which /api/v1/query is",
            ));
        }
        _ => {
            let body = told.map_or_else(|| shown(&String::from_utf8_lossy(&answer.body)), shown);
            return Err(AskError::down(format!("{address} answers {status}: {body}")));
        }
    }
    let Some(mut json) = json else {
        let body = shown(&String::from_utf8_lossy(&answer.body));
        return Err(not_prometheus(address, &format!("what is no JSON: {body}")));
    };
    if json["status"] != "success" {
        return Err(not_prometheus(address, &format!("the status {}", shown(&json["status"].to_string()))));
    }
    let mut data = json["data"].take();
    if !data["resultType"].is_string() || !data["result"].is_array() {
        return Err(not_prometheus(address, "a result of no type"));
    }
    // Known to the reader of the result, for its messages.
    data["address"] = Value::String(address.into());
    Ok(data)
}

/// Reads a scalar, or an instant vector.
fn samples(data: &Value) -> Result<Vec<Sample>, AskError> {
    let address = data["address"].as_str().unwrap_or_default();
    let broken =
        || not_prometheus(address, &format!("a value that is none: {}", shown(&data["result"].to_string())));
    let read = |labels: &Value, pair: &Value| {
        let (at_ms, value) = pair_of(pair).ok_or_else(broken)?;
        let labels = labels.as_object().into_iter().flatten();
        let labels = labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_string())));
        Ok(Sample { labels: labels.collect(), at_ms, value })
    };
    match data["resultType"].as_str() {
        Some("scalar") => Ok(vec![read(&Value::Null, &data["result"])?]),
        Some("vector") => {
            let series = data["result"].as_array().map_or(&[][..], Vec::as_slice);
            if series.len() > MOST_SERIES {
                return Err(many(series.len()));
            }
            series.iter().map(|one| read(&one["metric"], &one["value"])).collect()
        }
        kind => Err(AskError::wrong(
            format!("the query answers with a {} instead of a number", kind.unwrap_or_default()),
            "take the range in square brackets into a function, such as rate(…[1m])",
        )),
    }
}

/// Reads the one series of a range.
fn points(data: &Value) -> Result<Vec<f64>, AskError> {
    let address = data["address"].as_str().unwrap_or_default();
    let series = data["result"].as_array().map_or(&[][..], Vec::as_slice);
    match (data["resultType"].as_str(), series) {
        (Some("matrix"), []) => Err(AskError::no_data("the query finds no series in its range")),
        (Some("matrix"), [one]) => {
            let values = one["values"].as_array().map_or(&[][..], Vec::as_slice);
            let all: Option<Vec<f64>> = values.iter().map(|pair| Some(pair_of(pair)?.1)).collect();
            all.ok_or_else(|| not_prometheus(address, "a value that is none"))
        }
        (Some("matrix"), series) => Err(many(series.len())),
        _ => Err(not_prometheus(address, "no range")),
    }
}

fn many(series: usize) -> AskError {
    AskError::wrong(
        format!("the query answers with {series} series instead of one number"),
        "make one of them, such as sum(…) or max(…)",
    )
}

/// `[1700000000.123, "0.5"]`
fn pair_of(pair: &Value) -> Option<(u64, f64)> {
    let at = pair.get(0)?.as_f64().filter(|at| (0.0..1e12).contains(at))?;
    let value = pair.get(1)?.as_str()?.parse().ok()?;
    Some(((at * 1_000.0).round() as u64, value))
}

/// The one number of an answer.
fn one(samples: &[Sample]) -> Result<&Sample, AskError> {
    match samples {
        [] => Err(AskError::no_data("the query finds no series")),
        [sample] => Ok(sample),
        many_ => Err(many(many_.len())),
    }
}

/// What is no number says nothing: a division by no requests, say.
fn finite(value: f64) -> Result<f64, AskError> {
    if value.is_finite() {
        return Ok(value);
    }
    let word = if value.is_nan() { "NaN".into() } else { number(value) };
    Err(AskError::no_data(format!("the query answers {word}, as it does when there were no requests")))
}

/// A query that answers with one number.
pub(crate) struct PrometheusValue {
    pub(crate) store: Prometheus,
    pub(crate) query: String,
    /// Length and step of a range, in milliseconds, and what is made of it.
    pub(crate) range: Option<(u64, u64, Reduce)>,
    pub(crate) sampled_at: Option<String>,
    pub(crate) max_age_ms: u64,
    pub(crate) wall: Wall,
}

#[async_trait]
impl Source for PrometheusValue {
    async fn ask(&self) -> Result<Reading, AskError> {
        let (value, at_ms) = match &self.range {
            None => {
                let samples = self.store.instant(&self.query, None).await?;
                let sample = one(&samples)?;
                (finite(sample.value)?, sample.at_ms)
            }
            Some((length, step, reduce)) => {
                let now = self.store.now().await?;
                let points = self.store.range(&self.query, now.saturating_sub(*length), now, *step).await?;
                (finite(reduced(&points, *reduce)?)?, now)
            }
        };
        let mut reading = Reading {
            found: Found::Value(value),
            sampled_at_ms: None,
            lag_ms: None,
            ahead_ms: ahead(at_ms, (self.wall)()),
        };
        if let Some(query) = &self.sampled_at {
            let samples = self.store.instant(query, Some(at_ms)).await?;
            let sampled = sampled(&samples)?;
            reading.lag_ms = Some(lag(sampled, at_ms, self.max_age_ms)?);
            reading.sampled_at_ms = Some(sampled);
        }
        Ok(reading)
    }
}

fn ahead(theirs_ms: u64, ours_ms: u64) -> Option<i64> {
    Some(i64::try_from(theirs_ms).ok()? - i64::try_from(ours_ms).ok()?)
}

fn sampled(samples: &[Sample]) -> Result<u64, AskError> {
    let seconds = finite(
        one(samples)
            .map_err(|error| match error.kind {
                crate::AskErrorKind::NoData => AskError::no_data("there is no sample of it"),
                _ => error,
            })?
            .value,
    )?;
    if !(0.0..1e12).contains(&seconds) {
        let what = format!("the time of its newest sample is said to be {}", number(seconds));
        return Err(AskError::wrong(
            what,
            "`sampled_at` answers in seconds since 1970, such as max(timestamp(up))",
        ));
    }
    Ok((seconds * 1_000.0).round() as u64)
}

/// Steps without a number are left out; nothing is left where there are only those.
fn reduced(points: &[f64], reduce: Reduce) -> Result<f64, AskError> {
    let finite: Vec<f64> = points.iter().copied().filter(|point| point.is_finite()).collect();
    let number = match reduce {
        Reduce::Mean => {
            Some(finite.iter().sum::<f64>() / finite.len().max(1) as f64).filter(|_| !finite.is_empty())
        }
        Reduce::Last => finite.last().copied(),
        Reduce::Min => finite.iter().copied().reduce(f64::min),
        Reduce::Max => finite.iter().copied().reduce(f64::max),
    };
    number.ok_or_else(|| AskError::no_data("the range of the query holds no number"))
}

/// Counters of both arms.
pub(crate) struct PrometheusCounters {
    pub(crate) store: Prometheus,
    /// Requests and errors by arm, stable's first.
    pub(crate) queries: [[String; 2]; 2],
    /// Where the time of the newest sample is asked, by arm.
    pub(crate) sampled_at: Option<[String; 2]>,
    pub(crate) max_age_ms: u64,
    pub(crate) wall: Wall,
}

#[async_trait]
impl Source for PrometheusCounters {
    /// All queries are of one moment, so that errors and requests belong together.
    async fn ask(&self) -> Result<Reading, AskError> {
        let at_ms = self.store.now().await?;
        let at = Some(at_ms);
        let mut arms = [BTreeMap::new(), BTreeMap::new()];
        for (arm, [requests, errors]) in self.queries.iter().enumerate() {
            let requests = self.store.instant(requests, at).await?;
            let errors = self.store.instant(errors, at).await?;
            arms[arm] = counted(&requests, &errors)?;
        }
        if let Some(arm) = Arm::BOTH.into_iter().find(|arm| arms[*arm as usize].is_empty()) {
            let word = if arm == Arm::Stable { "stable" } else { "the candidate" };
            return Err(AskError::no_data(format!("nothing has counted a request to {word} yet")));
        }
        // The older arm says how old the answer is.
        let mut oldest: Option<u64> = None;
        for query in self.sampled_at.iter().flatten() {
            let sampled = sampled(&self.store.instant(query, at).await?)?;
            oldest = Some(oldest.map_or(sampled, |other| other.min(sampled)));
        }
        let lag_ms = oldest.map(|sampled| lag(sampled, at_ms, self.max_age_ms)).transpose()?;
        Ok(Reading {
            found: Found::Counters(arms),
            sampled_at_ms: oldest.or(at),
            lag_ms,
            ahead_ms: ahead(at_ms, (self.wall)()),
        })
    }
}

/// Puts requests and errors of the same series together. A series without errors has had none.
fn counted(requests: &[Sample], errors: &[Sample]) -> Result<BTreeMap<String, Scraped>, AskError> {
    let mut series = BTreeMap::new();
    for sample in requests {
        series.insert(key(sample), Scraped { requests: whole(sample.value)?, errors: 0 });
    }
    for sample in errors {
        let key = key(sample);
        let Some(scraped) = series.get_mut(&key) else {
            return Err(AskError::wrong(
                format!("the errors have a series that the requests have not: {{{key}}}"),
                "keep the same labels in both queries, such as sum by (instance) (…)",
            ));
        };
        scraped.errors = whole(sample.value)?;
    }
    Ok(series)
}

fn key(sample: &Sample) -> String {
    let labels: Vec<String> =
        sample.labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    labels.join(",")
}

fn whole(value: f64) -> Result<u64, AskError> {
    if (0.0..9e15).contains(&value) {
        return Ok(value.round() as u64);
    }
    let what = format!(
        "a counter stands at {}, where none can",
        if value.is_nan() { "NaN".into() } else { number(value) }
    );
    Err(AskError::wrong(what, "give counters as they are: no rates, no differences"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AskErrorKind;

    fn read(status: u16, body: &str) -> Result<Vec<Sample>, AskError> {
        let answer = Answer { status, body: body.as_bytes().to_vec().into(), location: None };
        data("http://p", &answer).and_then(|data| samples(&data))
    }

    fn said(status: u16, body: &str) -> (AskErrorKind, String) {
        let error = read(status, body).and_then(|samples| finite(one(&samples)?.value)).unwrap_err();
        (error.kind, error.what)
    }

    fn result(kind: &str, result: &str) -> String {
        format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#)
    }

    #[test]
    fn a_scalar_and_a_vector_of_one_are_a_number() {
        let scalar = read(200, &result("scalar", r#"[1700000000.25,"0.5"]"#)).unwrap();
        assert_eq!((scalar[0].at_ms, scalar[0].value), (1_700_000_000_250, 0.5));
        let vector =
            read(200, &result("vector", r#"[{"metric":{"a":"b"},"value":[1700000000,"1e3"]}]"#)).unwrap();
        assert_eq!((vector[0].value, vector[0].labels["a"].as_str()), (1000.0, "b"));
    }

    #[test]
    fn no_number_is_no_data() {
        for value in ["NaN", "+Inf", "-Inf"] {
            let body = result("vector", &format!(r#"[{{"metric":{{}},"value":[1,"{value}"]}}]"#));
            assert_eq!(said(200, &body).0, AskErrorKind::NoData, "{value}");
        }
        assert_eq!(
            said(200, &result("vector", "[]")),
            (AskErrorKind::NoData, "the query finds no series".into())
        );
    }

    #[test]
    fn what_is_more_than_a_number_is_a_wrong_query() {
        let two = r#"[{"metric":{},"value":[1,"1"]},{"metric":{"a":"b"},"value":[1,"2"]}]"#;
        let (kind, what) = said(200, &result("vector", two));
        assert_eq!(
            (kind, what.as_str()),
            (AskErrorKind::Wrong, "the query answers with 2 series instead of one number",)
        );
        assert_eq!(said(200, &result("matrix", "[]")).0, AskErrorKind::Wrong);
        assert_eq!(said(200, &result("string", r#"[1,"x"]"#)).0, AskErrorKind::Wrong);
        let (kind, what) =
            said(400, r#"{"status":"error","errorType":"bad_data","error":"parse error at 3"}"#);
        assert_eq!(
            (kind, what.as_str()),
            (AskErrorKind::Wrong, "http://p refuses the query: \"parse error at 3\"",)
        );
        for status in [301, 401, 403, 404, 405] {
            assert_eq!(said(status, "").0, AskErrorKind::Wrong, "{status}");
        }
    }

    #[test]
    fn what_is_no_answer_of_prometheus_is_an_outage() {
        for (status, body) in [
            (200, "<html>"),
            (200, "{}"),
            (200, r#"{"status":"success","data":{}}"#),
            (200, r#"{"status":"error"}"#),
            (400, "bad request"),
            (429, "slow down"),
            (500, ""),
            (503, r#"{"status":"error","errorType":"timeout","error":"query timed out"}"#),
        ] {
            assert_eq!(said(status, body).0, AskErrorKind::Down, "{status} {body}");
        }
        for value in [r#"[1]"#, r#"["x","1"]"#, r#"[1,2]"#, r#"[-5,"1"]"#, r#"[1,"one"]"#] {
            assert_eq!(said(200, &result("scalar", value)).0, AskErrorKind::Down, "{value}");
        }
    }

    #[test]
    fn a_range_is_reduced_without_what_is_no_number() {
        let points = [1.0, f64::NAN, 4.0, f64::INFINITY, 1.0];
        let reduce = |how| reduced(&points, how).unwrap();
        assert_eq!((reduce(Reduce::Mean), reduce(Reduce::Last)), (2.0, 1.0));
        assert_eq!((reduce(Reduce::Min), reduce(Reduce::Max)), (1.0, 4.0));
        assert_eq!(reduced(&[f64::NAN], Reduce::Mean).unwrap_err().kind, AskErrorKind::NoData);
        assert_eq!(reduced(&[], Reduce::Last).unwrap_err().kind, AskErrorKind::NoData);
    }

    #[test]
    fn errors_belong_to_requests_of_the_same_series() {
        let sample = |instance: &str, value| Sample {
            labels: [("instance".to_string(), instance.to_string())].into(),
            at_ms: 1,
            value,
        };
        let series = counted(&[sample("a", 10.0), sample("b", 5.0)], &[sample("b", 2.0)]).unwrap();
        assert_eq!(series["instance=\"a\""], Scraped { requests: 10, errors: 0 });
        assert_eq!(series["instance=\"b\""], Scraped { requests: 5, errors: 2 });
        let error = counted(&[sample("a", 10.0)], &[sample("c", 1.0)]).unwrap_err();
        assert_eq!(error.kind, AskErrorKind::Wrong);
        for value in [f64::NAN, -1.0, f64::INFINITY] {
            assert_eq!(counted(&[sample("a", value)], &[]).unwrap_err().kind, AskErrorKind::Wrong);
        }
    }
}
