//! Proxies and clients of different versions: understood, or refused in words, and traffic goes on.

use std::time::Duration;

use cutover_proxy::{Client, ErrorKind, PROTOCOL};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::harness::{LIMIT, Proxy, SERVICE, signal, spawn_holder, table, track, until, until_seen};
use super::upstream::Upstream;

/// Says one line on the admin socket, as a client of any version might; returns the answer.
async fn say(proxy: &Proxy, line: &str) -> Value {
    let mut stream = BufReader::new(UnixStream::connect(proxy.path("proxy.sock")).await.unwrap());
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut reply = String::new();
    timeout(LIMIT, stream.read_line(&mut reply)).await.unwrap().unwrap();
    serde_json::from_str(&reply).unwrap()
}

async fn serving() -> (Proxy, Upstream) {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    (proxy, v1)
}

/// Lines as the first clients wrote them. They must be understood for as long as protocol 1 is.
#[tokio::test]
async fn recorded_lines_of_the_first_protocol_are_understood() {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    let target = format!(r#"{{"instance":"i","address":"{}","ready":true}}"#, v1.addr);
    let tracks = format!(
        r#"[{{"revision":"v1","weight_bp":9000,"targets":[{target}]}},{{"revision":"v2","weight_bp":1000,"targets":[{target}]}}]"#
    );
    let lease = r#"{"release":"r1","revision":"v2","lease_ms":60000,"fallback":[["v1",10000]],"guard":{"min_requests":20,"max_error_bp":500,"max_mean_ms":null,"max_p95_ms":null}}"#;
    let full = format!(
        r#"{{"generation":0,"epoch":0,"hosts":["*"],"listen":[],"tracks":{tracks},"candidate":{lease},"pin_key":null,"maintenance":null,"response_timeout_ms":null,"trust_forwarded":false}}"#
    );
    let lines = [
        (r#"{"verb":"hello","version":1}"#.to_owned(), "/worker_pid"),
        (format!(r#"{{"verb":"listen","addr":"{}","version":1}}"#, proxy.addr), ""),
        (
            format!(
                r#"{{"verb":"set","service":"shop","expected_generation":0,"epoch":1,"table":{full},"version":1}}"#
            ),
            "/acknowledged_ns",
        ),
        (r#"{"verb":"observe","service":null,"version":1}"#.to_owned(), "/services/shop/effective/v2"),
        (
            r#"{"verb":"observe","service":"shop","version":1}"#.to_owned(),
            "/services/shop/table/tracks/1/weight_bp",
        ),
        (r#"{"verb":"renew","service":"shop","release":"r1","epoch":1,"version":1}"#.to_owned(), "/restored"),
        (r#"{"verb":"back","service":"shop","why":"bad","version":1}"#.to_owned(), "/generation"),
        (
            r#"{"verb":"drain","service":"shop","revision":"v2","deadline_ms":1000,"version":1}"#.to_owned(),
            "/left",
        ),
        (r#"{"verb":"events","after":0,"version":1}"#.to_owned(), "/0/number"),
        (r#"{"verb":"watch","after":0,"timeout_ms":1000,"version":1}"#.to_owned(), "/0/why"),
        (r#"{"verb":"ack","up_to":1,"version":1}"#.to_owned(), ""),
        (
            r#"{"verb":"remove_service","service":"shop","expected_generation":2,"epoch":1,"version":1}"#
                .to_owned(),
            "/changed",
        ),
    ];
    for (line, key) in lines {
        let reply = say(&proxy, &line).await;
        assert!(reply.get("ok").is_some_and(|ok| ok.pointer(key).is_some()), "{line}\n{reply}");
    }
}

#[tokio::test]
async fn a_client_of_a_newer_protocol_is_refused_in_words_and_changes_nothing() {
    let (proxy, _v1) = serving().await;
    let holder = proxy.holder.id().to_string();
    let newer = PROTOCOL + 1;
    // Who answers is said to every version; the newer side can decide then.
    let hello = say(&proxy, &format!(r#"{{"version":{newer},"verb":"hello","more":1}}"#)).await;
    assert_eq!((&hello["ok"]["protocol"], &hello["ok"]["oldest_protocol"]), (&json!(1), &json!(1)));
    let set = r#""verb":"set","service":"shop","expected_generation":1,"epoch":1,"table":{}"#;
    for (line, word) in [
        (format!(r#"{{"version":{newer},{set}}}"#), format!("protocol {newer}")),
        (format!("{{{set}}}"), "no protocol version".into()),
        (format!(r#"{{"version":{newer},"verb":"fly"}}"#), format!("protocol {newer}")),
        (r#"{"version":1,"verb":"fly","to":"moon"}"#.into(), "\"fly\" is not known here".into()),
        ("nonsense".into(), "cannot be read".into()),
        (format!(r#"{{"version":{newer},"verb":"handover"}}"#), format!("protocol {newer}")),
    ] {
        let reply = say(&proxy, &line).await;
        let text = reply["error"].to_string();
        assert!(text.contains("protocol") && text.contains(&word.replace('"', "\\\"")), "{line}\n{reply}");
        if line != "nonsense" {
            assert!(
                text.contains("speaks protocol 1") && text.contains(&format!("kill -HUP {holder}")),
                "{text}"
            );
        }
    }
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    assert_eq!(seen.services[SERVICE].table.generation, 1);
    assert_eq!(proxy.get("/id").await.text(), "v1");
}

/// A proxy of another version: answers each request with what `answer` makes of its verb.
fn stranger(dir: &std::path::Path, answer: impl Fn(&str) -> Value + Send + 'static) {
    let listener = UnixListener::bind(dir.join("proxy.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let request: Value = serde_json::from_str(&line).unwrap();
            let reply = answer(request["verb"].as_str().unwrap());
            stream.write_all(format!("{reply}\n").as_bytes()).await.unwrap();
        }
    });
}

fn hello(oldest: u32, newest: u32) -> Value {
    json!({"ok": {"version": "9.9.9", "protocol": newest, "oldest_protocol": oldest, "worker_pid": 1, "holder_pid": 7,
                  "threads": 2, "dir": "/there", "listeners": [], "something_new": [1]}})
}

#[tokio::test]
async fn a_client_that_meets_another_proxy_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    stranger(dir.path(), |verb| {
        assert_eq!(verb, "hello", "nothing is asked of a proxy that we do not understand");
        hello(PROTOCOL + 1, PROTOCOL + 3)
    });
    let refused = Client::connect(dir.path()).await.unwrap_err();
    assert_eq!(refused.kind(), &ErrorKind::Protocol);
    for words in ["of cutover 9.9.9", "speaks protocols 2 to 4", "use cutover 9.9.9", "traffic goes on"] {
        assert!(refused.to_string().contains(words), "{refused}");
    }
    // To know who is there, and to stop it, it is enough that it says so.
    assert_eq!(Client::new(dir.path()).hello().await.unwrap().holder_pid, Some(7));
    // A newer one that still understands us: what it says beyond is passed over.
    let dir = tempfile::tempdir().unwrap();
    stranger(dir.path(), |verb| match verb {
        "hello" => hello(PROTOCOL, PROTOCOL + 3),
        _ => json!({"error": {"kind": "sulking", "mood": "bad", "message": "no candidate today"}}),
    });
    let client = Client::connect(dir.path()).await.unwrap();
    let error = client.renew(SERVICE, "r1", 1).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (&ErrorKind::Other, "no candidate today"));
    // The first proxies do not say how far back they go.
    let dir = tempfile::tempdir().unwrap();
    stranger(dir.path(), |_| {
        let mut hello = hello(1, 1);
        hello["ok"].as_object_mut().unwrap().remove("oldest_protocol");
        hello
    });
    assert_eq!(Client::connect(dir.path()).await.unwrap().hello().await.unwrap().oldest_protocol, 1);
}

#[tokio::test]
async fn a_holder_of_another_protocol_takes_nothing_over() {
    let (mut proxy, _v1) = serving().await;
    proxy.holder.kill().unwrap();
    proxy.holder.wait().unwrap();
    let end = std::time::Instant::now() + LIMIT;
    while proxy.client.hello().await.unwrap().holder_pid.is_some() {
        assert!(std::time::Instant::now() < end, "the worker does not notice");
    }
    let reply = say(&proxy, &format!(r#"{{"version":{},"verb":"handover"}}"#, PROTOCOL + 1)).await;
    assert!(reply["error"].to_string().contains("speaks protocol 1"), "{reply}");
    assert!(reply["error"].to_string().contains("cutover proxy stop"), "{reply}");
    // It serves on, and may still be changed: it has not begun to go.
    assert_eq!(proxy.get("/id").await.text(), "v1");
    let service = proxy.client.observe_service(SERVICE).await.unwrap().services[SERVICE].table.clone();
    assert_eq!(proxy.set(1, &service).await.generation, 1);
    assert!(proxy.client.drain(SERVICE, "none", Duration::from_secs(1)).await.unwrap().clean);
}

#[tokio::test]
async fn a_table_of_a_newer_schema_is_refused_and_the_one_before_stays() {
    let (proxy, _v1) = serving().await;
    // It need not even look like a table of ours.
    let newer = r#"{"version":1,"verb":"set","service":"shop","expected_generation":1,"epoch":1,"schema":2,"table":[7]}"#;
    let reply = say(&proxy, newer).await;
    assert_eq!(reply["error"]["kind"], "protocol", "{reply}");
    for words in ["schema 2", "kill -HUP", "traffic goes on as it is"] {
        assert!(reply["error"]["message"].as_str().unwrap().contains(words), "{reply}");
    }
    let seen = proxy.client.observe_service(SERVICE).await.unwrap();
    assert_eq!(seen.services[SERVICE].table.generation, 1);
    assert_eq!(proxy.get("/id").await.text(), "v1");
}

/// Makes the stored table one of the next schema; returns its bytes.
fn make_newer(path: &std::path::Path) -> Vec<u8> {
    let mut sealed: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    sealed["schema"] = json!(cutover_proxy::SCHEMA + 1);
    std::fs::write(path, serde_json::to_vec(&sealed).unwrap()).unwrap();
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn a_folder_of_a_newer_proxy_is_refused_and_left_as_it_is() {
    use std::io::Read;
    let (proxy, _v1) = serving().await;
    let dir = proxy.terminate().await;
    let path = dir.path().join("table.json");
    let newer = make_newer(&path);
    let mut holder = spawn_holder(dir.path(), &[]);
    let status = until("the holder ends", || holder.try_wait().unwrap()).await;
    assert!(!status.success());
    let mut text = String::new();
    holder.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    let schema = "table.json: it has schema 2, this proxy reads up to 1";
    for words in [schema, "written by a newer cutover", "move the file away"] {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), newer, "it is not replaced");
    assert!(!dir.path().join("table.damaged.json").exists(), "and not taken for damage");
}

#[tokio::test]
async fn a_successor_that_cannot_read_the_table_leaves_the_traffic_to_the_worker_before() {
    use std::io::{BufRead, BufReader};
    let (mut proxy, v1) = serving().await;
    let before = proxy.worker_pid().await;
    make_newer(&proxy.path("table.json"));
    let stderr = BufReader::new(proxy.holder.stderr.take().unwrap());
    let (say_line, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| say_line.send(line)));
    signal(proxy.holder.id(), rustix::process::Signal::HUP);
    let refused = timeout(LIMIT, lines.recv()).await.unwrap().unwrap();
    assert!(refused.contains("written by a newer cutover"), "{refused}");
    assert_eq!(proxy.get("/id").await.text(), "v1");
    // It takes up its duties again at once, and alone.
    let v2 = Upstream::start("v2").await;
    let both = table(vec![track("v1", 0, &[v1.addr]), track("v2", 10_000, &[v2.addr])]);
    assert_eq!(proxy.set(1, &both).await.generation, 2);
    assert_eq!(proxy.worker_pid().await, before);
    // What it wrote it can read: the next one serves, and it goes.
    signal(proxy.holder.id(), rustix::process::Signal::HUP);
    until_seen(&proxy, "the successor", |seen| seen.worker_pid != before).await;
    for _ in 0..20 {
        assert_eq!(proxy.get("/id").await.text(), "v2");
    }
    until("the worker before leaves", || {
        let state = std::fs::read_to_string(format!("/proc/{before}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
}
