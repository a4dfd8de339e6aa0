//! Answers `GET /metrics` on the admin socket, as any client of HTTP asks it.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::worker::Worker;

/// A head that is longer, or takes longer, is no scrape.
const MAX_HEAD: u64 = 16 << 10;
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Tells whether the first line of a connection asks in HTTP.
pub(super) fn asks(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    line.starts_with(b"GET /") && (line.ends_with(b"HTTP/1.1") || line.ends_with(b"HTTP/1.0"))
}

/// Answers one request and ends the connection.
pub(super) async fn answer(mut stream: BufReader<UnixStream>, line: &[u8], worker: &Worker) {
    let head = async {
        let mut reader = (&mut stream).take(MAX_HEAD);
        let mut header = Vec::new();
        while reader.read_until(b'\n', &mut header).await? > 0 && !header.trim_ascii().is_empty() {
            header.clear();
        }
        Ok::<(), std::io::Error>(())
    };
    if !matches!(timeout(HEAD_LIMIT, head).await, Ok(Ok(()))) {
        return;
    }
    let path = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let (status, body) = if path == b"/metrics" {
        match super::observe(worker, None).await {
            Ok(seen) => ("200 OK", seen.prometheus()),
            Err(error) => ("503 Service Unavailable", format!("{}\n", error.wire_message())),
        }
    } else {
        ("404 Not Found", "there is /metrics\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    // Who asked and went away needs no answer.
    let _ = timeout(super::IDLE, stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())).await;
}
