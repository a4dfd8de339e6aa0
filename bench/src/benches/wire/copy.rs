//! The least that a proxy can do: bytes copied both ways, one connection to the target for one of a client, nothing parsed.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

/// As much as the proxies read at once.
const BUFFER: usize = 16 << 10;

/// Relays to `target`, until it is killed.
pub(crate) fn run(target: SocketAddr) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        loop {
            let (mut client, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut there = TcpStream::connect(target).await?;
                client.set_nodelay(true)?;
                there.set_nodelay(true)?;
                copy_bidirectional_with_sizes(&mut client, &mut there, BUFFER, BUFFER).await
            });
        }
    })
}
