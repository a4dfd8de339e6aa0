//! The proxy as curl sees it, where curl is: a client that nobody here wrote.

use std::path::Path;
use std::process::Stdio;

use cutover_proxy::{TargetProtocol, TlsRoute};
use tokio::process::Command;
use tokio::time::timeout;

use super::harness::{LIMIT, Proxy, any, table, track};
use super::tls_client::Authority;
use super::upstream::Upstream;

/// Runs curl; returns what it prints. None: there is no curl that can do this.
async fn curl(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "15", "--noproxy", "*"]).args(arguments);
    let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(LIMIT, run).await.unwrap().ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("the installed libcurl version doesn't support this") {
        return None;
    }
    assert!(output.status.success(), "curl {arguments:?}: {said}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Says in one line that a test was left out; in CI nothing is.
fn skipped() {
    assert!(
        std::env::var_os("CUTOVER_TEST_SERVERS").is_none(),
        "curl with HTTP/2 is missing: apt-get install curl"
    );
    println!("skipped: curl with HTTP/2 is not installed");
}

#[tokio::test]
async fn curl_gets_its_answers_in_every_protocol() {
    let (proxy, upstream) = (Proxy::start().await, Upstream::start("v1").await);
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let (secure, balanced) =
        (proxy.client.listen(any()).await.unwrap(), proxy.client.listen(any()).await.unwrap());
    let (cert, key) = authority.issue("shop.test").write(files.path(), "shop");
    let root = authority.write_root(files.path());
    let mut service = table(vec![track("v1", 10_000, &[upstream.addr])]);
    let host = Some("shop.test".to_owned());
    service.tls = vec![TlsRoute { listen: secure, host, cert, key, acme: None, hsts_s: None }];
    service.passing.proxy_protocol = vec![balanced];
    let plain = format!("http://{}", proxy.addr);
    let https = format!("https://shop.test:{}", secure.port());
    let resolve = format!("shop.test:{}:127.0.0.1", secure.port());
    let body = files.path().join("body");
    std::fs::write(&body, vec![b'x'; 2_000_000]).unwrap();
    let upload = format!("@{}", body.display());
    // In front of targets of either protocol.
    for (generation, protocol) in [TargetProtocol::Http1, TargetProtocol::H2c].into_iter().enumerate() {
        service.tracks[0].protocol = protocol;
        proxy.set(generation as u64, &service).await;
        let said = "%{http_version} %{response_code} %{size_download}";
        let told = ["--write-out", said, "--output", "/dev/null", "--data-binary", &upload];
        let tls = ["--cacert", path(&root), "--resolve", &resolve];
        let (echo, secure_echo) = (format!("{plain}/echo"), format!("{https}/echo"));
        for (arguments, version) in [
            (vec!["--http1.1", &*echo], "1.1"),
            (vec!["--http2-prior-knowledge", &*echo], "2"),
            ([&["--http1.1", &*secure_echo], &tls[..]].concat(), "1.1"),
            ([&["--http2", &*secure_echo], &tls[..]].concat(), "2"),
        ] {
            match curl(&[&arguments[..], &told[..]].concat()).await {
                Some(answer) => assert_eq!(answer, format!("{version} 200 2000000"), "{arguments:?}"),
                None => return skipped(),
            }
        }
        // As a load balancer would, with itself for the client.
        let headers = format!("http://{balanced}/headers");
        let Some(answer) = curl(&["--haproxy-protocol", &headers]).await else { return skipped() };
        assert!(answer.contains("x-forwarded-for: 127.0.0.1"), "{answer}");
        // An upload that asks first, as curl does by itself with a long one of HTTP/1.1.
        let asks = ["--http1.1", "--header", "expect: 100-continue", "--data-binary", "abc", &echo];
        assert_eq!(curl(&asks).await.as_deref(), Some("abc"));
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
