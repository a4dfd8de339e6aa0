//! A real Prometheus, and the metrics of each preset under their real names.

use std::fmt::Write;

use cutover_judge::{Block, Scraped};
use cutover_sources::{AskErrorKind, Feed, Found, Look, Reading};
use serde_json::{Value, json};

use super::harness::{Page, Server, counters, source, until};

/// What was counted of an arm: requests, of these failed, all of them in 50 to 100 ms.
#[derive(Clone, Copy)]
struct Arm {
    requests: u64,
    errors: u64,
}

const NOTHING: Arm = Arm { requests: 0, errors: 0 };

/// What Envoy, Istio, Linkerd, ingress-nginx and Traefik would show of a service `shop` and its candidate, among others.
fn page(stable: Arm, candidate: Arm) -> String {
    let mut text = String::new();
    // Others' requests beside them, which nobody may count.
    for (name, canary, Arm { requests, errors }) in [
        ("shop", "", stable),
        ("shop-canary", "web-shop-canary-80", candidate),
        ("other", "", Arm { requests: 9_999, errors: 9_999 }),
    ] {
        let ingress = if name == "other" { "other" } else { "shop" };
        let families: [(&str, String, &str, &str, &str, u64); 6] = [
            (
                "envoy_cluster_upstream_rq_xx",
                format!("envoy_cluster_name=\"web/{name}/80\""),
                "envoy_response_code_class=\"2\"",
                "envoy_response_code_class=\"5\"",
                "envoy_cluster_upstream_rq_time",
                1_000,
            ),
            (
                "istio_requests_total",
                format!(
                    "reporter=\"destination\",destination_workload=\"{name}\",destination_workload_namespace=\"web\""
                ),
                "response_code=\"200\"",
                "response_code=\"503\"",
                "istio_request_duration_milliseconds",
                1_000,
            ),
            // The callers' side of the same requests.
            (
                "istio_requests_total",
                format!(
                    "reporter=\"source\",destination_workload=\"{name}\",destination_workload_namespace=\"web\""
                ),
                "response_code=\"200\"",
                "response_code=\"503\"",
                "",
                1,
            ),
            (
                "response_total",
                format!("namespace=\"web\",deployment=\"{name}\",direction=\"inbound\""),
                "classification=\"success\"",
                "classification=\"failure\"",
                "response_latency_ms",
                1_000,
            ),
            (
                "nginx_ingress_controller_requests",
                format!("namespace=\"web\",ingress=\"{ingress}\",canary=\"{canary}\""),
                "status=\"200\"",
                "status=\"502\"",
                "nginx_ingress_controller_request_duration_seconds",
                1,
            ),
            (
                "traefik_service_requests_total",
                format!("service=\"web-{name}-80@kubernetescrd\",method=\"GET\""),
                "code=\"404\"",
                "code=\"500\"",
                "traefik_service_request_duration_seconds",
                1,
            ),
        ];
        for (counter, labels, good, bad, histogram, unit) in families {
            writeln!(text, "{counter}{{{labels},{good}}} {}", requests - errors).unwrap();
            // As the libraries do it: no series before the first failure.
            if errors > 0 {
                writeln!(text, "{counter}{{{labels},{bad}}} {errors}").unwrap();
            }
            if !histogram.is_empty() {
                for (le, count) in [("0.05", 0), ("0.1", requests), ("+Inf", requests)] {
                    let le = le.parse::<f64>().ok().filter(|le| le.is_finite());
                    let le = le.map_or_else(|| "+Inf".into(), |le| format!("{}", le * unit as f64));
                    writeln!(text, "{histogram}_bucket{{{labels},{good},le=\"{le}\"}} {count}").unwrap();
                }
            }
        }
    }
    text
}

fn presets(address: &str) -> Vec<(&'static str, Value)> {
    let named = |preset: &str, stable: &str, candidate: &str| json!({"address": address, "preset": preset, "namespace": "web", "stable": stable, "candidate": candidate});
    vec![
        (
            "envoy",
            json!({"address": address, "preset": "envoy", "stable": "web/shop/.*", "candidate": "web/shop-canary/.*"}),
        ),
        ("istio", named("istio", "shop", "shop-canary")),
        ("linkerd", named("linkerd", "shop", "shop-canary")),
        ("ingress_nginx", named("ingress_nginx", "shop", "shop-canary")),
        ("traefik", named("traefik", "shop", "shop-canary")),
    ]
}

