//! CloudWatch as a source of truth: one number, the state of alarms, and counters of two target groups.

pub(super) mod check;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metrics::Measure;
use crate::units::Span;

/// A number of CloudWatch, or the state of its alarms: exactly one of `metric`, `expression`, `preset` and `alarms`.
///
/// Only periods that are final are read: those that ended `settle` ago, and that began after the bake did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CloudWatchMetric {
    /// The region, such as `eu-central-1`; without it that of the environment or the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The profile of the shared configuration whose credentials ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Another URL than the region's own, such as that of a VPC endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// One metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<CloudWatchSeries>,
    /// Metric math, or a query of Metrics Insights, that gives one number for each period, such as
    /// `100 * errors / requests`. `{{service}}`, `{{revision}}` and `{{stable_revision}}` are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// What the names in `expression` stand for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, CloudWatchSeries>,
    /// Whose metrics to ask for the candidate's `measure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<CloudWatchPreset>,
    /// What a `preset` measures.
    #[serde(default)]
    pub measure: Measure,
    /// The load balancer of a `preset`, as its ARN or what follows `loadbalancer/` in it: `app/shop/50dc6c495c0c9188`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<String>,
    /// The candidate's target group in a `preset`, as its ARN or its end: `targetgroup/shop-green/73e2d6bc24d8a067`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// The names of alarms, metric or composite. One that goes into ALARM after the release began fails the candidate;
    /// INSUFFICIENT_DATA is inconclusive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
    /// The length of a period: 1, 5, 10, 20 or 30 seconds for metrics of high resolution, else minutes.
    #[serde(default = "default_period")]
    pub period: Span,
    /// How long after its end a period is final: data that comes later is not waited for.
    #[serde(default = "default_settle")]
    pub settle: Span,
    /// Periods whose end is longer ago are no data.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
}

/// One metric of CloudWatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CloudWatchSeries {
    /// Its namespace, such as `AWS/ApplicationELB`.
    pub namespace: String,
    /// Its name, such as `TargetResponseTime`.
    pub name: String,
    /// All of its dimensions; with others it is another metric. `{{service}}`, `{{revision}}` and `{{stable_revision}}`
    /// are replaced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, String>,
    /// The statistic: `Average`, `Sum`, `Minimum`, `Maximum`, `SampleCount`, or a percentile such as `p99`. Counters are
    /// always sums.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat: Option<String>,
}

impl CloudWatchSeries {
    /// Returns the statistic; `Average` where none is given, as in CloudWatch's own pages.
    pub fn stat(&self) -> &str {
        self.stat.as_deref().unwrap_or("Average")
    }
}

/// Whose metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CloudWatchPreset {
    /// Target groups of an Application Load Balancer.
    Alb,
}

/// Counters of CloudWatch for both revisions: exactly one of `preset` and `queries`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CloudWatchCounters {
    /// The region; without it that of the environment or the profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The profile of the shared configuration whose credentials ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Another URL than the region's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Whose metrics to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<CloudWatchPreset>,
    /// The load balancer of a `preset`, as its ARN or what follows `loadbalancer/` in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<String>,
    /// Stable's target group in a `preset`, as its ARN or its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// The candidate's target group in a `preset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// Your own metrics, instead of a `preset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<CloudWatchQueries>,
    /// The length of a period.
    #[serde(default = "default_period")]
    pub period: Span,
    /// How long after its end a period is final and counted, once.
    #[serde(default = "default_settle")]
    pub settle: Span,
    /// Where the newest period with data ended longer ago, there is no data.
    #[serde(default = "default_max_age")]
    pub max_age: Span,
}

/// Metrics whose sums are counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CloudWatchQueries {
    /// Stable's requests.
    pub stable_requests: CloudWatchSeries,
    /// Those of them that failed.
    pub stable_errors: CloudWatchSeries,
    /// The candidate's requests.
    pub candidate_requests: CloudWatchSeries,
    /// Those of them that failed.
    pub candidate_errors: CloudWatchSeries,
}

const fn default_period() -> Span {
    Span::from_secs(60)
}

const fn default_settle() -> Span {
    Span::from_secs(120)
}

const fn default_max_age() -> Span {
    Span::from_secs(600)
}

impl CloudWatchMetric {
    /// Returns how long after the beginning of a bake the first final period can lie wholly in it; none for alarms, which
    /// are asked for their state of now.
    pub fn first_final(&self) -> Option<Span> {
        let periods = self.period.ms().saturating_mul(2);
        self.alarms.is_empty().then(|| Span::from_ms(periods.saturating_add(self.settle.ms())))
    }
}

/// Returns the name in CloudWatch's dimensions of a load balancer or target group that may be given as an ARN.
pub fn end_of_arn(name: &str) -> &str {
    let Some(arn) = name.strip_prefix("arn:") else { return name };
    let end = arn.rsplit(':').next().unwrap_or_default();
    end.strip_prefix("loadbalancer/").unwrap_or(end)
}

/// The environment variables that say who asks AWS, and where. Where `cutover deploy` has them, they go along with the
/// release as secrets do.
pub const AWS_VARIABLES: [&str; 13] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_CLOUDWATCH",
];
