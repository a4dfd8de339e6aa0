//! Candidates that are broken in every way: refused with the cause, before any traffic moved.

use std::fs;

use crate::harness::{Said, Scratch, get};

const GOOD: &str = "command: [python3, -m, http.server, $PORT, --bind, 127.0.0.1], stop_grace: 1s";
const MORE: &str =
    "checks: {health: [{path: /, timeout: 1s, interval: 200ms}], within: 4s}\nbake: 0s\ndrain: 2s";

/// Releases a good revision, then a broken one; what is said must name the cause, and traffic must not have moved.
fn refused(local: &str, cause: &str) -> Said {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("index.html"), "good\n").unwrap();
    scratch.file(GOOD, MORE);
    scratch.deploy().expect(0);
    scratch.file(local, MORE);
    let said = scratch.run(&["deploy"]).expect(3);
    assert!(said.out.contains(cause), "no \"{cause}\" in:\n{}", said.out);
    assert!(said.out.contains("before any traffic moved"), "{}", said.out);
    assert_eq!(get(scratch.address, "/"), Some((200, "good\n".into())));
    let status = scratch.status();
    let revisions = status["services"][0]["revisions"].as_array().unwrap();
    let running: usize = revisions.iter().map(|seen| seen["instances"].as_array().unwrap().len()).sum();
    assert_eq!(running, 1, "nothing of the candidate is left: {status}");
    said
}

#[test]
fn it_never_listens() {
    if !crate::harness::python_there("it_never_listens") {
        return;
    }
    refused("command: [sleep, '600']", "connection refused (errno 111)");
}

#[test]
fn it_answers_500() {
    if !crate::harness::python_there("it_answers_500") {
        return;
    }
    let app = "import http.server,os\nclass H(http.server.BaseHTTPRequestHandler):\n  def do_GET(s):\n    s.send_response(500); s.end_headers(); s.wfile.write(b'no table orders')\nhttp.server.HTTPServer(('127.0.0.1',int(os.environ['PORT'])),H).serve_forever()";
    let app = app.replace('\n', "\\n");
    let said = refused(&format!("command: [python3, -c, \"{app}\"]"), "answered 500");
    assert!(said.out.contains("no table orders"), "{}", said.out);
}

#[test]
fn it_exits_at_once() {
    if !crate::harness::python_there("it_exits_at_once") {
        return;
    }
    let said = refused("command: [sh, -c, 'echo cannot open the config; exit 3']", "3");
    assert!(
        said.out.contains("| ") && said.out.contains("cannot open the config"),
        "its log is shown: {}",
        said.out
    );
}

#[test]
fn its_program_does_not_exist() {
    if !crate::harness::python_there("its_program_does_not_exist") {
        return;
    }
    refused("command: [no-such-program]", "no-such-program");
}

#[test]
fn it_listens_on_the_wrong_port() {
    if !crate::harness::python_there("it_listens_on_the_wrong_port") {
        return;
    }
    let other = crate::harness::free_address().port();
    let said =
        refused(&format!("command: [python3, -m, http.server, '{other}', --bind, 127.0.0.1]"), "instead of");
    assert!(said.out.contains(&other.to_string()), "{}", said.out);
}

#[test]
fn another_process_listens_where_it_should() {
    if !crate::harness::python_there("another_process_listens_where_it_should") {
        return;
    }
    // The candidate itself never listens; a stranger in a session of its own, with nothing of its, does.
    let stranger = "env -i setsid -f python3 -m http.server $PORT --bind 127.0.0.1 --directory $PWD";
    let said = refused(&format!("command: [sh, -c, '{stranger}; exec sleep 600']"), "listens");
    assert!(said.out.contains("http.server"), "the stranger is named: {}", said.out);
}

#[test]
fn it_ignores_the_stop_signal_and_is_killed_after_its_grace() {
    if !crate::harness::python_there("it_ignores_the_stop_signal_and_is_killed_after_its_grace") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(
        "command: [sh, -c, 'trap \"\" TERM; python3 -m http.server $PORT --bind 127.0.0.1'], stop_grace: 1s",
        "bake: 0s\nkeep_warm: 0s\ndrain: 1s",
    );
    scratch.deploy().expect(0);
    let stubborn = scratch.status()["services"][0]["revisions"][0]["instances"][0]["pid"].as_i64().unwrap();
    scratch.file(GOOD, "bake: 0s\nkeep_warm: 0s\ndrain: 1s");
    scratch.deploy().expect(0);
    crate::harness::wait("the stubborn one to be gone", || {
        (!crate::harness::alive(i32::try_from(stubborn).unwrap())).then_some(())
    });
    assert_eq!(get(scratch.address, "/").map(|(status, _)| status), Some(200));
}

#[test]
fn the_machine_is_too_small_for_both() {
    if !crate::harness::python_there("the_machine_is_too_small_for_both") {
        return;
    }
    refused(&format!("{GOOD}, memory: 4Ti, env: {{A: b}}"), "4096Gi");
}