fn totals(reading: &Reading) -> [(u64, u64); 2] {
    let Found::Counters(arms) = &reading.found else { panic!("{reading:?}") };
    arms.each_ref().map(|arm| {
        arm.values().fold((0, 0), |(requests, errors), one| (requests + one.requests, errors + one.errors))
    })
}

fn with(mut keys: Value, key: &str, value: Value) -> Value {
    keys[key] = value;
    keys
}

#[tokio::test]
async fn presets_count_what_their_routers_count() {
    let page_of = Page::default();
    page_of.set(page(NOTHING, NOTHING));
    let Some(mut server) = Server::start(page_of.serve().await).await else { return };
    let presets = presets(&server.address);
    let sources: Vec<_> =
        presets.iter().map(|(name, keys)| (*name, counters(keys.clone()), keys.clone())).collect();
    let mut feeds: Vec<Feed> = Vec::new();
    for (name, source, _) in &sources {
        let first =
            until(&**source, |answer| answer.as_ref().is_ok_and(|reading| totals(reading) == [(0, 0); 2]))
                .await
                .unwrap();
        assert!(first.lag_ms.is_some(), "{name}");
        let mut feed = Feed::default();
        assert_eq!(feed.look(&first), Look::First, "{name}");
        feeds.push(feed);
    }
    // A candidate that fails one request in five.
    let (stable, candidate) = (Arm { requests: 900, errors: 9 }, Arm { requests: 100, errors: 20 });
    page_of.set(page(stable, candidate));
    for ((name, source, _), feed) in sources.iter().zip(&mut feeds) {
        let all = [(900, 9), (100, 20)];
        let reading =
            until(&**source, |answer| answer.as_ref().is_ok_and(|reading| totals(reading) == all)).await;
        let expected = Block {
            stable: Scraped { requests: 900, errors: 9 },
            candidate: Scraped { requests: 100, errors: 20 },
        };
        assert_eq!(feed.look(&reading.unwrap()), Look::Block(expected), "{name}");
    }
    for (name, _, keys) in &sources {
        for (measure, wanted) in
            [("success_rate", 0.8), ("error_rate", 0.2), ("latency_p50", 0.075), ("latency_p99", 0.0995)]
        {
            let source = source(json!({"prometheus": with(keys.clone(), "measure", json!(measure))}));
            let reading = until(&*source, Result::is_ok).await.unwrap();
            let Found::Value(value) = reading.found else { panic!("{reading:?}") };
            // Failures had no series before the first, and a rate does not see where they came from.
            let unseen = measure.ends_with("_rate");
            let expected = if unseen { if measure == "error_rate" { 0.0 } else { 1.0 } } else { wanted };
            assert!(
                (value - expected).abs() < 1e-9 || (value - wanted).abs() < 1e-9,
                "{name} {measure}: {value}"
            );
            assert!(reading.lag_ms.is_some() && !reading.age().is_empty(), "{name} {measure}: {reading:?}");
        }
        let source = source(json!({"prometheus": with(keys.clone(), "measure", json!("request_rate"))}));
        let reading = until(&*source, Result::is_ok).await.unwrap();
        assert!(matches!(reading.found, Found::Value(value) if value > 0.0), "{name}: {reading:?}");
    }
    // The next failures are seen as they are: 100 more requests, 50 of them failed.
    page_of.set(page(stable, Arm { requests: 200, errors: 70 }));
    for (name, _, keys) in &sources {
        let source = source(json!({"prometheus": with(keys.clone(), "measure", json!("error_rate"))}));
        let seen =
            |reading: &Reading| matches!(reading.found, Found::Value(value) if value > 0.2 && value < 0.6);
        let reading = until(&*source, |answer| answer.as_ref().is_ok_and(seen)).await;
        assert!(reading.is_ok(), "{name}");
    }
    // The candidate's process is another now, and counts from the beginning.
    page_of.set(page(stable, Arm { requests: 30, errors: 3 }));
    for ((name, source, _), feed) in sources.iter().zip(&mut feeds) {
        let all = [(900, 9), (30, 3)];
        let reading =
            until(&**source, |answer| answer.as_ref().is_ok_and(|reading| totals(reading) == all)).await;
        assert_eq!(feed.look(&reading.unwrap()), Look::Block(Block::default()), "{name}");
        assert_eq!(feed.resets(), 1, "{name}");
    }
    // Nothing is counted any more: no data, which is not an outage. An outage is.
    page_of.set(String::new());
    for (name, source, keys) in &sources {
        let error = until(&**source, Result::is_err).await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::NoData, "{name}: {error}");
        let gone = super::harness::source(json!({"prometheus": keys}));
        let error = until(&*gone, Result::is_err).await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::NoData, "{name}: {error}");
    }
    server.kill();
    for (name, source, _) in &sources {
        assert_eq!(source.ask().await.unwrap_err().kind, AskErrorKind::Down, "{name}");
    }
}

