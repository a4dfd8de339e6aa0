//! Load tests of a release, by the crate that sends load.

use std::time::Duration;

use cutover_core::file::{Load, LoadAgainst, LoadScenario, TargetProtocol};
use cutover_core::{Fault, LoadOutcome, LoadProgress, LoadReason, LoadResult, LoadShare, Track};
use cutover_load::{
    Against, Judgement, Pace, Protocol, Report, Requirements, Running, Scenario, Side, Spec, SpecError,
    Target,
};
use cutover_ports::LoadRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::time::{MissedTickBehavior, interval};

/// How often a test tells where it is.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Requests that may be open at once at a rate where the release file does not say it: those of two seconds, within these.
const OPEN: (u64, u64) = (16, 1_000);

/// Runs the test, and says what the candidate held.
pub(crate) async fn run(request: &LoadRequest) -> Result<LoadResult, Fault> {
    let spec = spec(request)?;
    let requirements = requirements(&request.test, &spec);
    let targets = |side, addresses: &[std::net::SocketAddr]| -> Vec<Target> {
        addresses.iter().map(|address| Target { side, address: *address }).collect()
    };
    let mut all = targets(Side::Candidate, &request.candidate);
    all.extend(targets(Side::Stable, &request.stable));
    let running = cutover_load::start(spec, &all).map_err(|error| cannot(request, &error))?;
    let report = attend(request, running).await?;
    let result = result(request, &requirements, &report);
    let what = || format!("load test {}", result.line());
    match result.outcome {
        LoadOutcome::Passed => Ok(result),
        LoadOutcome::Failed => Err(Fault::candidate(what()).load(result)),
        LoadOutcome::Inconclusive => Err(Fault::platform(what())
            .hint("run it where the load has a core for itself, or ask for a lower rate")
            .load(result)),
    }
}

/// Waits for the report, and tells where the test is meanwhile. Dropped, it takes the test along.
async fn attend(request: &LoadRequest, mut running: Running) -> Result<Report, Fault> {
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            report = &mut running => {
                return report.map_err(|error| Fault::cutover(format!("send load to {}: {error}", request.revision)));
            }
            _ = ticks.tick() => {
                let seen = running.progress();
                request.progress.send_replace(Some(LoadProgress {
                    passed_ms: seen.passed_ms,
                    span_ms: seen.span_ms,
                    requests: seen.requests,
                    failed: seen.failed,
                    latency_us_p50: seen.p50_us,
                    latency_us_p99: seen.p99_us,
                }));
            }
        }
    }
}

fn cannot(request: &LoadRequest, error: &SpecError) -> Fault {
    let what = format!("send load to {}: {error}", request.revision);
    match error {
        SpecError::NoTarget { .. } => Fault::platform(what),
        _ => Fault::configuration(what),
    }
}

fn spec(request: &LoadRequest) -> Result<Spec, Fault> {
    let test = &request.test;
    let scenarios: Result<Vec<Scenario>, Fault> =
        test.requests().iter().map(|scenario| prepared(scenario, request.host.as_deref())).collect();
    let pace = match test.rate {
        Some(rate) => {
            let of_two_seconds = (rate.per_1000_s() / 500).clamp(OPEN.0, OPEN.1);
            let open = test.open.map_or(of_two_seconds, u64::from);
            Pace::Rate { per_1000_s: rate.per_1000_s(), open: usize::try_from(open).unwrap_or(usize::MAX) }
        }
        None => Pace::Clients {
            count: test.concurrency.unwrap_or(1) as usize,
            pause: test.pause.map(cutover_core::Span::duration),
        },
    };
    // In a first release there is no stable to stand beside.
    let both = test.against == LoadAgainst::Both && !request.stable.is_empty();
    Ok(Spec {
        scenarios: scenarios?,
        pace,
        span: test.span.duration(),
        timeout: test.timeout.duration(),
        protocol: match test.protocol.unwrap_or(request.protocol) {
            TargetProtocol::Http1 => Protocol::Http1,
            TargetProtocol::H2c => Protocol::Http2,
        },
        against: if both { Against::Both } else { Against::Candidate },
    })
}

fn prepared(scenario: &LoadScenario, host: Option<&str>) -> Result<Scenario, Fault> {
    let name = scenario.name();
    let wrong = |what: String| Fault::configuration(format!("send load with {name}: {what}"));
    let mut headers = HeaderMap::new();
    if let Some(host) = host {
        let value = HeaderValue::from_str(host).map_err(|error| wrong(format!("host {host}: {error}")))?;
        headers.insert(header::HOST, value);
    }
    for (key, value) in &scenario.headers {
        let place = |error: &dyn std::fmt::Display| wrong(format!("header {key}: {error}"));
        let key: HeaderName = key.parse().map_err(|error: http::header::InvalidHeaderName| place(&error))?;
        headers.insert(key, HeaderValue::from_bytes(value.as_bytes()).map_err(|error| place(&error))?);
    }
    let method: Result<Method, _> = scenario.method.parse();
    Ok(Scenario {
        weight: scenario.weight,
        method: method.map_err(|error| wrong(format!("method {}: {error}", scenario.method)))?,
        path: scenario.path.parse().map_err(|error| wrong(format!("path {}: {error}", scenario.path)))?,
        headers,
        body: scenario.body.clone().unwrap_or_default().into(),
        expect: scenario.status.from..=scenario.status.to,
        name,
    })
}

fn requirements(test: &Load, spec: &Spec) -> Requirements {
    let limit = |span: Option<cutover_core::Span>| span.map(cutover_core::Span::duration);
    let least = || cutover_load::least_requests(&spec.pace, spec.span);
    let asked = &test.require;
    Requirements {
        success_bp: asked.success.bp(),
        mean: Some(asked.mean.duration()),
        p50: limit(asked.p50),
        p95: limit(asked.p95),
        p99: limit(asked.p99),
        requests: asked.requests.unwrap_or_else(least),
    }
}

fn result(request: &LoadRequest, requirements: &Requirements, report: &Report) -> LoadResult {
    let outcome = |judgement| match judgement {
        Judgement::Pass => LoadOutcome::Passed,
        Judgement::Fail => LoadOutcome::Failed,
        Judgement::Inconclusive => LoadOutcome::Inconclusive,
    };
    let verdict = requirements.verdict(report);
    let shares = report.shares.iter().map(|share| {
        let seen = &share.summary;
        LoadShare {
            track: match share.side {
                Side::Candidate => Track::Candidate,
                Side::Stable => Track::Stable,
            },
            scenario: share.scenario.clone(),
            requests: seen.requests,
            failed: seen.failed,
            failures: match seen.failed {
                0 => String::new(),
                _ => format!("{}; the first: {}", seen.failures, seen.first_failure),
            },
            latency_us_mean: seen.mean_us,
            latency_us_p50: seen.p50_us,
            latency_us_p95: seen.p95_us,
            latency_us_p99: seen.p99_us,
            latency_us_max: seen.max_us,
            histogram: seen.histogram.clone(),
        }
    });
    let reasons = verdict.reasons.iter();
    LoadResult {
        test: request.test.name(),
        outcome: outcome(verdict.judgement),
        reasons: reasons
            .map(|reason| LoadReason { outcome: outcome(reason.judgement), text: reason.text.clone() })
            .collect(),
        took_ms: report.took_ms,
        due: report.sent.due,
        missed: report.sent.missed,
        shares: shares.collect(),
    }
}
