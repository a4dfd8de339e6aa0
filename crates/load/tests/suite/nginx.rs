//! nginx, as Debian has it: HTTP/1.1 and HTTP/2, connections that it closes, and the histogram's text.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use cutover_load::{Protocol, Scenario};

use super::harness::{MS, candidate, clients, get, rate, run, seen, spec};

struct Nginx {
    child: Child,
    plain: SocketAddr,
    http2: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it; none, with one line of why, where servers are not wanted.
fn nginx() -> Option<Nginx> {
    if std::env::var_os("CUTOVER_TEST_SERVERS").is_none() {
        println!("skipped: load against nginx (run ./test)");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    // Both held until both are known: they must differ.
    let free = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let [plain, http2] = free.each_ref().map(|listener| listener.local_addr().unwrap());
    drop(free);
    let path = folder.path().display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {path}/{name};\n"))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; {temp}\n\
         server {{ listen {plain}; listen {http2} http2; keepalive_requests 40;\n\
         location = / {{ return 200 \"hello\"; }} location = /gone {{ return 410; }} }} }}"
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let program = if std::path::Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    let mut command = Command::new(program);
    command.arg("-p").arg(folder.path()).arg("-c").arg(&file);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut nginx = Nginx { child, plain, http2, _folder: folder };
    let begun = Instant::now();
    while TcpStream::connect(plain).is_err() {
        assert!(nginx.child.try_wait().unwrap().is_none(), "nginx ended at once");
        assert!(begun.elapsed() < Duration::from_secs(20), "nginx does not listen");
        std::thread::yield_now();
    }
    Some(nginx)
}

#[tokio::test]
async fn nginx_answers_everything() {
    let Some(nginx) = nginx() else { return };
    for (protocol, address) in [(Protocol::Http1, nginx.plain), (Protocol::Http2, nginx.http2)] {
        for pace in [clients(8), rate(400)] {
            let mut spec = spec(pace, MS * 500);
            spec.protocol = protocol;
            spec.scenarios = vec![
                Scenario { weight: 9, ..get("/") },
                Scenario { name: "gone".into(), expect: 410..=410, ..get("/gone") },
            ];
            let report = run(spec, &[candidate(address)]).await;
            let seen = seen(&report);
            // nginx closes each connection after 40 requests: none of them may be lost by that.
            assert!(seen.requests > 20, "{protocol:?} {pace:?} {seen:?}");
            assert_eq!(seen.failed, 0, "{protocol:?} {pace:?} {seen:?}");
            assert_eq!(decode(&seen.histogram).iter().map(|(_, count)| count).sum::<u64>(), seen.requests);
        }
    }
}

/// Reads a histogram's text, as its format is published: (lowest value, count) of each counter that is not 0.
pub(crate) fn decode(text: &str) -> Vec<(u64, u64)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let mut rest = bytes[40..].iter();
    let (mut index, mut counts) = (0_u64, Vec::new());
    while let Some(first) = rest.next() {
        let (mut number, mut shift) = (u64::from(first & 0x7f), 7);
        let mut last = *first;
        while last & 0x80 != 0 {
            last = *rest.next().unwrap();
            number |= u64::from(last & 0x7f) << shift;
            shift += 7;
        }
        let number = (number >> 1) as i64 ^ -((number & 1) as i64);
        if number < 0 {
            index += number.unsigned_abs();
        } else {
            // 2,048 counters of 1, then 1,024 of 2, 1,024 of 4, and so on.
            let value = match index {
                0..2048 => index,
                _ => {
                    let doubling = (index - 2048) / 1024 + 1;
                    (1024 + (index - 2048) % 1024) << doubling
                }
            };
            counts.push((value, number as u64));
            index += 1;
        }
    }
    counts
}
