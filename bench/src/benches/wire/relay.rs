//! What the library that cutover's proxy stands on takes by itself: hyper's server, hyper's client and a pool between them, on
//! one thread. It routes, counts, retries and limits nothing.

use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::CONNECTION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Relays to `target`, until it is killed.
pub(crate) fn run(target: SocketAddr) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        serve(listener, target).await
    })
}

async fn serve(listener: TcpListener, target: SocketAddr) -> Result<()> {
    let pool = Arc::new(Pool { target, idle: Mutex::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        tokio::spawn(async move {
            let answers = service_fn(|request| pool.clone().pass_on(request));
            // A client that goes away ends its connection, and nothing else.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answers).await;
        });
    }
}

/// Connections to the target that nobody uses.
struct Pool {
    target: SocketAddr,
    idle: Mutex<Vec<SendRequest<Incoming>>>,
}

impl Pool {
    async fn pass_on(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Response<Lent>> {
        // It is about the client's connection, not about the one to the target.
        request.headers_mut().remove(CONNECTION);
        let mut sender = self.sender().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, Lent { body, ended: false, sender: Some(sender), pool: self }))
    }

    async fn sender(&self) -> Result<SendRequest<Incoming>> {
        while let Some(mut sender) = self.take() {
            // One that the target has closed is no use.
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.target).await.context("the target refused a connection")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with its sender, or with the target; what it meets reaches the request.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Incoming>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, sender: SendRequest<Incoming>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }
}

/// An answer's body. Its connection is for others once it was sent on, and not sooner: until then they would wait for it.
struct Lent {
    body: Incoming,
    ended: bool,
    sender: Option<SendRequest<Incoming>>,
    pool: Arc<Pool>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        // A body that was not read to its end would come before the next answer.
        if let (Some(sender), true) = (self.sender.take(), self.ended || self.is_end_stream()) {
            self.pool.give_back(sender);
        }
    }
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.ended |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::benches::wire::clients::{Asking, Clients};
    use crate::benches::wire::origin;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ndone\n";

    /// Asks until there are enough answers; returns how many connections the target got.
    async fn connections_of(asking: Asking) -> usize {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = target.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = accepted.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = target.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(origin::serve(stream, ANSWER));
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, address));
        let clients = Clients::start(relay, asking, None);
        while clients.done() < 200 && !clients.gave_up() {
            tokio::task::yield_now().await;
        }
        // The relay must go on until the last of them is answered.
        tokio::task::spawn_blocking(|| clients.stop()).await.unwrap().unwrap();
        accepted.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn connections_to_the_target_are_kept_whatever_the_clients_do() {
        for anew in [false, true] {
            let connections = connections_of(Asking { connections: 4, anew }).await;
            // One that is being given back may be missed, by as many clients as there are.
            assert!((1..=8).contains(&connections), "{connections} connections for 200 requests, {anew}");
        }
    }
}
