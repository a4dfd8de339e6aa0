//! What server and proxy say of themselves to Prometheus.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::harness::{Said, Scratch};
use crate::service::{self, Shop, bakes_at, finish, load, trouble, whole};

const CANARY: &str = "strategy: {canary: {weights: [25%, 100%], bake: 1h}}\nbake: 0s\nkeep_warm: 0s\ndrain: 8s\n\
                      guard: {min_requests: 100000, warm_up: 0s}";

fn file(scratch: &Scratch, version: &str, env: &str, more: &str) {
    Shop { version, env, more, ..Shop::default() }.file(scratch);
}

/// Asks on the server's socket, as a client of HTTP does that knows nothing of cutover.
fn scrape(scratch: &Scratch) -> String {
    let mut stream = UnixStream::connect(scratch.state().join("server.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("200 OK") && head.contains("text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// Returns the value of the one series of a metric with these labels.
fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
            && labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
    };
    let found: Vec<&str> = page.lines().filter(fits).collect();
    assert_eq!(found.len(), 1, "{name} {labels:?} in\n{page}");
    found[0].rsplit(' ').next().unwrap().parse().unwrap()
}

/// Lets Prometheus' own tool read a page; it says what it would do otherwise.
fn lint(page: &str) {
    if std::env::var_os("CUTOVER_TEST_SERVERS").is_none() {
        println!("skipped: promtool, which ./test installs");
        return;
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = Said::from(promtool.wait_with_output().unwrap());
    assert!(said.code == 0 && said.out.is_empty() && said.err.is_empty(), "{said:?}\n{page}");
}

#[test]
fn what_happened_is_counted_in_a_form_that_prometheus_reads() {
    let scratch = Scratch::new();
    file(&scratch, "v1", "", "bake: 0s");
    scratch.deploy().expect(0);
    whole(&scratch, 2);
    // One that is refused before it has traffic, and one that breaks when it has some.
    file(&scratch, "v2", ", HEALTH: '500'", "bake: 0s");
    let path = scratch.path().join("cutover.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("within: 30s", "within: 2s")).unwrap();
    let refused = scratch.deploy().expect(3).report();
    let load = load(&scratch);
    file(&scratch, "v3", "", CANARY);
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    bakes_at(&scratch, "25%");
    service::more(&load, 100);
    let page = scrape(&scratch);
    let baking = [("service", "shop"), ("step", "bake"), ("mode", "forward")];
    assert_eq!(value(&page, "cutover_release_under_way", &baking), 1.0);
    let weights: Vec<&str> =
        page.lines().filter(|line| line.starts_with("cutover_weight_basis_points{")).collect();
    assert!(
        [" 2500", " 7500"].iter().all(|weight| weights.iter().any(|line| line.ends_with(weight))),
        "{weights:?}"
    );
    let proxy = scratch.run(&["proxy", "metrics"]).expect(0).out;
    assert_eq!(
        value(&proxy, "cutover_proxy_judge_verdict", &[("service", "shop"), ("verdict", "none")]),
        1.0
    );
    trouble(&scratch, "v3", "fail");
    Said::from(deploy.wait_with_output().unwrap()).expect(4);
    whole(&scratch, 2);
    assert_eq!(finish(&scratch, load).failed(), 0);

    let page = scrape(&scratch);
    let shop = ("service", "shop");
    for (outcome, count) in [("released", 1.0), ("refused", 1.0), ("rolled_back", 1.0)] {
        assert_eq!(value(&page, "cutover_releases_total", &[shop, ("outcome", outcome)]), count);
    }
    // Two instances each of the first and the third.
    assert_eq!(value(&page, "cutover_health_checks_total", &[shop, ("status", "success")]), 4.0);
    assert!(value(&page, "cutover_health_checks_total", &[shop, ("status", "failed")]) >= 1.0);
    let unhealthy = [shop, ("version", refused["candidate"].as_str().unwrap())];
    assert_eq!(value(&page, "cutover_service_health_status", &unhealthy), 0.0);
    assert!(value(&page, "cutover_health_check_duration_seconds_count", &[shop]) >= 5.0);
    assert_eq!(value(&page, "cutover_rollbacks_total", &[shop, ("cause", "trip")]), 1.0);
    assert_eq!(value(&page, "cutover_rollback_duration_seconds_count", &[shop]), 1.0);
    assert!(value(&page, "cutover_last_rollback_timestamp_seconds", &[shop]) > 1.6e9);
    // Each of the three began to be looked after.
    assert_eq!(value(&page, "cutover_steps_total", &[shop, ("step", "preflight")]), 3.0);
    assert!(!page.contains("cutover_release_under_way{"), "{page}");
    let proxy = scratch.run(&["proxy", "metrics"]).expect(0).out;
    assert_eq!(value(&proxy, "cutover_proxy_judge_verdict", &[shop, ("verdict", "fail")]), 1.0);
    assert!(value(&proxy, "cutover_proxy_judge_wealth_nats", &[shop]) >= 4.605, "{proxy}");
    assert_eq!(scratch.run(&["server", "metrics"]).expect(0).out, page);
    lint(&page);
    lint(&proxy);
}
