//! Other sources of truth: numbers of Prometheus, CloudWatch, of anything that answers JSON, of a command; and counters for
//! the judge.
//!
//! Names are those of Argo Rollouts and Flagger where the meaning is theirs; docs/metrics.md says where it is not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cloudwatch::{self, CloudWatchCounters, CloudWatchMetric};
use super::validate::Mistake;
use super::{CanaryBake, Condition, JsonPath, ReleaseFile, Strategy};
use crate::units::Span;

/// One number that must hold while the candidate bakes: exactly one of `prometheus`, `cloudwatch`, `http` and `run`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// What it is called in verdicts and reports.
    pub name: String,
    /// Asks a Prometheus, or what speaks its API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusMetric>,
    /// Asks Amazon CloudWatch for a number, or for the state of its alarms, which needs no limits here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloudwatch: Option<CloudWatchMetric>,
    /// Asks any URL that answers JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpMetric>,
    /// Runs a shell command in the release file's folder; its output is the number, or nothing where there is no data. It
    /// finds `CUTOVER_SERVICE`, `CUTOVER_REVISION` and `CUTOVER_STABLE` in its environment, and must exit 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The pause between measurements.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// The pause from the beginning of a bake to its first measurement; without it one `interval`, because there is no data
    /// of the new weight before, and for numbers of CloudWatch at least two periods and `settle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<Span>,
    /// How long one measurement may take; then the store counts as not answering.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many measurements with a number a bake needs; after so many no more are made. Without it one is enough, and they
    /// go on until the bake ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// How many failed measurements of a bake are forgiven: one more fails the candidate, at once.
    #[serde(default)]
    pub failure_limit: u32,
    /// How many inconclusive measurements of a bake are forgiven: one more makes it inconclusive. Without it any number,
    /// if only the last one is conclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inconclusive_limit: Option<u32>,
    /// How many measurements in a row may find no answering store before it is told as an outage.
    #[serde(default = "default_consecutive_error_limit")]
    pub consecutive_error_limit: u32,
    /// The least number that succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest number that succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// What holds for numbers that succeed, such as `result >= 0.95`. Alone, all others fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub success_condition: Option<Condition>,
    /// What holds for numbers that fail. Alone, all others succeed; with `success_condition`, what neither holds for is
    /// inconclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub failure_condition: Option<Condition>,
    /// What happens when a bake ends while the store does not answer. It never fails the candidate.
    #[serde(default)]
    pub on_outage: OnOutage,
}

/// What happens when a bake ends while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnOutage {
    /// The release is held, and goes on by itself when the store answers again.
    #[default]
    Hold,
    /// Goes on without this metric.
    Advance,
}

/// A number of Prometheus: exactly one of `query` and `preset`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PrometheusMetric {
    /// The URL below which `/api/v1/query` is, such as `http://prometheus.monitoring:9090`.
    pub address: String,
    /// A PromQL query that answers with one number. `{{service}}`, `{{revision}}`, `{{stable_revision}}`, `{{namespace}}`,
    /// `{{stable}}`, `{{candidate}}` and `{{window}}` are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Whose metrics to ask for the candidate's `measure`, instead of a `query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// What a `preset` measures.
    #[serde(default)]
    pub measure: Measure,
    /// The namespace of both workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The workload of stable, as the metrics name it; docs/metrics.md says of each preset what that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// The workload of the candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// The time that a rate or a percentile is of.
    #[serde(default = "default_window")]
    pub window: Span,
    /// Asks for this time back from now instead of the current number; `reduce` makes one number of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Span>,
    /// The pause between the numbers of a `range`.
    #[serde(default = "default_step")]
    pub step: Span,
    /// What is made of the numbers of a `range`.
    #[serde(default)]
    pub reduce: Reduce,
    /// A PromQL query for the time of the newest sample, in seconds since 1970, such as `max(timestamp(up{job="shop"}))`;
    /// with it the lag of a `query` is known. A `preset` has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled_at: Option<String>,
    /// Samples that are older are no data.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
    /// Header fields whose values are secrets, each with the name of the environment variable that holds it, such as
    /// `{Authorization: PROM_AUTH}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_headers: BTreeMap<String, String>,
}

