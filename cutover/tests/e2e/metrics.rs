//! `guard.metrics` as an operator uses it: a store that is away holds the release, a bad number takes it back, and what the
//! store wants to see reaches nobody else.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use crate::harness::{Said, Scratch, wait};
use crate::service::{Shop, pids, status};

const TOKEN: &str = "metrics-hunter2";

/// Answers with a number to who knows the token; hangs up while there is none. Ends with the test's process.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<Option<f64>>>);

impl Store {
    fn says(&self, number: Option<f64>) {
        *self.0.lock().unwrap() = number;
    }

    fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let store = self.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).unwrap_or(0);
                let known = String::from_utf8_lossy(&head[..read]).contains(TOKEN);
                let number = *store.0.lock().unwrap();
                let Some(number) = number else { continue };
                let status = if known { "200 OK" } else { "403 Forbidden" };
                let body = format!("{{\"series\":[{{\"points\":[[0,{number}]]}}]}}");
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
            }
        });
        address
    }
}

fn file(scratch: &Scratch, version: &str, store: SocketAddr) {
    let more = format!(
        "bake: 2s\nkeep_warm: 0s\ndrain: 1s\nguard:\n  on_inconclusive: advance\n  metrics:\n    - name: errors\n      http: {{url: \
         'http://{store}/query?service={{{{service}}}}', value: 'series[0].points[-1][1]', secret_headers: {{X-Token: \
         STORE_TOKEN}}}}\n      max: 1\n      interval: 300ms\n"
    );
    Shop { version, more: &more, ..Shop::default() }.file(scratch);
}

fn deploy(scratch: &Scratch) -> std::process::Command {
    let mut command = scratch.command(&["deploy", "--output", "json"]);
    command
        .env("STORE_TOKEN", TOKEN)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command
}

#[test]
fn a_store_that_is_away_holds_the_release_and_a_bad_number_takes_it_back() {
    let scratch = Scratch::new();
    let store = Store::default();
    let address = store.serve();
    store.says(Some(0.0));
    file(&scratch, "v1", address);
    Said::from(deploy(&scratch).output().unwrap()).expect(0);

    store.says(None);
    file(&scratch, "v2", address);
    let under_way = deploy(&scratch).spawn().unwrap();
    wait("the hold", || {
        let current = &status(&scratch)?["service"]["current"];
        current["state"].as_str()?.contains("held: not measured (measure metric errors: ").then_some(())
    });
    let environ = |pid| fs::read(format!("/proc/{pid}/environ")).unwrap();
    let instances = pids(&scratch, "v2");
    assert!(!instances.is_empty());
    for pid in instances {
        assert!(!String::from_utf8_lossy(&environ(pid)).contains(TOKEN), "the service got the store's token");
    }
    let said = scratch.run(&["status"]).expect(0);
    assert!(said.out.contains("cutover resume goes on without it"), "{said:?}");
    store.says(Some(0.5));
    let report = Said::from(under_way.wait_with_output().unwrap()).expect(0).report();
    assert!(report.to_string().contains("metric errors: 0.5; 1 of 1 measurements succeeded"), "{report}");

    store.says(Some(9.0));
    file(&scratch, "v3", address);
    let report = Said::from(deploy(&scratch).output().unwrap()).expect(4).report();
    assert!(
        report.to_string().contains("metric errors: 9 is more than 1; 1 of 1 measurements failed"),
        "{report}"
    );

    // Who is not known there is told before anything moves.
    file(&scratch, "v4", address);
    let wrong =
        scratch.command(&["deploy", "--output", "json"]).env("STORE_TOKEN", "nobody").output().unwrap();
    let said = Said::from(wrong).expect(3);
    assert!(said.out.contains("refuses the question (status 403)"), "{said:?}");
    let missing = scratch.command(&["deploy"]).env_remove("STORE_TOKEN").output().unwrap();
    let said = Said::from(missing).expect(2);
    assert!(said.err.contains("the secret STORE_TOKEN is not set"), "{said:?}");
    assert!(!scratch.run(&["history", "--output", "json"]).expect(0).out.contains(TOKEN));
}
