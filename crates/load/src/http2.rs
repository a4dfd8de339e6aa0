//! HTTP/2 over a connection that several clients share.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::exchange::{Miss, Prepared, finish};

/// Clients that share a connection: as many streams as servers commonly allow.
pub(crate) const STREAMS: usize = 100;

/// How often a request is sent that the target said it did not begin with.
const AGAIN: u32 = 20;

/// A connection, made when it is needed and again when the target closed it.
pub(crate) struct Http2 {
    address: SocketAddr,
    /// Held while it is made, so that it is made once.
    kept: Mutex<Kept>,
}

type Sender = SendRequest<Full<Bytes>>;

#[derive(Default)]
struct Kept {
    made: u64,
    sender: Option<Sender>,
}

/// Spawns what drives a connection on the thread of the test; it ends with it.
#[derive(Clone)]
struct Here;

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

impl Http2 {
    pub(crate) fn new(address: SocketAddr) -> Http2 {
        Http2 { address, kept: Mutex::default() }
    }

    pub(crate) async fn exchange(&self, request: &Prepared) -> Result<u16, Miss> {
        let mut tries = 0;
        loop {
            let (number, mut sender) = self.sender().await?;
            let answer = async {
                sender.ready().await?;
                sender.send_request(request.clone()).await
            };
            match answer.await {
                Ok(response) => return finish(response).await,
                Err(error) if unprocessed(&error) && tries < AGAIN => {
                    tries += 1;
                    self.forget(number).await;
                }
                Err(error) => return Err(Miss::broken(&error)),
            }
        }
    }

    /// Returns the connection, and its number among those that were made.
    async fn sender(&self) -> Result<(u64, Sender), Miss> {
        let mut kept = self.kept.lock().await;
        let number = kept.made;
        if let Some(sender) = kept.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok((number, sender.clone()));
        }
        let refused = |error: std::io::Error| Miss::Refused(error.to_string());
        let stream = TcpStream::connect(self.address).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let made = handshake(Here, TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| Miss::broken(&error))?;
        tokio::task::spawn_local(async move {
            // Why it ended is said by the requests on it.
            let _ = connection.await;
        });
        *kept = Kept { made: number + 1, sender: Some(sender.clone()) };
        Ok((number + 1, sender))
    }

    /// Takes no more requests to a connection that is going away; those that it has are finished.
    async fn forget(&self, number: u64) {
        let mut kept = self.kept.lock().await;
        if kept.made == number {
            kept.sender = None;
        }
    }
}

/// Tells whether the target said that it did not begin with the request (RFC 9113, 6.8 and 8.7), or it never left: a server
/// may end a connection in good order at any time, and whoever was about to use it makes another.
fn unprocessed(error: &hyper::Error) -> bool {
    use std::error::Error;
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    match cause {
        Some(cause) if cause.is_go_away() => {
            cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR)
        }
        Some(cause) => cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM),
        None => error.is_canceled() || error.is_closed(),
    }
}