/// Which workloads a query is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The namespace of both.
    pub namespace: Option<String>,
    /// The workload of stable.
    pub stable: Option<String>,
    /// The workload of the candidate.
    pub candidate: Option<String>,
    /// The time that a rate or a percentile is of.
    pub window: Span,
}

/// Whose metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Envoy's clusters, also behind the Gateway API.
    Envoy,
    /// Istio.
    Istio,
    /// Linkerd.
    Linkerd,
    /// ingress-nginx.
    IngressNginx,
    /// Traefik.
    Traefik,
}

impl Preset {
    /// Returns its name as the release file writes it.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Envoy => "envoy",
            Preset::Istio => "istio",
            Preset::Linkerd => "linkerd",
            Preset::IngressNginx => "ingress_nginx",
            Preset::Traefik => "traefik",
        }
    }

    /// Tells whether its metrics name a namespace.
    pub fn has_namespace(self) -> bool {
        self != Preset::Envoy
    }
}

/// What a preset measures of the candidate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// The share of requests without a server error, from 0 to 1.
    #[default]
    SuccessRate,
    /// The share of requests with a server error, from 0 to 1.
    ErrorRate,
    /// Requests per second.
    RequestRate,
    /// The median time to answer, in seconds.
    LatencyP50,
    /// The time within which 95 % are answered, in seconds.
    LatencyP95,
    /// The time within which 99 % are answered, in seconds.
    LatencyP99,
}

/// What is made of several numbers of one series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// Their mean.
    #[default]
    Mean,
    /// The last one.
    Last,
    /// The least.
    Min,
    /// The largest.
    Max,
}

/// A number in a JSON answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HttpMetric {
    /// The URL that is asked with GET. `{{service}}`, `{{revision}}`, `{{stable_revision}}`, and, in seconds since 1970,
    /// `{{now}}` and `{{since}}` (`window` before it) are replaced.
    pub url: String,
    /// Where the number stands in the answer, such as `series[0].pointlist[-1][1]`.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub value: JsonPath,
    /// Where the time of its newest sample stands, in seconds or milliseconds since 1970; with it the lag is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub sampled_at: Option<JsonPath>,
    /// The time between `{{since}}` and `{{now}}`.
    #[serde(default = "default_window")]
    pub window: Span,
    /// Samples that are older are no data.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
    /// Header fields as they are sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Header fields whose values are secrets, each with the name of the environment variable that holds it, such as
    /// `{DD-API-KEY: DD_API_KEY}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_headers: BTreeMap<String, String>,
}

/// Where another router counts the requests of both revisions. Their observed split is used, whatever was configured; an
/// answer that does not come holds the release and never fails it. Exactly one of `prometheus` and `cloudwatch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// The Prometheus that has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusCounters>,
    /// The CloudWatch that has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloudwatch: Option<CloudWatchCounters>,
    /// The pause between looks.
    #[serde(default = "default_counters_interval")]
    pub interval: Span,
    /// How long one look may take; then the store counts as not answering.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many looks in a row may find no answering store before it is told as an outage.
    #[serde(default = "default_consecutive_error_limit")]
    pub consecutive_error_limit: u32,
    /// What happens when a bake ends while the store does not answer.
    #[serde(default)]
    pub on_outage: OnOutage,
}

/// Counters of Prometheus: exactly one of `preset` and `queries`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PrometheusCounters {
    /// The URL below which `/api/v1/query` is.
    pub address: String,
    /// Whose metrics to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// The namespace of both workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The workload of stable, as the metrics name it; docs/metrics.md says of each preset what that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// The workload of the candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// Your own queries, instead of a `preset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<CounterQueries>,
    /// Samples that are older are no data.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
    /// Header fields whose values are secrets, each with the name of the environment variable that holds it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_headers: BTreeMap<String, String>,
}

