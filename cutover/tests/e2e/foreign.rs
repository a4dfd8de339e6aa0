//! v1 → v2 → v1 of servers that nobody here wrote, under load: nothing fails.

use std::fs;

use crate::clients::Clients;
use crate::harness::{Scratch, get, servers_wanted, wait};

const MORE: &str = "checks: {health: [{path: /, interval: 100ms}]}\nbake: 1s\nguard: {success: 99%}\nkeep_warm: 500ms\ndrain: 5s";

/// Releases v1, v2, v1 of `local`, in which VERSION stands for the version; the page must follow.
fn there_and_back(scratch: &Scratch, local: &str) {
    let release = |version: &str| {
        scratch.file(&local.replace("VERSION", version), MORE);
        let report = scratch.run(&["deploy", "--again", "--output", "json"]).expect(0).report();
        assert_eq!(report["outcome"], "released", "{report}");
        assert_eq!(get(scratch.address, "/"), Some((200, format!("{version}\n"))));
        report
    };
    release("v1");
    let clients = Clients::start(scratch.address);
    wait("some load", || (clients.sent() > 100).then_some(()));
    for version in ["v2", "v1", "v2"] {
        let report = release(version);
        assert_eq!((&report["failed"], &report["failed_by_router"]), (&0.into(), &0.into()), "{report}");
        assert!(report["requests"].as_u64().unwrap() > 0, "{report}");
    }
    // The last predecessor drains and stops under load too.
    wait("the tail to end", || {
        scratch.status()["services"][0]["service"]["tails"].as_array().unwrap().is_empty().then_some(())
    });
    let (sent, failures) = clients.stop();
    assert!(sent > 500, "{sent}");
    assert!(
        failures.is_empty(),
        "{} of {sent} failed: {:?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
    println!("{sent} requests, 0 failed");
}

fn page(scratch: &Scratch, version: &str) {
    let folder = scratch.path().join(version);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("index.html"), format!("{version}\n")).unwrap();
}

#[test]
fn debians_nginx() {
    if !servers_wanted("debians_nginx") {
        return;
    }
    let scratch = Scratch::new();
    for version in ["v1", "v2"] {
        page(&scratch, version);
        fs::write(
            scratch.path().join(version).join("start"),
            "#!/bin/sh\nset -e\nd=$(mktemp -d)\ntrap 'rm -rf $d' EXIT\nmkdir $d/t\ncat > $d/c <<END\n\
             daemon off; pid $d/pid; error_log stderr; worker_processes 2; user root;\nevents {}\nhttp {\n\
             access_log off; client_body_temp_path $d/t; proxy_temp_path $d/t; fastcgi_temp_path $d/t;\n\
             uwsgi_temp_path $d/t; scgi_temp_path $d/t; default_type text/html; keepalive_requests 50;\n\
             server { listen 127.0.0.1:$PORT; root $PWD; }\n}\nEND\nexec nginx -p $d -c $d/c\n",
        )
        .unwrap();
    }
    // The whole folder is the artifact: page and start script.
    there_and_back(
        &scratch,
        "command: [sh, start], artifact: VERSION, replicas: 2, stop_signal: QUIT, env: {PATH: '/usr/sbin:/usr/bin:/sbin:/bin'}",
    );
}

#[test]
fn pythons_http_server() {
    if !servers_wanted("pythons_http_server") {
        return;
    }
    let scratch = Scratch::new();
    page(&scratch, "v1");
    page(&scratch, "v2");
    there_and_back(
        &scratch,
        "command: [python3, -m, http.server, $PORT, --bind, 127.0.0.1], artifact: VERSION, replicas: 2",
    );
}

#[test]
fn nodes_http_server() {
    if !servers_wanted("nodes_http_server") {
        return;
    }
    let scratch = Scratch::new();
    fs::write(
        scratch.path().join("app.js"),
        "const s = require('http').createServer((q, r) => r.end(process.env.V + '\\n'));\n\
         s.keepAliveTimeout = 300;\n\
         s.listen(process.env.PORT, '127.0.0.1');\n\
         process.on('SIGTERM', () => s.close(() => process.exit(0)));\n",
    )
    .unwrap();
    let node = String::from_utf8(
        std::process::Command::new("sh").args(["-c", "command -v node"]).output().unwrap().stdout,
    );
    let node = node.unwrap();
    assert!(!node.trim().is_empty(), "node is not installed: ./test installs it");
    there_and_back(
        &scratch,
        &format!("command: ['{}', app.js], artifact: app.js, replicas: 2, env: {{V: VERSION}}", node.trim()),
    );
}
