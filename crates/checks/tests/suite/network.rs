//! HTTP and TCP checks.

use cutover_checks::NetworkChecker;
use cutover_core::file::{Check, Expect, StatusRange, TargetProtocol, Through};
use cutover_core::{After, Blame, CheckOutcome, Fault, Span};
use cutover_ports::{CheckedRoute, Checker};

use super::harness::{answer, ask, ask_as, nowhere, path, request, run, server, server_http2, tcp, told};

async fn failure(answers: &[&str], check: Check) -> String {
    let (address, _requests) = server(answers).await;
    let fault = ask(address, 300, vec![check]).await.unwrap_err();
    assert_eq!((fault.blame, fault.after), (Blame::Candidate, After::Final));
    told(&fault, address)
}

#[tokio::test]
async fn what_passes_is_told_with_its_time() {
    let (address, mut requests) = server(&[&answer("200 OK", "fine")]).await;
    for _ in 0..2 {
        let line = ask(address, 5000, vec![path("/health")]).await.unwrap();
        assert!(line.starts_with("GET /health passed in ") && line.ends_with('s'), "{line}");
        let request = requests.recv().await.unwrap().to_lowercase();
        for part in
            ["get /health http/1.1\r\n", "user-agent: cutover-check\r\n", &format!("host: {address}\r\n")]
        {
            assert!(request.contains(part), "{part} in {request}");
        }
    }
    let line = ask(address, 5000, vec![tcp(), path("/")]).await.unwrap();
    assert!(line.starts_with("tcp passed in ") && line.contains("; GET / passed in "), "{line}");
    assert!(ask(address, 5000, vec![]).await.unwrap().starts_with("tcp passed"), "no check means tcp");
}

#[tokio::test]
async fn an_instance_of_http_2_is_asked_in_http_2() {
    let ask = async |address, within_ms| {
        ask_as(TargetProtocol::H2c, "/".as_ref(), address, within_ms, vec![path("/health?a=b")]).await
    };
    let (address, mut requests) = server_http2(200).await;
    assert!(ask(address, 5000).await.unwrap().starts_with("GET /health?a=b passed in "));
    let request = requests.recv().await.unwrap();
    assert_eq!(request.uri.to_string(), format!("http://{address}/health?a=b"));
    assert!(!request.headers.contains_key("host") && !request.headers.contains_key("connection"));
    let (address, _requests) = server_http2(503).await;
    let text = told(&ask(address, 300).await.unwrap_err(), address);
    let wanted = "GET /health?a=b on ADDRESS: answered 503, expected 200-399 for 300ms, N tries; body begins: of http/2";
    assert_eq!(text, wanted);
    let (address, _requests) = server(&[&answer("200 OK", "fine")]).await;
    let text = told(&ask(address, 300).await.unwrap_err(), address);
    assert!(text.contains("the answer broke off"), "{text}");
}

#[tokio::test]
async fn a_slow_starter_passes_once_it_answers() {
    let bad = answer("503 Service Unavailable", "starting");
    let (address, mut requests) = server(&[&bad, &bad, &bad, &answer("200 OK", "")]).await;
    let check = Check { interval: Span::from_secs(60), ..path("/") };
    let line = ask(address, 5000, vec![check]).await.unwrap();
    assert!(
        line.ends_with("ms") || line.ends_with("0.1s"),
        "the first tries come quicker than the interval: {line}"
    );
    let mut asked = 0;
    while requests.try_recv().is_ok() {
        asked += 1;
    }
    assert_eq!(asked, 4);
}

#[tokio::test]
async fn a_refused_connection_says_its_errno() {
    let address = nowhere().await;
    for check in [path("/health"), tcp()] {
        let name = check.name();
        let fault = ask(address, 300, vec![check]).await.unwrap_err();
        let text = format!("{name} on ADDRESS: connection refused (errno 111) for 300ms, N tries");
        assert_eq!(told(&fault, address), text);
    }
}

#[tokio::test]
async fn a_wrong_status_shows_the_body() {
    let text = failure(&[&answer("500 Internal Server Error", "no\n database")], path("/health")).await;
    assert_eq!(
        text,
        "GET /health on ADDRESS: answered 500, expected 200-399 for 300ms, N tries; body begins: no database"
    );
    let expect = Expect { status: StatusRange { from: 204, to: 204 }, body: None };
    let text = failure(&[&answer("200 OK", "")], Check { expect, ..path("/health") }).await;
    assert_eq!(
        text,
        "GET /health on ADDRESS: answered 200, expected 204 for 300ms, N tries; the body is empty"
    );
}

#[tokio::test]
async fn a_wrong_body_is_shown() {
    let expect = Expect { body: Some("ready".into()), ..Expect::default() };
    let check = Check { expect, ..path("/health") };
    let text = failure(&[&answer("200 OK", "warming up")], check.clone()).await;
    assert_eq!(
        text,
        "GET /health on ADDRESS: body does not contain \"ready\" for 300ms, N tries; body begins: warming up"
    );
    let (address, _requests) = server(&[&answer("200 OK", "all ready now")]).await;
    assert!(ask(address, 5000, vec![check]).await.is_ok());
}

