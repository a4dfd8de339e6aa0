//! Load tests of real releases: one that is held, one that is not, one that is aborted.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::harness::{Said, Scratch, get, wait};

/// Not a test of anything by itself: the entry point when an instance runs this binary.
#[test]
fn entry() {
    if std::env::var_os("E2E_LOADS").is_some() {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve());
    }
}

/// Answers with its version and the host it was asked for; `/broken` with 500, everything after `SLOW_MS`.
async fn serve() {
    let port = std::env::var("PORT").unwrap().parse::<u16>().unwrap();
    let version = std::env::var("VERSION").unwrap_or_default();
    let slow =
        Duration::from_millis(std::env::var("SLOW_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(0));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let version = version.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (broken, version) = (request.uri().path() == "/broken", version.clone());
            async move {
                if request.uri().path() != "/health" {
                    tokio::time::sleep(slow).await;
                }
                let answer = Response::builder().status(if broken { 500 } else { 200 });
                Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(version))).unwrap())
            }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

fn file(scratch: &Scratch, version: &str, slow_ms: u32, load: &str) {
    let binary = std::env::current_exe().unwrap();
    scratch.file(
        &format!(
            "command: ['{}', '--exact', 'loads::entry', '--nocapture'], replicas: 2, \
             env: {{E2E_LOADS: '1', VERSION: {version}, SLOW_MS: '{slow_ms}'}}",
            binary.display()
        ),
        &format!(
            "checks: {{health: [{{path: /health}}], load: [{load}]}}\nbake: 0s\nkeep_warm: 0s\ndrain: 5s"
        ),
    );
}

#[test]
fn a_candidate_takes_traffic_when_it_held_its_load_tests() {
    let scratch = Scratch::new();
    file(&scratch, "v1", 0, "");
    scratch.deploy().expect(0);
    let load = "{path: /, concurrency: 4, for: 1s, pause: 200ms}, \
                {rate: 100/s, for: 1s, against: both, scenarios: [{path: /a, weight: 3}, {name: order, path: /b, method: POST, body: x}]}";
    file(&scratch, "v2", 0, load);
    let said = scratch.run(&["deploy"]).expect(0);
    assert!(said.out.contains("GET /, 4 clients for 1s passed: "), "{}", said.out);
    assert_eq!(get(scratch.address, "/"), Some((200, "v2".into())));
    let id = scratch.run(&["history", "--output", "json"]).expect(0).out;
    assert!(id.contains("shop-2"), "{id}");
    let shown = scratch.run(&["show", "shop-2", "--output", "json"]).expect(0).out;
    // The evidence is in the journal: numbers, and the histogram that other tools read.
    for part in ["\"scenario\":\"order\"", "\"track\":\"stable\"", "\"histogram\":\"HIST", "latency_us_p99"] {
        assert!(shown.contains(part), "{part} in:\n{shown}");
    }
}

#[test]
fn one_that_does_not_hold_them_is_refused_with_the_numbers() {
    let scratch = Scratch::new();
    file(&scratch, "v1", 0, "");
    scratch.deploy().expect(0);
    for (version, slow_ms, load, why) in [
        ("v2", 0, "{path: /broken, concurrency: 2, for: 1s}", "0 of "),
        ("v3", 80, "{path: /, rate: 50/s, for: 1s, require: {p50: 20ms}}", "p50 8"),
    ] {
        file(&scratch, version, slow_ms, load);
        let report = scratch.deploy().expect(3).report();
        assert_eq!((&report["outcome"], &report["exit_code"]), (&"refused".into(), &3.into()), "{report}");
        let result = &report["loads"][0];
        assert_eq!(result["outcome"], "failed", "{result}");
        assert!(report["why"].as_str().unwrap().contains(why), "{report}");
        let seen = &result["shares"][0];
        assert!(
            seen["requests"].as_u64().unwrap() > 0 && seen["latency_us_p50"].as_u64().unwrap() > 0,
            "{result}"
        );
        assert_eq!(get(scratch.address, "/"), Some((200, "v1".into())), "users never met it");
    }
}

#[test]
fn an_abort_ends_the_load_at_once() {
    let scratch = Scratch::new();
    file(&scratch, "v1", 0, "");
    scratch.deploy().expect(0);
    file(&scratch, "v2", 0, "{path: /, rate: 20/s, for: 1h}");
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    wait("the load test", || {
        let status = scratch.run(&["status"]).out;
        status.contains("load").then_some(())
    });
    scratch.run(&["abort"]).expect(0);
    Said::from(deploy.wait_with_output().unwrap()).expect(7);
    assert_eq!(get(scratch.address, "/"), Some((200, "v1".into())));
}
