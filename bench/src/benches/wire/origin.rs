//! The server behind the proxies: one fixed answer to whatever is asked.

use std::io::Write;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::end_of_head;

/// Serves answers with `body` bytes, until it is killed.
pub(crate) fn run(body: usize) -> Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {body}\r\n\r\n");
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + body, b'.');
    let answer: &'static [u8] = answer.leak();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream, answer));
        }
    })
}

pub(super) async fn serve(mut stream: TcpStream, answer: &[u8]) {
    let mut bytes = Vec::with_capacity(4096);
    // A client that goes away ends its connection, and nothing else.
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        while let Some(end) = end_of_head(&bytes) {
            // The requests of the benchmark have no body.
            let close = bytes[..end].windows(17).any(|word| word.eq_ignore_ascii_case(b"connection: close"));
            bytes.drain(..end);
            if stream.write_all(answer).await.is_err() || close {
                return;
            }
        }
    }
}