/// Counters as they are, never rates: each a PromQL query whose series are told apart by the labels that it keeps, such as
/// `sum by (instance) (http_requests_total{app="shop"})`. So the restart of one instance is not taken for another's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CounterQueries {
    /// Stable's requests.
    pub stable_requests: String,
    /// Those of them that failed.
    pub stable_errors: String,
    /// The candidate's requests.
    pub candidate_requests: String,
    /// Those of them that failed.
    pub candidate_errors: String,
}

const fn default_interval() -> Span {
    Span::from_secs(30)
}

const fn default_counters_interval() -> Span {
    Span::from_secs(15)
}

const fn default_timeout() -> Span {
    Span::from_secs(10)
}

const fn default_consecutive_error_limit() -> u32 {
    4
}

const fn default_step() -> Span {
    Span::from_secs(15)
}

const fn default_window() -> Span {
    Span::from_secs(60)
}

const fn default_max_age() -> Span {
    Span::from_secs(300)
}

impl Metric {
    /// Returns the pause before the first measurement of a bake.
    pub fn first_after(&self) -> Span {
        let finals = self.cloudwatch.as_ref().and_then(CloudWatchMetric::first_final);
        self.initial_delay.unwrap_or(self.interval.max(finals.unwrap_or_default()))
    }

    /// Tells whether a CloudWatch's alarms are asked, which know by themselves what is good.
    pub fn is_alarms(&self) -> bool {
        self.cloudwatch.as_ref().is_some_and(|asked| !asked.alarms.is_empty())
    }

    /// Returns the names of the environment variables that hold its secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let prometheus = self.prometheus.iter().flat_map(|prometheus| prometheus.secret_headers.values());
        let http = self.http.iter().flat_map(|http| http.secret_headers.values());
        prometheus.chain(http).map(String::as_str)
    }
}

impl PrometheusMetric {
    /// Returns which workloads it is about.
    pub fn selection(&self) -> Selection {
        let (namespace, stable, candidate) =
            (self.namespace.clone(), self.stable.clone(), self.candidate.clone());
        Selection { namespace, stable, candidate, window: self.window }
    }
}

impl PrometheusCounters {
    /// Returns which workloads it is about.
    pub fn selection(&self) -> Selection {
        let (namespace, stable, candidate) =
            (self.namespace.clone(), self.stable.clone(), self.candidate.clone());
        Selection { namespace, stable, candidate, window: default_window() }
    }
}

impl Counters {
    /// Returns the names of the environment variables that hold its secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.prometheus.iter().flat_map(|prometheus| prometheus.secret_headers.values()).map(String::as_str)
    }
}

pub(super) fn mistakes(file: &ReleaseFile) -> Vec<Mistake> {
    let mut found = Vec::new();
    let metrics = &file.guard.metrics;
    for (i, metric) in metrics.iter().enumerate() {
        let mut say = sayer(&mut found, format!("guard.metrics[{i}]"));
        metric_mistakes(metric, &mut say);
        if metrics[..i].iter().any(|other| other.name == metric.name) {
            say(".name", format!("the name `{}` stands here twice", metric.name), "give each its own name");
        }
        let Some(bake) = shortest_bake(file) else { continue };
        let finals = metric.cloudwatch.as_ref().and_then(CloudWatchMetric::first_final);
        if let Some(finals) = finals.filter(|finals| *finals > bake) {
            say(
                ".cloudwatch",
                format!(
                    "its first final number of a bake comes after {finals}, the shortest bake of this release is {bake}"
                ),
                "give a longer bake, or a shorter `period` or `settle`",
            );
        }
        let last = u64::from(metric.count.unwrap_or(1)).saturating_sub(1);
        let needs = metric.first_after().ms().saturating_add(metric.interval.ms().saturating_mul(last));
        if metric.count.is_some() && needs > bake.ms() {
            let needs = Span::from_ms(needs);
            say(
                ".count",
                format!("so many measurements take {needs}, the shortest bake of this release {bake}"),
                "give fewer, a shorter `interval` or `initial_delay`, or a longer bake",
            );
        }
    }
    if let Some(counters) = &file.guard.counters {
        let mut say = sayer(&mut found, "guard.counters".into());
        counters_mistakes(counters, &mut say);
    }
    if (!metrics.is_empty() || file.guard.counters.is_some()) && shortest_bake(file).is_none() {
        let mut say = sayer(&mut found, "guard".into());
        say(
            "",
            "metrics and counters are asked while the candidate bakes, and this release has no bake".into(),
            "give it a while, such as `bake: 5m`",
        );
    }
    found
}

