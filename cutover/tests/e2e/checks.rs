//! Releases with health checks and smoke tests, through the instance and through the route.

use std::fs;

use crate::harness::{Scratch, get, python_there, wait};

/// Answers JSON with its version; a bad one has no carts, an ill one fails its health check.
const SERVICE: &str = r#"
import http.server, json, os

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        version = open("version").read().strip()
        status, body = 200, {"version": version, "host": self.headers["host"]}
        if self.path == "/carts" and version == "bad":
            status, body = 500, {"error": "no carts"}
        if self.path == "/health" and os.path.exists(os.environ["ILL"]):
            status = 503
        if self.path == "/health":
            open(os.environ["ILL"] + ".asked", "a").write("once\n")
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"#;

const CHECKS: &str = r#"
checks:
  health: [{path: /health}, {path: /, through: route}]
  smoke:
    - {get: /, expect: {status: 200, json: {$.version: {exists: true}}}, capture: {version: $.version}}
    - {name: carts, get: /carts, expect: {status: 200}}
    - {name: by the route, get: /, through: route, expect: {json: {$.version: "${version}"}}}
    - run: 'echo "smoke of $version at $CUTOVER_URL"'
bake: 0s
keep_warm: 0s
drain: 1s
"#;

fn write(scratch: &Scratch, version: &str, more: &str) {
    let app = scratch.path().join("app");
    fs::create_dir_all(&app).unwrap();
    fs::write(app.join("serve.py"), SERVICE).unwrap();
    fs::write(app.join("version"), version).unwrap();
    let ill = scratch.path().join("ill");
    let local = format!(
        "command: [python3, serve.py], artifact: app, replicas: 2, env: {{ILL: '{}'}}",
        ill.display()
    );
    scratch.file(&local, more);
}

#[test]
fn a_failing_smoke_test_refuses_the_release_and_the_report_names_it() {
    if !python_there("a_failing_smoke_test_refuses_the_release_and_the_report_names_it") {
        return;
    }
    let scratch = Scratch::new();
    // The first release has no route yet: the pin makes it reachable for its own checks alone.
    write(&scratch, "v1", CHECKS);
    let report = scratch.deploy().expect(0).report();
    let passed = |report: &serde_json::Value, kind: &str| {
        let of_kind = |check: &&serde_json::Value| check["kind"] == kind;
        let checks = report["checks"].as_array().unwrap().iter().filter(of_kind);
        checks.map(|check| check["outcome"] == "passed").collect::<Vec<_>>()
    };
    assert_eq!(
        (passed(&report, "health"), passed(&report, "smoke")),
        (vec![true; 4], vec![true; 4]),
        "{report}"
    );
    write(&scratch, "bad", CHECKS);
    let said = scratch.run(&["deploy"]).expect(3);
    for text in
        ["| smoke of bad at http://127.0.0.1:", "4 of 4 health checks passed", "3 of 4 smoke tests passed"]
    {
        assert!(said.out.contains(text), "{text}:\n{}", said.out);
    }
    let failed = "carts failed: answered 500, expected 200; body begins: {\"error\": \"no carts\"}";
    assert_eq!(said.out.matches(failed).count(), 4, "{}", said.out);
    let (status, body) = get(scratch.address, "/carts").unwrap();
    assert!(status == 200 && body.contains("v1"), "users never met it: {status} {body}");
    // Nothing of the refused candidate is left in the router.
    let tracks = scratch.status()["services"][0]["router"]["tracks"].as_array().unwrap().len();
    assert_eq!(tracks, 1);
    let shown = scratch.run(&["show", "shop-2"]).expect(0);
    assert!(shown.out.contains(failed) && shown.out.contains("smoke tests passed"), "{}", shown.out);
    let xml = scratch.run(&["show", "shop-2", "--junit", "-"]).expect(0).out;
    assert!(xml.starts_with("<?xml") && xml.contains("tests=\"8\" failures=\"1\" errors=\"0\""), "{xml}");
    scratch.run(&["show", "shop-2", "--junit", "report.xml"]).expect(0);
    assert_eq!(fs::read_to_string(scratch.path().join("report.xml")).unwrap(), xml);
    // The same, when what was wrong is right.
    write(&scratch, "v3", CHECKS);
    scratch.deploy().expect(0);
    assert!(get(scratch.address, "/").unwrap().1.contains("v3"));
}

#[test]
fn a_candidate_that_falls_ill_during_its_bake_is_taken_back() {
    if !python_there("a_candidate_that_falls_ill_during_its_bake_is_taken_back") {
        return;
    }
    let scratch = Scratch::new();
    let checks =
        "checks: {health: [{path: /health}]}\nkeep_warm: 0s\ndrain: 1s\nguard: {on_inconclusive: hold}\n";
    write(&scratch, "v1", &format!("{checks}bake: 0s"));
    scratch.deploy().expect(0);
    write(&scratch, "v2", &format!("{checks}bake: 10m"));
    let path = scratch.path().join("cutover.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let listen = format!("listen: '{}'", scratch.address);
    let text = text.replace(&listen, &format!("{listen}, checks: {{interval: 200ms, fall: 2}}"));
    // Only the candidate looks at this file.
    fs::write(&path, text.replace("/ill'", "/ill-v2'")).unwrap();
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    wait("the bake", || {
        let status = scratch.run(&["status", "--output", "json"]);
        (status.code == 0 && status.json()["services"][0]["service"]["current"]["step"] == "bake")
            .then_some(())
    });
    fs::write(scratch.path().join("ill-v2"), "").unwrap();
    let output = deploy.wait_with_output().unwrap();
    let said = crate::harness::Said::from(output).expect(4);
    let why = said.report()["why"].to_string();
    assert!(why.contains("checks: ") && why.contains("GET /health"), "{why}");
    assert!(get(scratch.address, "/").unwrap().1.contains("v1"));
}

#[test]
fn an_instance_that_lives_no_more_is_started_again() {
    if !python_there("an_instance_that_lives_no_more_is_started_again") {
        return;
    }
    let scratch = Scratch::new();
    let live = "checks: {health: [{path: /}], live: [{path: /health, interval: 1s, fall: 2}]}\nbake: 0s\nkeep_warm: 0s";
    write(&scratch, "v1", live);
    scratch.deploy().expect(0);
    let restarts = || {
        let status = scratch.status();
        let instances = status["services"][0]["revisions"][0]["instances"].as_array().unwrap().clone();
        instances.iter().map(|instance| instance["restarts"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(restarts(), 0);
    // Until an instance has lived it has the time of its start.
    wait("both to be asked", || {
        let asked = fs::read_to_string(scratch.path().join("ill.asked")).unwrap_or_default();
        (asked.lines().count() >= 6).then_some(())
    });
    fs::write(scratch.path().join("ill"), "").unwrap();
    wait("one to be started again", || (restarts() > 0).then_some(()));
    fs::remove_file(scratch.path().join("ill")).unwrap();
    crate::service::settled(&scratch, 2);
}
