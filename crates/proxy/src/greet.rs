//! The first bytes of a connection: which protocol its client speaks.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::forward::From;
use crate::http2::{self, PREFACE};
use crate::rewind::Rewind;
use crate::thread::{self, Connected, HEADER_TIMEOUT, Phase};

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    /// With prior knowledge, or agreed on by ALPN.
    Http2,
}

/// Serves a connection in the protocol that its client speaks.
pub(crate) async fn greet(
    stream: TcpStream,
    from: From,
    connected: Connected,
    mut quitting: watch::Receiver<Phase>,
) {
    // Fails when the client is gone already; the connection's own read says so next.
    let _ = stream.set_nodelay(true);
    let router = connected.0.clone();
    let mut io = Rewind::new(stream);
    let protocol = tokio::select! {
        biased;
        protocol = timeout(HEADER_TIMEOUT, recognise(&mut io)) => protocol,
        // Nothing was asked yet that could be cut.
        _ = quitting.wait_for(|phase| *phase == Phase::Closing) => return,
    };
    match protocol {
        Ok(Ok(Protocol::Http1)) => thread::serve(io, router, from, quitting).await,
        Ok(Ok(Protocol::Http2)) => http2::serve(io, router, from, quitting).await,
        // It broke off, or never began.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// Reads until the first bytes tell the protocol: hardly ever more than once.
async fn recognise<I: AsyncRead + AsyncWrite + Unpin>(io: &mut Rewind<I>) -> io::Result<Protocol> {
    loop {
        if io.read_ahead().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let first = io.ahead();
        if first.starts_with(PREFACE) {
            return Ok(Protocol::Http2);
        }
        if !PREFACE.starts_with(first) {
            return Ok(Protocol::Http1);
        }
    }
}
