//! A server that works on so many requests at once, each for a while; the others wait in it.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::end_of_head;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\ndone\n";

/// Works until it is killed.
pub(crate) fn run(at_once: usize, span: Duration) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        let places = Arc::new(Semaphore::new(at_once));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream, places.clone(), span));
        }
    })
}

async fn serve(mut stream: TcpStream, places: Arc<Semaphore>, span: Duration) {
    let mut bytes = Vec::with_capacity(4096);
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        while let Some(end) = end_of_head(&bytes) {
            bytes.drain(..end);
            // Never closed, so there is always a place to come.
            let place = places.acquire().await;
            tokio::time::sleep(span).await;
            drop(place);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}