/// The shortest bake of a release; none where it has none.
fn shortest_bake(file: &ReleaseFile) -> Option<Span> {
    let between = match &file.strategy {
        Strategy::BlueGreen(_) => None,
        Strategy::Canary(canary) => Some(match canary.bake {
            // It does not end before everything was asked.
            CanaryBake::Auto => canary.at_most,
            CanaryBake::For(bake) => bake,
        })
        .filter(|_| canary.weights.len() > 1),
        Strategy::Rolling(rolling) => Some(rolling.bake),
    };
    between.into_iter().chain([file.bake]).filter(|bake| *bake > Span::default()).min()
}

fn sayer(found: &mut Vec<Mistake>, root: String) -> impl FnMut(&str, String, &str) {
    move |key, what, hint| {
        found.push(Mistake { path: format!("{root}{key}"), what, hint: hint.into() });
    }
}

fn metric_mistakes(metric: &Metric, say: &mut impl FnMut(&str, String, &str)) {
    if metric.name.trim().is_empty() || metric.name.contains(char::is_control) {
        say(".name", "the name is empty, or not in one line".into(), "such as `name: error rate`");
    }
    let kinds = [
        metric.prometheus.is_some(),
        metric.cloudwatch.is_some(),
        metric.http.is_some(),
        metric.run.is_some(),
    ];
    if kinds.iter().filter(|kind| **kind).count() != 1 {
        say(
            "",
            "a metric is exactly one of `prometheus`, `cloudwatch`, `http` and `run`".into(),
            "such as `prometheus: {address: \"http://prometheus:9090\", preset: istio, …}`",
        );
    }
    let range = metric.min.is_some() || metric.max.is_some();
    let conditions = metric.success_condition.is_some() || metric.failure_condition.is_some();
    if metric.is_alarms() {
        if range || conditions {
            let what = "an alarm is good or bad by itself, and no number";
            say("", what.into(), "remove `min`, `max` and the conditions");
        }
    } else if range == conditions {
        let what = if range {
            "`min` and `max` stand beside conditions, which say the same in another way"
        } else {
            "nothing says which numbers succeed"
        };
        say("", what.into(), "give `min` or `max`, or else `success_condition` or `failure_condition`");
    }
    if let (Some(min), Some(max)) = (metric.min, metric.max)
        && min > max
    {
        say(".min", format!("no number is at least {min} and at most {max}"), "exchange them");
    }
    if metric.count == Some(0) {
        say(".count", "a metric without a measurement would pass on no data".into(), "give at least 1");
    }
    if metric.interval == Span::default() || metric.timeout == Span::default() {
        say("", "interval and timeout need some time".into(), "such as `interval: 30s, timeout: 10s`");
    }
    if metric.run.as_deref().is_some_and(|run| run.trim().is_empty() || run.contains('\0')) {
        say(
            ".run",
            "the command is empty, or has a NUL character".into(),
            "give a command that prints a number",
        );
    }
    if let Some(prometheus) = &metric.prometheus {
        prometheus_mistakes(prometheus, say);
    }
    if let Some(asked) = &metric.cloudwatch {
        cloudwatch::check::metric(asked, say);
    }
    if let Some(http) = &metric.http {
        url_mistakes(".http.url", &http.url, say);
        placeholder_mistakes(".http.url", &http.url, &URL_WORDS, say);
        header_mistakes(".http.secret_headers", &http.secret_headers, say);
        for (name, value) in &http.headers {
            if !is_token(name) || value.contains(char::is_control) {
                say(".http.headers", format!("`{name}` cannot be sent as a header field"), HEADER_HINT);
            }
        }
    }
}

