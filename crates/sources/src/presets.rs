//! PromQL for what routers and meshes count by themselves.
//!
//! Each preset knows the counter of requests, what tells those that failed, and the histogram of latencies. What a workload
//! is called differs; docs/metrics.md has a table.

use cutover_core::file::{Measure, Preset, Selection};
use cutover_judge::Arm;

use crate::names::{promql_span, quoted};

/// The counter of an arm's requests, as a selector.
pub fn requests(preset: Preset, selection: &Selection, arm: Arm) -> String {
    selector(counter(preset), &matchers(preset, selection, arm), "")
}

/// The counter of those of them that failed.
pub fn errors(preset: Preset, selection: &Selection, arm: Arm) -> String {
    selector(counter(preset), &matchers(preset, selection, arm), failed(preset))
}

/// The query for what is measured of the candidate; no answer, or no number, without requests.
pub fn measure(preset: Preset, selection: &Selection, measure: Measure) -> String {
    let window = promql_span(selection.window);
    let (all, failed) =
        (requests(preset, selection, Arm::Candidate), errors(preset, selection, Arm::Candidate));
    // A failure that never happened has no series; then none failed.
    let share = format!("(sum(rate({failed}[{window}])) or vector(0)) / sum(rate({all}[{window}]))");
    let quantile = |quantile: f64| {
        let (histogram, per_second) = latency(preset);
        let buckets = selector(histogram, &matchers(preset, selection, Arm::Candidate), "");
        format!("histogram_quantile({quantile}, sum by (le) (rate({buckets}[{window}]))) / {per_second}")
    };
    match measure {
        Measure::SuccessRate => format!("1 - {share}"),
        Measure::ErrorRate => share,
        Measure::RequestRate => format!("sum(rate({all}[{window}]))"),
        Measure::LatencyP50 => quantile(0.5),
        Measure::LatencyP95 => quantile(0.95),
        Measure::LatencyP99 => quantile(0.99),
    }
}

/// The query for when the newest sample of an arm was taken.
pub fn sampled_at(preset: Preset, selection: &Selection, arm: Arm) -> String {
    format!("max(timestamp({}))", requests(preset, selection, arm))
}

/// One series for each process that counts: only so a restart can be told from traffic.
pub(crate) fn by_process(selector: &str) -> String {
    format!("sum by (instance, pod) ({selector})")
}

fn counter(preset: Preset) -> &'static str {
    match preset {
        Preset::Envoy => "envoy_cluster_upstream_rq_xx",
        Preset::Istio => "istio_requests_total",
        Preset::Linkerd => "response_total",
        Preset::IngressNginx => "nginx_ingress_controller_requests",
        Preset::Traefik => "traefik_service_requests_total",
    }
}

/// The histogram of latencies, and how many of its units are a second.
fn latency(preset: Preset) -> (&'static str, u32) {
    match preset {
        Preset::Envoy => ("envoy_cluster_upstream_rq_time_bucket", 1_000),
        Preset::Istio => ("istio_request_duration_milliseconds_bucket", 1_000),
        Preset::Linkerd => ("response_latency_ms_bucket", 1_000),
        Preset::IngressNginx => ("nginx_ingress_controller_request_duration_seconds_bucket", 1),
        Preset::Traefik => ("traefik_service_request_duration_seconds_bucket", 1),
    }
}

fn failed(preset: Preset) -> &'static str {
    match preset {
        Preset::Envoy => "envoy_response_code_class=\"5\"",
        // A response code of 0 is a connection that broke before there was an answer.
        Preset::Istio => "response_code=~\"5..|0\"",
        Preset::Linkerd => "classification=\"failure\"",
        Preset::IngressNginx => "status=~\"5..\"",
        Preset::Traefik => "code=~\"5..\"",
    }
}

fn matchers(preset: Preset, selection: &Selection, arm: Arm) -> Vec<String> {
    let some = |name: &Option<String>| name.clone().unwrap_or_default();
    let (namespace, candidate) = (some(&selection.namespace), some(&selection.candidate));
    let workload = match arm {
        Arm::Stable => some(&selection.stable),
        Arm::Candidate => candidate.clone(),
    };
    let is = |label: &str, value: &str| format!("{label}=\"{}\"", quoted(value));
    let like = |label: &str, sign: &str, pattern: &str| format!("{label}{sign}\"{}\"", quoted(pattern));
    match preset {
        // Whoever made the cluster named it in its own way, so the name is a pattern.
        Preset::Envoy => vec![like("envoy_cluster_name", "=~", &workload)],
        // What the side of the service reports, once; the callers' side counts the same requests again.
        Preset::Istio => vec![
            is("reporter", "destination"),
            is("destination_workload_namespace", &namespace),
            is("destination_workload", &workload),
        ],
        Preset::Linkerd => {
            vec![is("namespace", &namespace), is("deployment", &workload), is("direction", "inbound")]
        }
        // All requests are counted at the main ingress; those that its canary took name the canary's backend.
        Preset::IngressNginx => {
            let sign = if arm == Arm::Candidate { "=~" } else { "!~" };
            let backend = format!("{}-{}-.+", literal(&namespace), literal(&candidate));
            vec![
                is("namespace", &namespace),
                is("ingress", &some(&selection.stable)),
                like("canary", sign, &backend),
            ]
        }
        Preset::Traefik if workload.contains('@') => vec![is("service", &workload)],
        // NAMESPACE-SERVICE-PORT@PROVIDER; no dash in the port, so that `shop` is not also `shop-canary`.
        Preset::Traefik => {
            let pattern = format!("{}-{}-[0-9a-zA-Z]+@.+", literal(&namespace), literal(&workload));
            vec![like("service", "=~", &pattern)]
        }
    }
}

fn selector(metric: &str, matchers: &[String], more: &str) -> String {
    let all: Vec<&str> =
        matchers.iter().map(String::as_str).chain([more]).filter(|one| !one.is_empty()).collect();
    format!("{metric}{{{}}}", all.join(","))
}

/// Escapes a text for a regular expression that shall match it alone.
fn literal(text: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
    text.chars()
        .flat_map(|letter| [(!plain(letter)).then_some('\\'), Some(letter)].into_iter().flatten())
        .collect()
}

#[cfg(test)]
mod tests {
    use cutover_core::Span;

    use super::*;

    fn selection() -> Selection {
        Selection {
            namespace: Some("web".into()),
            stable: Some("shop".into()),
            candidate: Some("shop.canary".into()),
            window: Span::from_secs(60),
        }
    }

    #[test]
    fn names_are_quoted_and_escaped_where_they_are_patterns() {
        assert_eq!(
            requests(Preset::Istio, &selection(), Arm::Stable),
            "istio_requests_total{reporter=\"destination\",destination_workload_namespace=\"web\",destination_workload=\"shop\"}"
        );
        assert_eq!(
            errors(Preset::Traefik, &selection(), Arm::Candidate),
            "traefik_service_requests_total{service=~\"web-shop\\\\.canary-[0-9a-zA-Z]+@.+\",code=~\"5..\"}"
        );
        let named = Selection { candidate: Some("a\"b@file".into()), ..selection() };
        assert_eq!(
            requests(Preset::Traefik, &named, Arm::Candidate),
            "traefik_service_requests_total{service=\"a\\\"b@file\"}"
        );
    }
}
