//! Clients in a closed loop: each sends its next request when it has the answer to the last one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::end_of_head;
use crate::benches::certificate::Trust;

/// How clients ask.
#[derive(Debug, Clone, Copy)]
pub(in crate::benches) struct Asking {
    pub(in crate::benches) connections: usize,
    /// Each request on a connection of its own.
    pub(in crate::benches) anew: bool,
}

/// Clients at work on a thread of their own.
pub(in crate::benches) struct Clients {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Clients {
    /// Starts them.
    pub(in crate::benches) fn start(address: SocketAddr, asking: Asking, trust: Option<Trust>) -> Clients {
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, stopped) = (done.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask_all(address, asking, trust, counted, stopped))
        });
        Clients { done, stop, thread }
    }

    /// Returns how many answers came so far.
    pub(in crate::benches) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Tells whether they gave up; `stop` says why.
    pub(in crate::benches) fn gave_up(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends them; an answer that is not as it should be is an error.
    pub(in crate::benches) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the clients panicked"))?
    }
}

async fn ask_all(
    address: SocketAddr,
    asking: Asking,
    trust: Option<Trust>,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let local = tokio::task::LocalSet::new();
    let mut clients = JoinSet::new();
    for _ in 0..asking.connections {
        let client = ask(address, asking.anew, trust.clone(), done.clone(), stop.clone());
        clients.spawn_local_on(client, &local);
    }
    local
        .run_until(async {
            while let Some(client) = clients.join_next().await {
                client??;
            }
            Ok(())
        })
        .await
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

async fn connect(address: SocketAddr, trust: Option<&Trust>) -> Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await.context("a connection was refused")?;
    stream.set_nodelay(true)?;
    Ok(match trust {
        None => Box::new(stream),
        Some(Trust { connector, host }) => {
            Box::new(connector.connect(host.clone(), stream).await.context("a handshake failed")?)
        }
    })
}

async fn ask(
    address: SocketAddr,
    anew: bool,
    trust: Option<Trust>,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let close = if anew { "connection: close\r\n" } else { "" };
    let request =
        format!("GET /some/path?query=1 HTTP/1.1\r\nhost: bench.test\r\naccept: */*\r\n{close}\r\n");
    let mut kept = None;
    let mut bytes = Vec::with_capacity(32 << 10);
    while !stop.load(Ordering::Relaxed) {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect(address, trust.as_ref()).await?,
        };
        stream.write_all(request.as_bytes()).await.context("a connection was cut")?;
        stream.flush().await.context("a connection was cut")?;
        read_answer(&mut *stream, &mut bytes).await?;
        done.fetch_add(1, Ordering::Relaxed);
        if !anew {
            kept = Some(stream);
        }
    }
    Ok(())
}

async fn read_answer(stream: &mut dyn Stream, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.clear();
    let mut whole = None;
    while whole.is_none_or(|whole| bytes.len() < whole) {
        if stream.read_buf(bytes).await.context("an answer was cut")? == 0 {
            bail!("an answer ended after {} bytes", bytes.len());
        }
        if let (None, Some(end)) = (whole, end_of_head(bytes)) {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200"), "a wrong answer: {head}");
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.and_then(|length| length.parse().ok()).context("no content-length")?;
            whole = Some(end + length);
        }
    }
    ensure!(whole == Some(bytes.len()), "an answer is too long");
    Ok(())
}
