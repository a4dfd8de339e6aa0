//! Smoke tests against answers that a test chooses.

use std::path::Path;

use cutover_checks::NetworkChecker;
use cutover_core::{Blame, CheckOutcome, CheckResult, Fault};
use cutover_ports::Checker;

use super::harness::{answer, nowhere, path, request, server, tests};

/// Tries `smoke` on a server that gives `answers`, one after the other.
async fn smoke(folder: &Path, answers: &[&str], smoke: &str) -> Result<Vec<CheckResult>, Fault> {
    let (address, _requests) = server(answers).await;
    let mut request = request(folder, address, 5000, Vec::new());
    request.checks.smoke = tests(smoke);
    NetworkChecker::new().smoke(&request, &folder.join("smoke.log")).await
}

fn outcomes(results: &[CheckResult]) -> Vec<(CheckOutcome, &str)> {
    results.iter().map(|result| (result.outcome, result.detail.as_str())).collect()
}

#[tokio::test]
async fn a_missing_capture_fails_those_that_need_it_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let answers = [answer("200 OK", r#"{"id": null}"#), answer("200 OK", "fine")];
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let text = r#"
- {post: /carts, json: {item: 1}, capture: {cart: $.id}}
- {get: "/carts/${cart}"}
- {get: /health}
- {put: /carts, body: "${cart}"}
"#;
    let fault = smoke(folder.path(), &answers, text).await.unwrap_err();
    let needs = "needs `cart`, which was not captured: see the test before that captures it";
    let wanted = [
        (CheckOutcome::Failed, "has no $.id to capture as `cart`; body begins: {\"id\": null}"),
        (CheckOutcome::Failed, needs),
        (CheckOutcome::Passed, "200"),
        (CheckOutcome::Failed, needs),
    ];
    assert_eq!(outcomes(&fault.results), wanted);
}

#[tokio::test]
async fn a_request_is_sent_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (address, mut requests) =
        server(&[&answer("200 OK", r#"{"token": "abc"}"#), &answer("201 Created", "")]).await;
    let mut request = request(folder.path(), address, 5000, Vec::new());
    request.host = Some("shop.test".into());
    request.checks.smoke = tests(
        r#"
- {get: /login, capture: {token: $.token}}
- {post: /carts?a=b, headers: {authorization: "Bearer ${token}", user-agent: smoke}, json: {of: ["${token}", 2]},
   expect: {status: 201}}
"#,
    );
    let results = NetworkChecker::new().smoke(&request, &folder.path().join("log")).await.unwrap();
    assert_eq!(outcomes(&results), [(CheckOutcome::Passed, "200"), (CheckOutcome::Passed, "201")]);
    requests.recv().await.unwrap();
    let sent = requests.recv().await.unwrap();
    assert!(
        sent.starts_with("POST /carts?a=b HTTP/1.1\r\n") && sent.ends_with(r#"{"of":["abc",2]}"#),
        "{sent}"
    );
    for header in [
        "host: shop.test",
        "authorization: Bearer abc",
        "user-agent: smoke",
        "content-type: application/json",
        "content-length: 16",
    ] {
        assert!(sent.contains(&format!("{header}\r\n")), "{header} in {sent}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let lamp = "HTTP/1.1 200 OK\r\nX-Kind: lamp\r\nContent-Length: 4\r\n\r\nnone";
    for (text, why) in [
        ("{get: /, expect: {status: 201}}", "answered 200, expected 201; body begins: none"),
        ("{get: /, expect: {body: some}}", "body does not contain \"some\"; body begins: none"),
        (
            "{get: /, expect: {headers: {x-kind: desk}}}",
            "header x-kind is \"lamp\", which does not contain \"desk\"; body begins: none",
        ),
        (
            "{get: /, expect: {headers: {etag: a}}}",
            "the answer has no header etag, expected \"a\"; body begins: none",
        ),
        (
            "{get: /, capture: {tag: header etag}}",
            "has no header etag to capture as `tag`; body begins: none",
        ),
    ] {
        let fault = smoke(folder.path(), &[lamp], &format!("- {text}")).await.unwrap_err();
        assert_eq!(outcomes(&fault.results), [(CheckOutcome::Failed, why)]);
        assert_eq!(fault.blame, Blame::Candidate);
    }
    let fault = smoke(folder.path(), &[lamp], "- {get: /, expect: {json: {$.a: 1}}}").await.unwrap_err();
    assert!(fault.what.contains("the body is not JSON"), "{fault}");
}

#[tokio::test]
async fn no_answer_is_an_error_and_a_late_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let fault = smoke(folder.path(), &["silence"], "- {get: /, timeout: 100ms}").await.unwrap_err();
    assert_eq!(outcomes(&fault.results), [(CheckOutcome::Error, "no answer within 100ms")]);
    let mut request = request(folder.path(), nowhere().await, 5000, vec![path("/")]);
    request.checks.smoke = tests("- {get: /}\n- {run: 'echo waiting; exec sleep 1000', timeout: 200ms}");
    let fault = NetworkChecker::new().smoke(&request, &folder.path().join("log")).await.unwrap_err();
    let wanted = [
        (CheckOutcome::Error, "connection refused (errno 111)"),
        (CheckOutcome::Error, "did not end within 200ms"),
    ];
    assert_eq!(outcomes(&fault.results), wanted);
    assert_eq!(
        (fault.blame, fault.results[1].output.as_slice()),
        (Blame::Candidate, &["waiting".to_string()][..])
    );
}

#[tokio::test]
async fn a_command_that_cannot_run_is_the_files_fault() {
    let folder = tempfile::tempdir().unwrap();
    let fault = smoke(folder.path(), &[&answer("200 OK", "")], "- {get: /}\n- {run: ./missing.sh}")
        .await
        .unwrap_err();
    assert_eq!(fault.blame, Blame::Configuration, "{fault}");
    assert_eq!((fault.results[0].passed(), fault.results[1].blame), (true, Some(Blame::Configuration)));
    // Where another test says no, that decides: the release would be refused without the command, too.
    let fault = smoke(folder.path(), &[&answer("500 Oops", "")], "- {run: ./missing.sh}\n- {get: /}")
        .await
        .unwrap_err();
    assert_eq!(fault.blame, Blame::Candidate, "{fault}");
}
