//! From the release file to sources. The sources of another vendor come in by another [`Sources`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use cutover_core::file::{Counters, Metric, PrometheusCounters as CountersFile};
use cutover_judge::Arm;

use crate::client::Client;
use crate::command::Run;
use crate::http_json::HttpJson;
use crate::names::Names;
use crate::presets;
use crate::prometheus::{Prometheus, PrometheusCounters, PrometheusValue};
use crate::source::{AskError, Source, Wall};

/// What a release adds to the file's questions.
#[derive(Clone)]
pub struct Setting {
    /// What placeholders stand for.
    pub names: Names,
    /// Where commands run: the release file's folder.
    pub folder: PathBuf,
    /// When the release began, in milliseconds since 1970.
    pub opened_ms: u64,
    /// When what is measured began, the bake, in milliseconds since 1970.
    pub since_ms: u64,
    /// The values of secrets, by the name of their variable.
    pub secrets: BTreeMap<String, String>,
    /// The roots to trust; none: those of this machine.
    pub roots: Option<PathBuf>,
    /// The wall clock.
    pub wall: Wall,
}

/// Makes sources.
pub trait Sources: Send + Sync {
    /// Makes what a metric asks.
    ///
    /// # Errors
    /// What makes it impossible to ask: a secret that is not known here, say.
    fn metric(&self, metric: &Metric, setting: &Setting) -> Result<Box<dyn Source>, AskError>;

    /// Makes what asks for the counters of both arms.
    ///
    /// # Errors
    /// What makes it impossible to ask.
    fn counters(&self, counters: &Counters, setting: &Setting) -> Result<Box<dyn Source>, AskError>;
}

/// The sources of this crate.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnSources;

impl Sources for OwnSources {
    fn metric(&self, metric: &Metric, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
        self::metric(metric, setting)
    }

    fn counters(&self, counters: &Counters, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
        self::counters(counters, setting)
    }
}

fn metric(metric: &Metric, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
    let Setting { names, folder, wall, .. } = setting;
    if metric.cloudwatch.is_some() {
        return Err(no_cloudwatch());
    }
    match (&metric.prometheus, &metric.http, &metric.run) {
        (Some(prometheus), None, None) => {
            let selection = prometheus.selection();
            let query = match (&prometheus.query, prometheus.preset) {
                (Some(query), _) => names.query(query, &selection),
                (None, Some(preset)) => presets::measure(preset, &selection, prometheus.measure),
                (None, None) => return Err(incomplete("`query` or `preset`")),
            };
            let sampled_at = match (&prometheus.sampled_at, prometheus.preset) {
                (Some(query), _) => Some(names.query(query, &selection)),
                (None, Some(preset)) => Some(presets::sampled_at(preset, &selection, Arm::Candidate)),
                (None, None) => None,
            };
            Ok(Box::new(PrometheusValue {
                store: store(&prometheus.address, &prometheus.secret_headers, setting)?,
                query,
                range: prometheus.range.map(|range| (range.ms(), prometheus.step.ms(), prometheus.reduce)),
                sampled_at,
                max_age_ms: prometheus.max_age.ms(),
                wall: wall.clone(),
            }))
        }
        (None, Some(http), None) => {
            let mut headers: Vec<(String, String)> =
                http.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            headers.extend(secrets(&http.secret_headers, setting)?);
            Ok(Box::new(HttpJson {
                client: Client::new(&headers, setting.roots.clone())?,
                url: http.url.clone(),
                names: names.clone(),
                window_ms: http.window.ms(),
                value: http.value.clone(),
                sampled_at: http.sampled_at.clone(),
                max_age_ms: http.max_age.ms(),
                wall: wall.clone(),
            }))
        }
        (None, None, Some(command)) => {
            Ok(Box::new(Run { command: command.clone(), folder: folder.clone(), names: names.clone() }))
        }
        _ => Err(incomplete("exactly one of `prometheus`, `http` and `run`")),
    }
}

fn counters(counters: &Counters, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
    let Some(prometheus) = &counters.prometheus else { return Err(no_cloudwatch()) };
    let CountersFile { address, preset, queries, max_age, secret_headers, .. } = prometheus;
    let selection = prometheus.selection();
    let (queries, sampled_at) = match (queries, preset) {
        (Some(queries), _) => {
            let fill = |query: &String| setting.names.query(query, &selection);
            let stable = [fill(&queries.stable_requests), fill(&queries.stable_errors)];
            ([stable, [fill(&queries.candidate_requests), fill(&queries.candidate_errors)]], None)
        }
        (None, Some(preset)) => {
            let of = |arm| {
                let requests = presets::requests(*preset, &selection, arm);
                let errors = presets::errors(*preset, &selection, arm);
                [presets::by_process(&requests), presets::by_process(&errors)]
            };
            let sampled = |arm| presets::sampled_at(*preset, &selection, arm);
            (Arm::BOTH.map(of), Some(Arm::BOTH.map(sampled)))
        }
        (None, None) => return Err(incomplete("`preset` or `queries`")),
    };
    Ok(Box::new(PrometheusCounters {
        store: store(address, secret_headers, setting)?,
        queries,
        sampled_at,
        max_age_ms: max_age.ms(),
        wall: setting.wall.clone(),
    }))
}

fn store(
    address: &str,
    headers: &BTreeMap<String, String>,
    setting: &Setting,
) -> Result<Prometheus, AskError> {
    let client = Client::new(&secrets(headers, setting)?, setting.roots.clone())?;
    Ok(Prometheus { client, address: address.trim_end_matches('/').into() })
}

fn secrets(headers: &BTreeMap<String, String>, setting: &Setting) -> Result<Vec<(String, String)>, AskError> {
    let value = |(name, variable): (&String, &String)| match setting.secrets.get(variable) {
        Some(value) => Ok((name.clone(), value.clone())),
        None => Err(AskError::wrong(
            format!("the value of {variable} for `{name}` is not known to this server"),
            "set it where `cutover deploy` runs; a server that took the release over needs it in its own environment",
        )),
    };
    headers.iter().map(value).collect()
}

fn no_cloudwatch() -> AskError {
    AskError::wrong(
        "this cutover was built without AWS and cannot ask CloudWatch",
        "build it with the feature `aws`, which is on unless it was turned off",
    )
}

/// The file's own checks let nothing of the kind pass.
fn incomplete(what: &str) -> AskError {
    AskError::wrong(format!("the metric has not {what}"), "run: cutover check")
}
