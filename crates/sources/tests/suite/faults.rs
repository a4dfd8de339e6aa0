//! Stores that are slow, wrong, down, or behind TLS.

use std::sync::Arc;
use std::time::Duration;

use cutover_sources::{AskErrorKind, Found, Names, OwnSources, Setting, Sources};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::harness::{Does, answer, certificate, metric, serve, server, setting, source};

const FIVE: &str = r#"{"status":"success","data":{"resultType":"scalar","result":[1700000000,"5"]}}"#;

async fn kind(does: impl Fn(&str) -> Does + Send + Sync + 'static) -> (AskErrorKind, String) {
    let address = server(does).await;
    let source = source(json!({"prometheus": {"address": format!("http://{address}/"), "query": "x"}}));
    let error = source.ask().await.unwrap_err();
    (error.kind, error.what)
}

#[tokio::test]
async fn what_is_no_answer_of_a_store_is_an_outage() {
    for bytes in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"status\":",
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
        "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
    ] {
        let (kind, what) = kind(move |_| Does::Says(bytes.into())).await;
        assert_eq!(kind, AskErrorKind::Down, "{bytes:?}: {what}");
    }
    let (kind, what) = kind(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n";
        Does::Says([head.as_bytes(), &vec![b' '; 9_000_000][..]].concat())
    })
    .await;
    assert!(kind == AskErrorKind::Down && what.contains("too long"), "{what}");
}

#[tokio::test]
async fn nobody_there_is_an_outage() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let source = source(json!({"prometheus": {"address": format!("http://{address}"), "query": "x"}}));
    let error = source.ask().await.unwrap_err();
    assert_eq!(error.kind, AskErrorKind::Down);
    assert!(error.what.contains("connection refused"), "{error}");
}

/// The deadline is the caller's, and nothing of the question is left when it is over.
#[tokio::test]
async fn a_slow_store_is_given_up_on() {
    let address = server(|_| Does::Hangs).await;
    let source = source(json!({"prometheus": {"address": format!("http://{address}"), "query": "x"}}));
    assert!(timeout(Duration::from_millis(50), source.ask()).await.is_err());
}

#[tokio::test]
async fn a_refused_question_says_why_and_an_answer_is_a_number() {
    let (kind, what) =
        kind(|_| answer(400, r#"{"status":"error","errorType":"bad_data","error":"1:3: parse error"}"#))
            .await;
    assert_eq!(kind, AskErrorKind::Wrong);
    assert!(what.contains("1:3: parse error"), "{what}");
    let address = server(|head| {
        assert!(head.starts_with("GET /api/v1/query?query=x%7Bsvc%3D%22shop%22%7D HTTP/1.1\r\n"), "{head}");
        answer(200, FIVE)
    })
    .await;
    let query = "x{svc=\"{{service}}\"}";
    let source = source(json!({"prometheus": {"address": format!("http://{address}"), "query": query}}));
    assert_eq!(source.ask().await.unwrap().found, Found::Value(5.0));
}

/// A store's clock that is wrong is said, and changes nothing: all times of a question are its own.
#[tokio::test]
async fn a_stores_wrong_clock_is_said() {
    let address = server(|head| {
        let sampled = head.contains("timestamp");
        assert!(!sampled || head.contains("&time=1700000000.000"), "{head}");
        let value = if sampled { "1699999990" } else { "0.5" };
        answer(
            200,
            &format!(
                r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1700000000,"{value}"]}}]}}}}"#
            ),
        )
    })
    .await;
    let keys = json!({"prometheus": {
        "address": format!("http://{address}"), "preset": "istio", "namespace": "web", "candidate": "shop",
    }});
    let setting = Setting { wall: Arc::new(|| 1_700_007_200_000), ..setting() };
    let reading = OwnSources.metric(&metric(keys), &setting).unwrap().ask().await.unwrap();
    assert_eq!(reading.age(), "sampled 10s before, its clock is 2h behind");
}

#[tokio::test]
async fn secrets_are_sent_and_never_shown() {
    let address = server(|head| {
        let head = head.to_ascii_lowercase();
        let sent = head.contains("dd-api-key: s3cret\r\n") && head.contains("accept-language: en\r\n");
        if sent { answer(200, r#"{"series":[{"points":[[1,2]]}]}"#) } else { answer(403, "{}") }
    })
    .await;
    let keys = json!({"http": {
        "url": format!("http://{address}/v1/query?q={{{{service}}}}"),
        "value": "series[0].points[-1][1]",
        "headers": {"Accept-Language": "en"},
        "secret_headers": {"DD-API-KEY": "DD_KEY"},
    }});
    let error = OwnSources.metric(&metric(keys.clone()), &setting()).err().unwrap();
    assert_eq!(error.kind, AskErrorKind::Wrong);
    assert!(error.what.contains("DD_KEY"), "{error}");
    let with = |value: &str| Setting { secrets: [("DD_KEY".into(), value.into())].into(), ..setting() };
    let source = OwnSources.metric(&metric(keys.clone()), &with("s3cret")).unwrap();
    assert_eq!(source.ask().await.unwrap().found, Found::Value(2.0));
    let error = OwnSources.metric(&metric(keys), &with("two\nlines")).err().unwrap();
    assert!(!format!("{error:?}").contains("lines"), "{error:?}");
}

#[tokio::test]
async fn https_is_asked_only_where_it_is_trusted() {
    let (_folder, root, config) = certificate();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, &|_: &str| answer(200, FIVE)).await;
            }
        }
    });
    let keys = json!({"prometheus": {"address": format!("https://{address}"), "query": "x"}});
    let trusting = Setting { roots: Some(root), ..setting() };
    let source = OwnSources.metric(&metric(keys.clone()), &trusting).unwrap();
    assert_eq!(source.ask().await.unwrap().found, Found::Value(5.0));
    let (_other, stranger, _) = certificate();
    let distrusting = Setting { roots: Some(stranger), names: Names::default(), ..setting() };
    let error = OwnSources.metric(&metric(keys), &distrusting).unwrap().ask().await.unwrap_err();
    assert_eq!(error.kind, AskErrorKind::Down);
    assert!(error.what.contains("certificate"), "{error}");
}
