//! From a release file's words to what `GetMetricData` is asked.

use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricStat};
use cutover_core::file::{CloudWatchSeries, end_of_arn};
use cutover_sources::Names;

/// Where an Application Load Balancer counts.
const ALB: &str = "AWS/ApplicationELB";

/// Asks for one metric by `stat`.
pub(crate) fn metric(
    id: &str,
    series: &CloudWatchSeries,
    stat: &str,
    period_ms: u64,
    names: &Names,
) -> MetricDataQuery {
    let dimensions = series.dimensions.iter().map(|(name, value)| (name.clone(), names.plain(value)));
    let dimensions = dimensions.map(|(name, value)| Dimension::builder().name(name).value(value).build());
    let metric = Metric::builder()
        .namespace(&series.namespace)
        .metric_name(&series.name)
        .set_dimensions(Some(dimensions.collect()));
    let stat = MetricStat::builder().metric(metric.build()).period(seconds(period_ms)).stat(stat).build();
    MetricDataQuery::builder().id(id).metric_stat(stat).return_data(true).build()
}

/// Asks for what is computed of others.
pub(crate) fn expression(id: &str, expression: String, period_ms: u64) -> MetricDataQuery {
    let query = MetricDataQuery::builder().id(id).expression(expression).period(seconds(period_ms));
    query.return_data(true).build()
}

/// Asks for something only to compute with it.
pub(crate) fn hidden(mut query: MetricDataQuery) -> MetricDataQuery {
    query.return_data = Some(false);
    query
}

fn seconds(ms: u64) -> i32 {
    i32::try_from(ms / 1_000).unwrap_or(i32::MAX)
}

/// A metric of one target group.
pub(crate) fn of_target_group(name: &str, load_balancer: &str, target_group: &str) -> CloudWatchSeries {
    let dimensions = [("LoadBalancer", load_balancer), ("TargetGroup", target_group)];
    CloudWatchSeries {
        namespace: ALB.into(),
        name: name.into(),
        dimensions: dimensions.map(|(name, value)| (name.to_string(), end_of_arn(value).to_string())).into(),
        stat: None,
    }
}

/// What of a target group's requests failed: those that it answered with a server error, and those for which no connection
/// to a target came about, which the load balancer answers in its place and does not count as the target's.
pub(crate) const FAILED: [&str; 2] = ["HTTPCode_Target_5XX_Count", "TargetConnectionErrorCount"];

/// All requests for which a target was chosen. `RequestCountPerTarget` is a mean, and no count.
pub(crate) const REQUESTS: &str = "RequestCount";
