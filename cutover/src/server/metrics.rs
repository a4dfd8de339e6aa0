//! What cutover did and does, for Prometheus: health checks, releases with their steps, verdicts and rollbacks, weights.
//!
//! Counters begin anew with each server, which Prometheus expects of a restart; the journal has everything. The proxy counts
//! requests and judges them: its metrics stand beside these.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use cutover_core::machine::{BackReason, Ending, Mode};
use cutover_core::{
    Blame, CheckOutcome, CheckResult, Event, Evidence, Fault, Judgement, LoadResult, Machine, Moment,
    ReleaseId,
};
use cutover_engine::{Happened, Witness};
use cutover_ports::{CheckRequest, Checker, GateRequest, LoadRequest};
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::run::Context;
use crate::failure::Failure;

/// Revisions of a service whose last check is remembered: more than can run at once. Without an end each release would leave
/// a series behind.
const REMEMBERED: usize = 4;

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;
type Times = Family<Labels, Histogram, fn() -> Histogram>;

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    checks: Counters,
    check_seconds: Times,
    health: Gauges,
    releases: Counters,
    release_seconds: Times,
    steps: Counters,
    step_seconds: Times,
    verdicts: Counters,
    rollbacks: Counters,
    rollback_seconds: Times,
    last_rollback: Gauges,
    under_way: Gauges,
    weights: Gauges,
    memory: Mutex<Memory>,
    /// One page at a time: what is looked up is put in anew for each.
    page: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Memory {
    /// Since when releases go back.
    back: BTreeMap<ReleaseId, Moment>,
    /// The last check of each revision of a service, the latest last.
    health: BTreeMap<String, Vec<(String, bool)>>,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Metrics> {
        // 1 ms to 16 s: a check; 10 ms to 45 min: what a release takes.
        let quick: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let slow: fn() -> Histogram = || Histogram::new(exponential_buckets(0.01, 4.0, 10));
        let mut registry = Registry::default();
        let (checks, health, releases) = (Counters::default(), Gauges::default(), Counters::default());
        let (steps, verdicts, rollbacks) = (Counters::default(), Counters::default(), Counters::default());
        let (last_rollback, under_way, weights) = (Gauges::default(), Gauges::default(), Gauges::default());
        let check_seconds = Times::new_with_constructor(quick);
        let [release_seconds, step_seconds, rollback_seconds] =
            [(); 3].map(|()| Times::new_with_constructor(slow));
        let mut add = |name: &str, help: &str, metric: Metric<'_>| match metric {
            Metric::Counters(all) => registry.register(name, help, all.clone()),
            Metric::Gauges(all) => registry.register(name, help, all.clone()),
            Metric::Times(all) => registry.register(name, help, all.clone()),
        };
        use Metric::{Counters as C, Gauges as G, Times as T};
        add(
            "cutover_health_checks",
            "Health checks of instances before traffic, by what came of each",
            C(&checks),
        );
        add(
            "cutover_health_check_duration_seconds",
            "Time until a check of an instance passed, or was given up",
            T(&check_seconds),
        );
        add("cutover_service_health_status", "1: the last check of this revision passed", G(&health));
        add("cutover_releases", "Releases that were decided, by how", C(&releases));
        add(
            "cutover_release_duration_seconds",
            "Time from their beginning until they were decided",
            T(&release_seconds),
        );
        add("cutover_release_under_way", "1: a release is at this step, in this mode", G(&under_way));
        add("cutover_steps", "Steps of releases that were completed", C(&steps));
        add("cutover_step_duration_seconds", "Time that they took", T(&step_seconds));
        add("cutover_verdicts", "Verdicts on candidates, by what they said", C(&verdicts));
        add("cutover_rollbacks", "Releases that went back after traffic had moved, by cause", C(&rollbacks));
        add(
            "cutover_rollback_duration_seconds",
            "Time from the decision until nothing of the candidate was left",
            T(&rollback_seconds),
        );
        add(
            "cutover_last_rollback_timestamp_seconds",
            "When the last one began, since 1970",
            G(&last_rollback),
        );
        add("cutover_weight_basis_points", "Weight in force, as the router says", G(&weights));
        Arc::new(Metrics {
            registry,
            checks,
            check_seconds,
            health,
            releases,
            release_seconds,
            steps,
            step_seconds,
            verdicts,
            rollbacks,
            rollback_seconds,
            last_rollback,
            under_way,
            weights,
            memory: Mutex::default(),
            page: tokio::sync::Mutex::default(),
        })
    }

    /// Returns the page, with what is the case now.
    pub(crate) async fn scrape(&self, context: &Context) -> Result<String, Failure> {
        let _page = self.page.lock().await;
        for gauges in [&self.under_way, &self.weights, &self.health] {
            gauges.clear();
        }
        for service in context.engine.services().await? {
            let name = service.name.to_string();
            if let Some(current) = &service.current {
                let labels = vec![
                    ("service", name.clone()),
                    ("step", word(&current.step)),
                    ("mode", mode(&current.mode).into()),
                ];
                self.under_way.get_or_create(&labels).set(1);
            }
            // A router that does not answer has no weights to show; its own metrics are gone as well.
            let tracks = context.edges.router.observe(&service.name).await.map(|view| view.tracks);
            for track in tracks.unwrap_or_default() {
                let labels = vec![("service", name.clone()), ("revision", track.revision.to_string())];
                self.weights.get_or_create(&labels).set(track.weight.bp().into());
            }
        }
        for (service, revisions) in &self.memory().health {
            for (revision, healthy) in revisions {
                let labels = vec![("service", service.clone()), ("version", revision.clone())];
                self.health.get_or_create(&labels).set((*healthy).into());
            }
        }
        self.text()
    }

    fn text(&self) -> Result<String, Failure> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)
            .map_err(|error| Failure::own(format!("failed to write the metrics: {error}")))?;
        Ok(classic(&text))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts each check of an instance, and remembers whether all of them passed.
    fn checked(&self, request: &CheckRequest, answer: Result<&[CheckResult], &Fault>) {
        let service = request.service.to_string();
        let results = answer.unwrap_or_else(|fault| &fault.results);
        for result in results {
            let status = match result.outcome {
                CheckOutcome::Passed => "success",
                CheckOutcome::Failed => "failed",
                CheckOutcome::Error => "error",
            };
            self.checks.get_or_create(&vec![("service", service.clone()), ("status", status.into())]).inc();
            let seconds = result.duration_us as f64 / 1e6;
            self.check_seconds.get_or_create(&vec![("service", service.clone())]).observe(seconds);
        }
        // What could not be asked says nothing of the revision.
        if answer.is_err_and(|fault| fault.blame != Blame::Candidate) {
            return;
        }
        let mut memory = self.memory();
        let known = memory.health.entry(service).or_default();
        let revision = request.revision.to_string();
        known.retain(|(other, _)| *other != revision);
        known.push((revision, answer.is_ok()));
        let many = known.len().saturating_sub(REMEMBERED);
        known.drain(..many);
    }
}