#[tokio::test]
async fn only_the_first_64_kib_of_a_body_are_read() {
    let expect = Expect { body: Some("ready".into()), ..Expect::default() };
    let body = format!("{}ready", "x".repeat(64 << 10));
    let text = failure(&[&answer("200 OK", &body)], Check { expect, ..path("/") }).await;
    assert!(text.starts_with("GET / on ADDRESS: body does not contain \"ready\""), "{text}");
    assert!(text.len() < 400);
}

#[tokio::test]
async fn silence_a_cut_and_nonsense_are_told_apart() {
    let check = Check { timeout: Span::from_ms(50), ..path("/health") };
    assert_eq!(
        failure(&["silence"], check).await,
        "GET /health on ADDRESS: no answer within 50ms for 300ms, N tries"
    );
    let text = failure(&[""], path("/health")).await;
    let cut = text.contains("the answer broke off") || text.contains("connection reset");
    assert!(cut && text.ends_with("for 300ms, N tries"), "{text}");
    let text = failure(&["SSH-2.0-OpenSSH_9\r\n\r\n"], path("/health")).await;
    assert!(text.contains("the answer is not HTTP"), "{text}");
}

#[tokio::test]
async fn all_that_fails_is_told_and_what_passes_is_not() {
    let (address, _requests) = server(&[&answer("404 Not Found", "")]).await;
    let fault = ask(address, 300, vec![path("/a"), tcp(), path("/b")]).await.unwrap_err();
    let text = told(&fault, address);
    assert!(text.contains("GET /a on") && text.contains("; GET /b on") && !text.contains("tcp"), "{text}");
}

#[tokio::test]
async fn a_check_that_cannot_be_asked_is_the_files_fault() {
    let address = nowhere().await;
    for bad in ["health", "/a b", ""] {
        let fault = ask(address, 60_000, vec![path(bad)]).await.unwrap_err();
        assert_eq!(fault.blame, Blame::Configuration, "{bad}: {fault}");
    }
}

#[tokio::test]
async fn failed_is_told_apart_from_no_answer() {
    let results = |fault: &Fault| -> Vec<(String, CheckOutcome, Option<Blame>)> {
        fault.results.iter().map(|result| (result.check.clone(), result.outcome, result.blame)).collect()
    };
    let (address, _requests) = server(&[&answer("500 Oops", "")]).await;
    let own = Some(Blame::Candidate);
    let fault = ask(address, 200, vec![path("/a"), tcp()]).await.unwrap_err();
    let wanted = [("GET /a".into(), CheckOutcome::Failed, own), ("tcp".into(), CheckOutcome::Passed, None)];
    assert_eq!(results(&fault), wanted);
    let fault = ask(nowhere().await, 200, vec![path("/a")]).await.unwrap_err();
    assert_eq!(results(&fault), [("GET /a".into(), CheckOutcome::Error, own)]);
}

/// A check that cannot run ends the others after the try that they are at; the report has all of them.
#[tokio::test]
async fn a_check_that_cannot_run_does_not_hide_the_others() {
    let (address, _requests) = server(&[&answer("200 OK", "")]).await;
    let never = run("./missing.sh");
    let fault = ask(address, 60_000, vec![never, path("/a"), path("/b")]).await.unwrap_err();
    assert_eq!(fault.blame, Blame::Configuration, "{fault}");
    let passed: Vec<bool> = fault.results.iter().map(cutover_core::CheckResult::passed).collect();
    assert_eq!(passed, [false, true, true]);
}

/// What the router answers by itself is the candidate's fault only where it could not be reached.
#[tokio::test]
async fn an_answer_of_the_router_is_not_the_candidates() {
    let own = |blame: &str| {
        let head = format!("X-Cutover-Blame: {blame}\r\nX-Cutover-Reason: no-route\r\nContent-Length: 0");
        format!("HTTP/1.1 404 Not Found\r\n{head}\r\n\r\n")
    };
    for (said, blame) in [("client", Blame::Platform), ("target", Blame::Candidate)] {
        let (address, mut requests) = server(&[&own(said)]).await;
        let check = Check { through: Through::Route, ..path("/") };
        let mut asked = request("/".as_ref(), nowhere().await, 200, vec![check]);
        let pin = ("x-pin".to_string(), "r-1:abc".to_string());
        asked.route = Some(CheckedRoute { address, pin, tls: None });
        let fault = NetworkChecker::new().check(&asked).await.unwrap_err();
        assert_eq!(fault.blame, blame, "{fault}");
        assert!(requests.recv().await.unwrap().contains("x-pin: r-1:abc\r\n"));
    }
}