#[tokio::test]
async fn what_a_query_can_answer() {
    let page_of = Page::default();
    page_of.set("queue{svc=\"shop\"} 7\nqueue{svc=\"other\"} 8\nzero 0\n".into());
    let Some(server) = Server::start(page_of.serve().await).await else { return };
    let ask = |more: Value| {
        let mut keys = json!({"address": server.address});
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        source(json!({"prometheus": keys}))
    };
    let first = until(&*ask(json!({"query": "queue{svc=\"{{service}}\"}"})), Result::is_ok).await.unwrap();
    assert_eq!(first.found, Found::Value(7.0));
    for (keys, wanted) in [
        (json!({"query": "scalar(queue{svc=\"shop\"})"}), 7.0),
        (json!({"query": "max(queue)"}), 8.0),
        (json!({"query": "5"}), 5.0),
        (json!({"query": "vector(5)", "range": "1m", "step": "10s"}), 5.0),
        (
            json!({"query": "vector(time())-vector(time())", "range": "1m", "step": "10s", "reduce": "max"}),
            0.0,
        ),
    ] {
        assert_eq!(
            ask(keys.clone()).ask().await.map(|reading| reading.found),
            Ok(Found::Value(wanted)),
            "{keys}"
        );
    }
    let aged = ask(json!({"query": "max(queue)", "sampled_at": "max(timestamp(queue))"}));
    assert!(aged.ask().await.unwrap().lag_ms.is_some());
    for (keys, kind) in [
        (json!({"query": "queue"}), AskErrorKind::Wrong),
        (json!({"query": "queue[1m]"}), AskErrorKind::Wrong),
        (json!({"query": "\"a text\""}), AskErrorKind::Wrong),
        (json!({"query": "sum(queue"}), AskErrorKind::Wrong),
        (json!({"query": "queue * on(job) queue"}), AskErrorKind::Wrong),
        (json!({"query": "queue", "range": "1m"}), AskErrorKind::Wrong),
        (json!({"query": "max(queue)", "sampled_at": "max(queue) * -1"}), AskErrorKind::Wrong),
        (json!({"query": "nothing_of_that_name"}), AskErrorKind::NoData),
        (json!({"query": "nothing_of_that_name", "range": "1m"}), AskErrorKind::NoData),
        (json!({"query": "zero / zero"}), AskErrorKind::NoData),
        (json!({"query": "1 / zero"}), AskErrorKind::NoData),
        (json!({"query": "zero / zero", "range": "15s", "step": "5s"}), AskErrorKind::NoData),
        (json!({"query": "max(queue)", "sampled_at": "time() - 3600"}), AskErrorKind::NoData),
        (json!({"query": "max(queue)", "sampled_at": "time() + 3600"}), AskErrorKind::NoData),
    ] {
        let error = ask(keys.clone()).ask().await.unwrap_err();
        assert_eq!(error.kind, kind, "{keys}: {error}");
    }
}