enum Metric<'a> {
    Counters(&'a Counters),
    Gauges(&'a Gauges),
    Times(&'a Times),
}

impl Witness for Metrics {
    fn happened(&self, happened: &Happened<'_>) {
        let Happened { service, release, record, before, after } = *happened;
        let with = |more: &[(&'static str, String)]| -> Labels {
            [("service", service.to_string())].into_iter().chain(more.iter().cloned()).collect()
        };
        let seconds = |from: Moment| record.at.ms_since(from) as f64 / 1_000.0;
        if after.at() > before.at() {
            let step = with(&[("step", word(&before.step().name()))]);
            self.steps.get_or_create(&step).inc();
            self.step_seconds.get_or_create(&step).observe(seconds(before.entered()));
        }
        if let Event::Done { evidence: Evidence::Verdict(verdict), .. } = &record.event {
            let said = match verdict.judgement {
                Judgement::Pass => "pass",
                Judgement::Fail => "fail",
                Judgement::Inconclusive => "inconclusive",
            };
            self.verdicts.get_or_create(&with(&[("verdict", said.into())])).inc();
        }
        let begins = match (before.mode(), after.mode()) {
            (Mode::Back(_), _) => None,
            (_, Mode::Back(back)) => Some(&back.why),
            _ => None,
        };
        if let Some(why) = begins.filter(|_| after.moved()) {
            self.rollbacks.get_or_create(&with(&[("cause", cause(why).into())])).inc();
            let wall_s = i64::try_from(record.wall_ms / 1_000).unwrap_or(i64::MAX);
            self.last_rollback.get_or_create(&with(&[])).set(wall_s);
            self.memory().back.insert(release.id.clone(), record.at);
        }
        if after.ended() {
            let since = self.memory().back.remove(&release.id);
            if let Some(since) = since {
                self.rollback_seconds.get_or_create(&with(&[])).observe(seconds(since));
            }
        }
        if let Some(outcome) = decided(before, after) {
            let labels = with(&[("outcome", outcome.into())]);
            self.releases.get_or_create(&labels).inc();
            self.release_seconds.get_or_create(&labels).observe(seconds(after.opened()));
        }
    }
}

/// Returns how a release was decided just now, if it was.
fn decided(before: &Machine, after: &Machine) -> Option<&'static str> {
    if before.decided().is_some() || before.ended() {
        return None;
    }
    match after.ending() {
        _ if after.decided().is_some() => Some("released"),
        None => None,
        Some(Ending::Released) => Some("released"),
        Some(Ending::Refused { .. }) => Some("refused"),
        Some(Ending::RolledBack { .. }) => Some("rolled_back"),
        Some(Ending::Withdrawn { .. }) => Some("withdrawn"),
    }
}

fn cause(why: &BackReason) -> &'static str {
    match why {
        BackReason::Fault { .. } => "fault",
        BackReason::Verdict { .. } => "verdict",
        BackReason::Tripped { shared: true, .. } => "shared",
        BackReason::Tripped { .. } => "trip",
        BackReason::Aborted { .. } => "aborted",
        BackReason::Superseded { .. } => "superseded",
        BackReason::Deadline { .. } => "deadline",
    }
}

fn mode(mode: &Mode) -> &'static str {
    match mode {
        Mode::Forward => "forward",
        Mode::Held(_) => "held",
        Mode::Back(_) => "back",
        Mode::Ended { .. } => "ended",
    }
}

