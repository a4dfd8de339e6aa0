//! HTTP/1.1 over a connection that one client has for itself, driven by whoever waits for the answer.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::exchange::{Miss, Prepared, finish};

/// A connection, made when it is needed and again when the target closed it.
pub(crate) struct Http1 {
    address: SocketAddr,
    kept: Option<Kept>,
}

struct Kept {
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
}

impl Http1 {
    pub(crate) fn new(address: SocketAddr) -> Http1 {
        Http1 { address, kept: None }
    }

    pub(crate) async fn exchange(&mut self, request: &Prepared) -> Result<u16, Miss> {
        // Taken out: whoever drops this future drops a connection with half an answer in it.
        let mut kept = match self.usable().await {
            Some(kept) => kept,
            None => connect(self.address).await?,
        };
        let status = kept.exchange(request.clone()).await?;
        self.kept = Some(kept);
        Ok(status)
    }

    /// Takes the connection, unless the target closed it while nobody looked.
    async fn usable(&mut self) -> Option<Kept> {
        let mut kept = self.kept.take()?;
        kept.is_open().await.then_some(kept)
    }
}

async fn connect(address: SocketAddr) -> Result<Kept, Miss> {
    let refused = |error: std::io::Error| Miss::Refused(error.to_string());
    let stream = TcpStream::connect(address).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| Miss::broken(&error))?;
    Ok(Kept { sender, connection: Box::pin(connection) })
}

impl Kept {
    async fn is_open(&mut self) -> bool {
        let Kept { sender, connection } = self;
        let open = poll_fn(|context| Poll::Ready(connection.as_mut().poll(context).is_pending())).await;
        open && sender.is_ready()
    }

    /// Drives the connection beside the exchange, so that nothing has to be woken but this one task.
    async fn exchange(&mut self, request: Prepared) -> Result<u16, Miss> {
        let Kept { sender, connection } = self;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| Miss::broken(&error))?;
            finish(response).await
        };
        let mut exchange = pin!(exchange);
        let mut open = true;
        poll_fn(|context| {
            if let Poll::Ready(answer) = exchange.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            if open {
                open = connection.as_mut().poll(context).is_pending();
                // What it just read, or why it ended, is known to the exchange now.
                return exchange.as_mut().poll(context);
            }
            Poll::Pending
        })
        .await
    }
}