const HEADER_HINT: &str =
    "give its name, and the name of an environment variable, such as `{DD-API-KEY: DD_API_KEY}`";
const QUERY_WORDS: [&str; 7] =
    ["service", "revision", "stable_revision", "namespace", "stable", "candidate", "window"];
const URL_WORDS: [&str; 5] = ["service", "revision", "stable_revision", "now", "since"];

fn prometheus_mistakes(prometheus: &PrometheusMetric, say: &mut impl FnMut(&str, String, &str)) {
    let PrometheusMetric { address, query, preset, range, step, .. } = prometheus;
    let selection = &prometheus.selection();
    url_mistakes(".prometheus.address", address, say);
    header_mistakes(".prometheus.secret_headers", &prometheus.secret_headers, say);
    match (query, preset) {
        (Some(query), None) => query_mistakes(".prometheus.query", query, selection, say),
        (None, Some(preset)) => {
            selection_mistakes(".prometheus", *preset, selection, false, say);
            if prometheus.sampled_at.is_some() {
                say(
                    ".prometheus.sampled_at",
                    "a preset knows by itself how old its samples are".into(),
                    "remove it",
                );
            }
        }
        _ => say(
            ".prometheus",
            "it is exactly one of `query` and `preset`".into(),
            "such as `query: sum(rate(errors_total[1m]))` or `preset: istio`",
        ),
    }
    if let Some(sampled_at) = &prometheus.sampled_at {
        query_mistakes(".prometheus.sampled_at", sampled_at, selection, say);
    }
    if *step == Span::default() || range.is_some_and(|range| range < *step || range.ms() / step.ms() > 10_000)
    {
        say(
            ".prometheus.step",
            format!("a step of {step} does not divide the range into 1 to 10000 parts"),
            "such as `range: 5m, step: 15s`",
        );
    }
    if selection.window == Span::default() {
        say(".prometheus.window", "a rate needs some time".into(), "such as `window: 1m`");
    }
}

fn counters_mistakes(counters: &Counters, say: &mut impl FnMut(&str, String, &str)) {
    if counters.interval == Span::default() || counters.timeout == Span::default() {
        say("", "interval and timeout need some time".into(), "such as `interval: 15s, timeout: 10s`");
    }
    match (&counters.prometheus, &counters.cloudwatch) {
        (Some(prometheus), None) => prometheus_counters_mistakes(prometheus, say),
        (None, Some(asked)) => cloudwatch::check::counters(asked, say),
        _ => say(
            "",
            "counters are exactly one of `prometheus` and `cloudwatch`".into(),
            "such as `prometheus: {address: \"http://prometheus:9090\", preset: istio, …}`",
        ),
    }
}

fn prometheus_counters_mistakes(prometheus: &PrometheusCounters, say: &mut impl FnMut(&str, String, &str)) {
    let selection = &prometheus.selection();
    url_mistakes(".prometheus.address", &prometheus.address, say);
    header_mistakes(".prometheus.secret_headers", &prometheus.secret_headers, say);
    match (&prometheus.queries, prometheus.preset) {
        (None, Some(preset)) => selection_mistakes(".prometheus", preset, selection, true, say),
        (Some(queries), None) => {
            let all = [
                ("stable_requests", &queries.stable_requests),
                ("stable_errors", &queries.stable_errors),
                ("candidate_requests", &queries.candidate_requests),
                ("candidate_errors", &queries.candidate_errors),
            ];
            for (key, query) in all {
                let key = format!(".prometheus.queries.{key}");
                query_mistakes(&key, query, selection, say);
                if ["rate(", "increase(", "delta("].iter().any(|rate| query.contains(rate)) {
                    say(
                        &key,
                        "a rate is no counter: what happened between two looks cannot be told from it".into(),
                        "give the counter itself, such as `sum by (instance) (http_requests_total)`",
                    );
                }
            }
        }
        _ => say(
            ".prometheus",
            "it is exactly one of `preset` and `queries`".into(),
            "such as `preset: istio, namespace: shop, stable: shop, candidate: shop-canary`",
        ),
    }
}