/// Returns the first word of a step's name: its weight would make a series of its own.
fn word(step: &str) -> String {
    step.split(' ').next().unwrap_or_default().to_owned()
}

/// Returns the page in exposition format 0.0.4, which everything that reads metrics knows, from OpenMetrics: there a counter's
/// name lacks its suffix where it is described.
fn classic(text: &str) -> String {
    let counters: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut page = String::with_capacity(text.len());
    for line in text.lines() {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|start| {
            let (name, rest) = line.strip_prefix(start)?.split_once(' ')?;
            counters.contains(&name).then(|| format!("{start}{name}_total {rest}"))
        });
        writeln!(page, "{}", described.as_deref().unwrap_or(line)).expect("a text takes every line");
    }
    page
}

/// Asks as the checker within, and counts what comes of it.
pub(crate) struct CountedChecker {
    pub(crate) within: Arc<dyn Checker>,
    pub(crate) metrics: Arc<Metrics>,
}

#[async_trait]
impl Checker for CountedChecker {
    async fn check(&self, request: &CheckRequest) -> Result<Vec<CheckResult>, Fault> {
        let answer = self.within.check(request).await;
        self.metrics.checked(request, answer.as_deref());
        answer
    }

    async fn smoke(&self, request: &CheckRequest, log: &Path) -> Result<Vec<CheckResult>, Fault> {
        self.within.smoke(request, log).await
    }

    async fn load(&self, request: &LoadRequest) -> Result<LoadResult, Fault> {
        self.within.load(request).await
    }

