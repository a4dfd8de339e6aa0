//! A server that takes what is sent and answers nothing for a long time.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpListener;

/// Holds each connection open for so many seconds.
pub(crate) fn run(seconds: u64) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                drop(stream);
            });
        }
    })
}
