//! What was observed as text for Prometheus (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::count::{Arm, Counts};
use crate::protocol::{Observation, ServiceObservation};

/// Upper bounds of latency are 2^k microseconds for these k: 256 µs to 67 s, edges of the counted buckets, so that no
/// request is in the wrong one.
const EDGES: std::ops::RangeInclusive<u32> = 8..=26;

impl Observation {
    /// Returns the text of all metrics. Counters begin anew with each worker, which Prometheus expects of a restart.
    pub fn prometheus(&self) -> String {
        let mut page = Page::default();
        self.of_the_proxy(&mut page);
        for (name, service) in &self.services {
            of_a_service(&mut page, name, service);
        }
        page.text()
    }

    fn of_the_proxy(&self, page: &mut Page) {
        page.add("cutover_proxy_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.add("cutover_proxy_client_connections", &[], self.connections);
        page.add("cutover_proxy_events_unacknowledged", &[], self.events.len() as u64);
        page.add("cutover_proxy_damage", &[], self.damage.len() as u64);
        for (reason, count) in &self.unrouted {
            page.add("cutover_proxy_refused_total", &[("reason", reason)], *count);
        }
    }
}

fn of_a_service(page: &mut Page, name: &str, seen: &ServiceObservation) {
    let service = ("service", name);
    page.add("cutover_proxy_generation", &[service], seen.table.generation);
    page.add("cutover_proxy_waiting", &[service], u64::from(seen.waiting));
    page.add("cutover_proxy_traffic_mode", &[service, ("mode", seen.traffic.name())], 1);
    page.add("cutover_proxy_access_log_lines_lost_total", &[service], seen.log_lines_lost);
    certificates(page, name, seen);
    judge(page, name, seen);
    for (revision, weight_bp) in &seen.effective {
        let labels = [service, ("revision", revision)];
        page.add("cutover_proxy_weight_basis_points", &labels, u64::from(*weight_bp));
    }
    for (revision, held) in &seen.revisions {
        let labels = [service, ("revision", revision)];
        page.add("cutover_proxy_in_flight", &labels, held.in_flight);
        page.add("cutover_proxy_websockets", &labels, held.websockets);
        page.add("cutover_proxy_target_connections", &labels, held.connections);
        page.add("cutover_proxy_target_connections_idle", &labels, held.pooled);
    }
    for target in &seen.targets {
        let address = target.address.to_string();
        let labels = [
            service,
            ("revision", &*target.revision),
            ("instance", &*target.instance),
            ("address", &*address),
        ];
        page.add("cutover_proxy_target_up", &labels, u64::from(target.up));
        page.add("cutover_proxy_target_checks_total", &labels, target.asked);
    }
    // By release there would be a series more with each; a revision is what is compared.
    let mut arms: BTreeMap<(&str, Arm), Counts> = BTreeMap::new();
    for arm in &seen.arms {
        arms.entry((&arm.revision, arm.arm)).or_default().merge(&arm.counts);
    }
    for ((revision, arm), counts) in arms {
        of_an_arm(page, &[service, ("revision", revision), ("arm", arm.name())], &counts);
    }
}

/// Without the release's name, for it would leave a series behind; the server's metrics say what became of each.
fn judge(page: &mut Page, name: &str, seen: &ServiceObservation) {
    let Some(judge) = &seen.judge else { return };
    let service = ("service", name);
    let nats = format!("{:.3}", judge.wealth_millinats as f64 / 1_000.0);
    page.push("cutover_proxy_judge_wealth_nats", vec![("service".to_owned(), name.to_owned())], &nats);
    page.add("cutover_proxy_judge_verdict", &[service, ("verdict", &judge.verdict)], 1);
    for (arm, [requests, errors]) in ["stable", "candidate"].into_iter().zip(judge.scored) {
        page.add("cutover_proxy_judge_requests", &[service, ("arm", arm)], requests);
        page.add("cutover_proxy_judge_errors", &[service, ("arm", arm)], errors);
    }
}

/// One series for each host: several listeners show the same certificate.
fn certificates(page: &mut Page, name: &str, seen: &ServiceObservation) {
    let mut by_host: BTreeMap<&str, (Option<i64>, bool, u32)> = BTreeMap::new();
    for certificate in &seen.certificates {
        let failures = certificate.acme.as_ref().map_or(0, |acme| acme.failures);
        let entry = by_host.entry(certificate.host.as_deref().unwrap_or("*")).or_insert((None, false, 0));
        entry.0 = entry.0.into_iter().chain(certificate.not_after).min();
        entry.1 |= certificate.problem.is_some();
        entry.2 = entry.2.max(failures);
    }
    for (host, (not_after, problem, failures)) in by_host {
        let labels = [("service", name), ("host", host)];
        if let Some(last) = not_after {
            page.add("cutover_proxy_certificate_expiry_seconds", &labels, last.max(0).cast_unsigned());
        }
        page.add("cutover_proxy_certificate_problem", &labels, u64::from(problem));
        page.add("cutover_proxy_certificate_failures", &labels, u64::from(failures));
    }
}

fn of_an_arm(page: &mut Page, labels: &[(&str, &str)], counts: &Counts) {
    let with = |label: (&'static str, &str)| -> Vec<(String, String)> {
        let all = labels.iter().copied().chain([label]);
        all.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(counts.status) {
        page.add_owned("cutover_proxy_responses_total", with(("class", class)), count);
    }
    for (reason, count) in &counts.failed {
        page.add_owned("cutover_proxy_failures_total", with(("reason", reason)), *count);
    }
    for (name, count) in [
        ("cutover_proxy_requests_total", counts.claimed),
        ("cutover_proxy_requests_taken_over_total", counts.adopted),
        ("cutover_proxy_requests_handed_on_total", counts.retried),
        ("cutover_proxy_retries_refused_total", counts.not_retried),
        ("cutover_proxy_reconnected_total", counts.reconnected),
        ("cutover_proxy_first_attempts_failed_total", counts.first_attempt_failed),
        ("cutover_proxy_requests_hung_total", counts.hung),
        ("cutover_proxy_requests_cut_total", counts.cut),
        ("cutover_proxy_requests_aborted_by_client_total", counts.aborted_by_client),
        ("cutover_proxy_websockets_closed_total", counts.websockets_closed),
    ] {
        page.add(name, labels, count);
    }
    let buckets = counts.latency.buckets();
    for exponent in EDGES {
        let edge = 1_u64 << exponent;
        let below = buckets.iter().filter(|(_, high, _)| *high <= edge).map(|(.., count)| count).sum();
        let le = format!("{}", edge as f64 / 1e6);
        page.add_owned("cutover_proxy_latency_seconds_bucket", with(("le", &le)), below);
    }
    let count = counts.latency.count();
    page.add_owned("cutover_proxy_latency_seconds_bucket", with(("le", "+Inf")), count);
    page.sum("cutover_proxy_latency_seconds_sum", labels, counts.latency.sum_us());
    page.add("cutover_proxy_latency_seconds_count", labels, count);
}

/// Samples by metric: all of one metric stand together, below what they mean.
#[derive(Default)]
struct Page {
    samples: BTreeMap<&'static str, Vec<String>>,
}

impl Page {
    fn add(&mut self, name: &'static str, labels: &[(&str, &str)], value: u64) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.add_owned(name, labels, value);
    }

    fn add_owned(&mut self, name: &'static str, labels: Vec<(String, String)>, value: u64) {
        self.push(name, labels, &value.to_string());
    }

    /// Adds microseconds as seconds.
    fn sum(&mut self, name: &'static str, labels: &[(&str, &str)], us: u64) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.push(name, labels, &format!("{}.{:06}", us / 1_000_000, us % 1_000_000));
    }

    fn push(&mut self, name: &'static str, labels: Vec<(String, String)>, value: &str) {
        let labels: Vec<String> =
            labels.into_iter().map(|(key, value)| format!("{key}=\"{}\"", escape(&value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.samples.entry(name).or_default().push(format!("{name}{labels} {value}"));
    }

    fn text(self) -> String {
        let mut text = String::new();
        let mut write = |line: &str| writeln!(text, "{line}").expect("a text takes every line");
        for metric in METRICS {
            let parts: &[&str] =
                if metric.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            let named = |part: &&str| self.samples.get(format!("{}{part}", metric.name).as_str());
            if !parts.iter().any(|part| named(part).is_some()) {
                continue;
            }
            write(&format!("# HELP {} {}", metric.name, metric.help));
            write(&format!("# TYPE {} {}", metric.name, metric.kind));
            parts.iter().filter_map(named).flatten().for_each(|sample| write(sample));
        }
        text
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: "counter", help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: "gauge", help }
}

/// Every metric there is.
const METRICS: &[Metric] = &[
    gauge("cutover_proxy_info", "Version of the proxy."),
    gauge("cutover_proxy_client_connections", "Client connections open now."),
    gauge(
        "cutover_proxy_events_unacknowledged",
        "Trips, lapses and alerts that no server has journaled yet.",
    ),
    gauge("cutover_proxy_damage", "What is wrong with the proxy's files."),
    counter("cutover_proxy_refused_total", "Requests that were given to no revision, by reason."),
    gauge("cutover_proxy_generation", "Generation of the service's table."),
    gauge("cutover_proxy_waiting", "Requests that wait, for a target or for the operator."),
    gauge(
        "cutover_proxy_traffic_mode",
        "What the operator lets requests do: open, queue, flow, maintenance.",
    ),
    counter("cutover_proxy_access_log_lines_lost_total", "Lines of the access log that were not written."),
    gauge("cutover_proxy_certificate_expiry_seconds", "Last second of the certificate, since 1970."),
    gauge(
        "cutover_proxy_certificate_problem",
        "1: the certificate cannot be renewed, or there is none; see cutover proxy status.",
    ),
    gauge(
        "cutover_proxy_certificate_failures",
        "Attempts in a row to get it from its authority that failed.",
    ),
    gauge(
        "cutover_proxy_judge_wealth_nats",
        "Logarithm of the evidence against the candidate of this release, or of the last one: it is taken back at 4.605.",
    ),
    gauge("cutover_proxy_judge_verdict", "What the judge says: fail, shared, none (neither is proven)."),
    gauge("cutover_proxy_judge_requests", "Requests that the judge of this release has scored, by arm."),
    gauge("cutover_proxy_judge_errors", "Those of them that failed, by arm."),
    gauge("cutover_proxy_weight_basis_points", "Weight in force, after a lapse or a trip."),
    gauge("cutover_proxy_in_flight", "Requests given to a target and not finished, WebSockets among them."),
    gauge("cutover_proxy_websockets", "Upgraded connections open now."),
    gauge("cutover_proxy_target_connections", "Connections open to targets, upgraded ones excepted."),
    gauge(
        "cutover_proxy_target_connections_idle",
        "Connections to targets that are kept for the next request.",
    ),
    gauge("cutover_proxy_target_up", "0: the target fails its checks."),
    counter("cutover_proxy_target_checks_total", "Checks made."),
    counter("cutover_proxy_requests_total", "Requests given to the revision first."),
    counter(
        "cutover_proxy_requests_taken_over_total",
        "Requests taken over after an attempt elsewhere failed.",
    ),
    counter("cutover_proxy_requests_handed_on_total", "Attempts that failed and were handed on."),
    counter("cutover_proxy_retries_refused_total", "Failures that were not sent again for want of a budget."),
    counter("cutover_proxy_reconnected_total", "Requests sent again because a kept connection had died."),
    counter("cutover_proxy_first_attempts_failed_total", "First attempts that failed, retried or not."),
    counter("cutover_proxy_responses_total", "Responses passed on whole, by class of status."),
    counter("cutover_proxy_failures_total", "Requests that the client saw failing, by reason."),
    counter(
        "cutover_proxy_requests_hung_total",
        "First attempts that had no answer when they were older than the slowest in a thousand of stable's.",
    ),
    counter("cutover_proxy_requests_cut_total", "Requests cut at the deadline of a drain."),
    counter("cutover_proxy_requests_aborted_by_client_total", "Requests whose client went away first."),
    counter(
        "cutover_proxy_websockets_closed_total",
        "WebSockets that a drain ended with a close frame, and event streams that it ended between two events.",
    ),
    Metric {
        name: "cutover_proxy_latency_seconds",
        kind: "histogram",
        help: "Time from the choice of a target until the head of its response.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_exactly_what_lies_below_their_bounds() {
        let mut counts = Counts::default();
        for us in [0, 255, 256, 1_023, 1_024, 1 << 26] {
            counts.latency.record(us);
        }
        let mut page = Page::default();
        of_an_arm(&mut page, &[("service", "a\"b\\c")], &counts);
        let text = page.text();
        for line in [
            "# TYPE cutover_proxy_latency_seconds histogram",
            r#"cutover_proxy_latency_seconds_bucket{service="a\"b\\c",le="0.000256"} 2"#,
            r#"cutover_proxy_latency_seconds_bucket{service="a\"b\\c",le="0.000512"} 3"#,
            r#"cutover_proxy_latency_seconds_bucket{service="a\"b\\c",le="0.001024"} 4"#,
            r#"cutover_proxy_latency_seconds_bucket{service="a\"b\\c",le="67.108864"} 5"#,
            r#"cutover_proxy_latency_seconds_bucket{service="a\"b\\c",le="+Inf"} 6"#,
            r#"cutover_proxy_latency_seconds_sum{service="a\"b\\c"} 67.111422"#,
            r#"cutover_proxy_latency_seconds_count{service="a\"b\\c"} 6"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_is_written_is_described_and_what_is_described_is_listed_in_the_documentation() {
        let page = include_str!("../../../docs/proxy.md");
        let section = page.split("### Metrics").nth(1).and_then(|rest| rest.split("\n#").next()).unwrap();
        let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `cutover_proxy_")).collect();
        let wanted: Vec<String> = METRICS
            .iter()
            .map(|metric| format!("| `{}` | {} | {} |", metric.name, metric.kind, metric.help))
            .collect();
        assert_eq!(rows, wanted, "docs/proxy.md, \"Metrics\", must say:\n{}", wanted.join("\n"));
    }
}