    async fn gate(&self, request: &GateRequest) -> Result<String, Fault> {
        self.within.gate(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metrics with a series each: what has none is not on the page.
    fn begun() -> Arc<Metrics> {
        let metrics = Metrics::new();
        let Metrics { checks, releases, steps, verdicts, rollbacks, .. } = &*metrics;
        for counters in [checks, releases, steps, verdicts, rollbacks] {
            drop(counters.get_or_create(&Vec::new()));
        }
        let Metrics { health, last_rollback, under_way, weights, .. } = &*metrics;
        for gauges in [health, last_rollback, under_way, weights] {
            drop(gauges.get_or_create(&Vec::new()));
        }
        let Metrics { check_seconds, release_seconds, step_seconds, rollback_seconds, .. } = &*metrics;
        for times in [check_seconds, release_seconds, step_seconds, rollback_seconds] {
            drop(times.get_or_create(&Vec::new()));
        }
        metrics
    }

    #[test]
    fn counters_are_described_by_the_name_that_they_have() {
        let metrics = begun();
        metrics.verdicts.get_or_create(&vec![("service", "a\"b".into()), ("verdict", "pass".into())]).inc();
        let page = metrics.text().unwrap();
        for line in [
            "# HELP cutover_verdicts_total Verdicts on candidates, by what they said.",
            "# TYPE cutover_verdicts_total counter",
            r#"cutover_verdicts_total{service="a\"b",verdict="pass"} 1"#,
            "# TYPE cutover_step_duration_seconds histogram",
            "# TYPE cutover_service_health_status gauge",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }

    #[test]
    fn every_metric_is_listed_in_the_documentation() {
        let metrics = begun();
        let page = metrics.text().unwrap();
        let mut wanted = Vec::new();
        let mut help = "";
        for line in page.lines() {
            if let Some(described) = line.strip_prefix("# HELP ") {
                help = described.split_once(' ').map_or("", |(_, help)| help);
            } else if let Some((name, kind)) =
                line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' '))
            {
                wanted.push(format!("| `{name}` | {kind} | {help} |"));
            }
        }
        let operating = include_str!("../../../docs/operating.md");
        let section =
            operating.split("## Metrics").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `cutover_")).collect();
        assert_eq!(rows, wanted, "docs/operating.md, \"Metrics\", must say:\n{}", wanted.join("\n"));
    }

    #[test]
    fn health_is_that_of_the_last_check_and_only_few_revisions_are_remembered() {
        let metrics = Metrics::new();
        let request = |revision: &str| CheckRequest {
            service: cutover_core::ServiceName::new("shop"),
            revision: cutover_core::RevisionId::new(revision),
            instance: cutover_ports::CheckedInstance {
                id: cutover_core::InstanceId::new("shop-1"),
                address: "127.0.0.1:1".parse().unwrap(),
            },
            checks: cutover_core::file::Checks::default(),
            host: None,
            protocol: cutover_core::file::TargetProtocol::default(),
            route: None,
            base: std::path::PathBuf::new(),
        };
        let result = |outcome| CheckResult {
            kind: cutover_core::CheckKind::Health,
            check: "GET /health".into(),
            instance: cutover_core::InstanceId::new("shop-1"),
            outcome,
            blame: None,
            duration_us: 100_000,
            tries: 1,
            detail: String::new(),
            output: Vec::new(),
        };
        for number in 0..10 {
            metrics.checked(&request(&format!("r-{number}")), Ok(&[result(CheckOutcome::Passed)]));
        }
        let failed = Fault::candidate("status 500").results(vec![result(CheckOutcome::Failed)]);
        metrics.checked(&request("r-8"), Err(&failed));
        let error = Fault::configuration("no such command").results(vec![result(CheckOutcome::Error)]);
        metrics.checked(&request("r-9"), Err(&error));
        let health = metrics.memory().health["shop"].clone();
        let health: Vec<(&str, bool)> =
            health.iter().map(|(revision, healthy)| (&**revision, *healthy)).collect();
        assert_eq!(health, [("r-6", true), ("r-7", true), ("r-9", true), ("r-8", false)]);
        let page = metrics.text().unwrap();
        for (status, count) in [("success", 10), ("failed", 1), ("error", 1)] {
            let line = format!("cutover_health_checks_total{{service=\"shop\",status=\"{status}\"}} {count}");
            assert!(page.contains(&line), "{line}\n{page}");
        }
    }
}