fn selection_mistakes(
    key: &str,
    preset: Preset,
    selection: &Selection,
    both: bool,
    say: &mut impl FnMut(&str, String, &str),
) {
    let Selection { namespace, stable, candidate, .. } = selection;
    let fields = [
        ("namespace", namespace, preset.has_namespace()),
        // What ingress-nginx counts of a candidate, it counts at stable's ingress.
        ("stable", stable, both || preset == Preset::IngressNginx),
        ("candidate", candidate, true),
    ];
    for (name, value, needed) in fields {
        match value {
            None if needed => say(
                key,
                format!("the preset `{}` needs `{name}`", preset.name()),
                "docs/metrics.md says what it is called there",
            ),
            Some(value) if value.is_empty() || value.contains(char::is_control) => {
                say(
                    &format!("{key}.{name}"),
                    "this names nothing".into(),
                    "give the name as the metrics have it",
                );
            }
            _ => {}
        }
    }
    if both && stable == candidate {
        say(key, "stable and candidate are the same".into(), "name the two workloads that are compared");
    }
}

fn query_mistakes(key: &str, query: &str, selection: &Selection, say: &mut impl FnMut(&str, String, &str)) {
    if query.trim().is_empty() {
        say(key, "the query is empty".into(), "give a PromQL query that answers with one number");
    }
    placeholder_mistakes(key, query, &QUERY_WORDS, say);
    let fields = [
        ("namespace", &selection.namespace),
        ("stable", &selection.stable),
        ("candidate", &selection.candidate),
    ];
    for (name, value) in fields {
        if value.is_none() && query.contains(&format!("{{{{{name}}}}}")) {
            say(
                key,
                format!("`{{{{{name}}}}}` stands for a key that is not given"),
                "give it beside the query",
            );
        }
    }
}

pub(super) fn placeholder_mistakes(
    key: &str,
    text: &str,
    known: &[&str],
    say: &mut impl FnMut(&str, String, &str),
) {
    // The first part is what stands before any placeholder.
    for part in text.split("{{").skip(1) {
        let word = part.split_once("}}").map(|(word, _)| word);
        if !word.is_some_and(|word| known.contains(&word)) {
            let shown: String = part.chars().take(20).collect();
            let list: Vec<_> = known.iter().map(|word| format!("`{{{{{word}}}}}`")).collect();
            let hint = format!("expected one of: {}", list.join(", "));
            say(key, format!("`{{{{{shown}` is no placeholder"), &hint);
        }
    }
}

/// Tells whether a text is a URL that can be asked; one with a user in it is none.
pub(super) fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty() && !host.contains('@')) && !url.contains(char::is_whitespace)
}

fn url_mistakes(key: &str, url: &str, say: &mut impl FnMut(&str, String, &str)) {
    if !is_url(url) {
        say(
            key,
            "this is not a URL that can be asked".into(),
            "such as `http://prometheus:9090`; who asks is said by `secret_headers`",
        );
    }
}

fn header_mistakes(key: &str, headers: &BTreeMap<String, String>, say: &mut impl FnMut(&str, String, &str)) {
    for (name, variable) in headers {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !is_token(name) || variable.is_empty() || !variable.chars().all(word) {
            say(key, format!("`{name}` cannot be sent as a header field from `{variable}`"), HEADER_HINT);
        }
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
