//! What must hold between the keys of CloudWatch.

use super::{CloudWatchCounters, CloudWatchMetric, CloudWatchPreset, CloudWatchSeries};
use crate::file::metrics::{is_url, placeholder_mistakes};
use crate::units::Span;

const WORDS: [&str; 3] = ["service", "revision", "stable_revision"];
const ALB: &str = "such as `preset: alb, load_balancer: app/shop/50dc6c495c0c9188, candidate: targetgroup/shop-green/73e2d6bc24d8a067`";

/// Says what is wrong with a metric.
pub(in crate::file) fn metric(asked: &CloudWatchMetric, say: &mut impl FnMut(&str, String, &str)) {
    place(&asked.region, &asked.profile, &asked.endpoint, say);
    periods(asked.period, asked.settle, asked.max_age, say);
    let kinds = [
        asked.metric.is_some(),
        asked.expression.is_some(),
        asked.preset.is_some(),
        !asked.alarms.is_empty(),
    ];
    if kinds.iter().filter(|kind| **kind).count() != 1 {
        say(
            ".cloudwatch",
            "it is exactly one of `metric`, `expression`, `preset` and `alarms`".into(),
            "such as `metric: {namespace: AWS/ECS, name: CPUUtilization, dimensions: {ServiceName: shop}}`",
        );
    }
    if let Some(one) = &asked.metric {
        series(".cloudwatch.metric", one, say);
    }
    if let Some(expression) = &asked.expression {
        if expression.trim().is_empty() {
            say(
                ".cloudwatch.expression",
                "the expression is empty".into(),
                "such as `100 * errors / requests`",
            );
        }
        placeholder_mistakes(".cloudwatch.expression", expression, &WORDS, say);
    } else if !asked.metrics.is_empty() {
        let what = "`metrics` are what an `expression` is made of, and there is none";
        say(".cloudwatch.metrics", what.into(), "give `expression`, or one `metric`");
    }
    for (name, one) in &asked.metrics {
        let key = format!(".cloudwatch.metrics.{name}");
        if !is_id(name) {
            let hint = "a small letter first, then letters, digits and `_`";
            say(&key, format!("`{name}` cannot be a name in an expression"), hint);
        }
        series(&key, one, say);
    }
    if asked.preset == Some(CloudWatchPreset::Alb) {
        selection(&[("load_balancer", &asked.load_balancer), ("candidate", &asked.candidate)], say);
    }
    for alarm in &asked.alarms {
        if alarm.trim().is_empty() || alarm.starts_with("arn:") {
            say(".cloudwatch.alarms", format!("`{alarm}` is no name of an alarm"), "its name, not its ARN");
        }
    }
    // One answer of CloudWatch tells of so many.
    if asked.alarms.len() > 100 {
        say(".cloudwatch.alarms", "these are more than 100 alarms".into(), "name a composite alarm of them");
    }
}

/// Says what is wrong with counters.
pub(in crate::file) fn counters(asked: &CloudWatchCounters, say: &mut impl FnMut(&str, String, &str)) {
    place(&asked.region, &asked.profile, &asked.endpoint, say);
    periods(asked.period, asked.settle, asked.max_age, say);
    match (&asked.queries, asked.preset) {
        (None, Some(CloudWatchPreset::Alb)) => {
            let CloudWatchCounters { load_balancer, stable, candidate, .. } = asked;
            selection(&[("load_balancer", load_balancer), ("stable", stable), ("candidate", candidate)], say);
            if stable.is_some() && stable == candidate {
                let what = "stable and candidate are the same";
                say(".cloudwatch", what.into(), "name the two target groups that are compared");
            }
        }
        (Some(queries), None) => {
            let all = [
                ("stable_requests", &queries.stable_requests),
                ("stable_errors", &queries.stable_errors),
                ("candidate_requests", &queries.candidate_requests),
                ("candidate_errors", &queries.candidate_errors),
            ];
            for (key, one) in all {
                let key = format!(".cloudwatch.queries.{key}");
                series(&key, one, say);
                if one.stat.as_deref().is_some_and(|stat| !["Sum", "SampleCount"].contains(&stat)) {
                    let what = format!("`{}` of a counter is no count", one.stat());
                    say(&format!("{key}.stat"), what, "leave it out: it is the sum");
                }
            }
        }
        _ => say(".cloudwatch", "it is exactly one of `preset` and `queries`".into(), ALB),
    }
}

fn place(
    region: &Option<String>,
    profile: &Option<String>,
    endpoint: &Option<String>,
    say: &mut impl FnMut(&str, String, &str),
) {
    let word = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if region.as_deref().is_some_and(|region| !word(region)) {
        say(".cloudwatch.region", "this is no region".into(), "such as `eu-central-1`");
    }
    if profile.as_deref().is_some_and(|profile| profile.trim().is_empty()) {
        say(".cloudwatch.profile", "the profile has no name".into(), "such as `production`");
    }
    if endpoint.as_deref().is_some_and(|endpoint| !is_url(endpoint)) {
        let hint = "such as `https://monitoring.eu-central-1.amazonaws.com`; who asks is said by AWS' own configuration";
        say(".cloudwatch.endpoint", "this is not a URL that can be asked".into(), hint);
    }
}

fn periods(period: Span, settle: Span, max_age: Span, say: &mut impl FnMut(&str, String, &str)) {
    let minute = Span::from_secs(60).ms();
    let short = [1_000, 5_000, 10_000, 20_000, 30_000].contains(&period.ms());
    if !short && (period.ms() == 0 || !period.ms().is_multiple_of(minute)) {
        let what = format!("CloudWatch has no periods of {period}");
        say(".cloudwatch.period", what, "1, 5, 10, 20 or 30 seconds, or whole minutes");
    }
    if max_age.ms() < settle.ms().saturating_add(period.ms()) {
        let what =
            format!("the newest final period is up to {} old", Span::from_ms(settle.ms() + period.ms()));
        say(".cloudwatch.max_age", what, "give at least `settle` and `period` together");
    }
}

fn series(key: &str, one: &CloudWatchSeries, say: &mut impl FnMut(&str, String, &str)) {
    for (name, value) in [("namespace", &one.namespace), ("name", &one.name)] {
        if value.trim().is_empty() || value.contains(char::is_control) {
            say(&format!("{key}.{name}"), "this names nothing".into(), "write it as CloudWatch shows it");
        }
    }
    for (name, value) in &one.dimensions {
        let key = format!("{key}.dimensions.{name}");
        if value.trim().is_empty() {
            say(&key, "a dimension without a value is another metric".into(), "give its value, or remove it");
        }
        placeholder_mistakes(&key, value, &WORDS, say);
    }
}

fn selection(fields: &[(&str, &Option<String>)], say: &mut impl FnMut(&str, String, &str)) {
    for (name, value) in fields {
        let Some(value) = value else {
            say(".cloudwatch", format!("the preset `alb` needs `{name}`"), ALB);
            continue;
        };
        // An Application Load Balancer's; a network's counts no requests.
        let start = if *name == "load_balancer" { "app/" } else { "targetgroup/" };
        if !super::end_of_arn(value).starts_with(start) {
            let what = format!("`{value}` is not what CloudWatch calls it");
            say(
                &format!(".cloudwatch.{name}"),
                what,
                &format!("its ARN, or the end of it from `{start}` on"),
            );
        }
    }
}

fn is_id(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
