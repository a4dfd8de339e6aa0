//! The first bytes of a connection: which protocol its client speaks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::forward::From;
use crate::http2::{self, PREFACE};
use crate::paced::Paced;
use crate::proxy_header::{ProxyHeader, parse_proxy_header};
use crate::rewind::Rewind;
use crate::thread::{self, Connected, Phase, header_timeout};

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);
const PLAIN_TEXT: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    x-cutover-reason: plain-text\r\ncontent-length: 57\r\n\r\ncutover: this address speaks TLS; use https (plain-text)\n";

/// Serves a connection in the protocol that its client speaks.
pub(crate) async fn greet(
    stream: TcpStream,
    mut from: From,
    connected: Connected,
    mut quitting: watch::Receiver<Phase>,
) {
    // Fails when the client is gone already; the connection's own read says so next.
    let _ = stream.set_nodelay(true);
    let router = connected.router.clone();
    let (config, brought, pace) = {
        let compiled = router.compiled.borrow();
        let at = &from.listener;
        (compiled.tls.get(at).cloned(), compiled.bringers.get(at).cloned(), compiled.doors.pace(*at))
    };
    let mut io = Rewind::new(Paced::new(stream, pace));
    let peer = from.peer;
    let doorkeeper = router.clone();
    let begun = async move {
        let peer = match brought {
            Some(bringers) => Box::pin(brought_by(peer, &bringers, &mut io)).await?,
            None => peer,
        };
        // As soon as it is known whose it is, and before it costs anything.
        let guest = doorkeeper.admit(from.listener, peer.ip())?;
        let greeted = match config {
            Some(config) => Greeted::Tls(Box::pin(shake_hands(io, config)).await?),
            None => recognise(io).await?,
        };
        Ok::<_, io::Error>((peer, guest, greeted))
    };
    let greeted = tokio::select! {
        biased;
        greeted = timeout(header_timeout(), begun) => greeted,
        // Nothing was asked yet that could be cut.
        _ = quitting.wait_for(|phase| *phase == Phase::Closing) => return,
    };
    // It broke off, or never began.
    let Ok(Ok((peer, _guest, greeted))) = greeted else { return };
    from.peer = peer;
    match greeted {
        Greeted::Http1(io) => thread::serve(io, router, from, quitting).await,
        // In boxes: a connection of HTTP/1.1, of which there are the most, must not take the room of these.
        Greeted::Http2(io) => Box::pin(http2::serve(io, router, from, quitting)).await,
        Greeted::Tls(stream) => {
            let from = From { secure: true, ..from };
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Box::pin(http2::serve(stream, router, from, quitting)).await,
                _ => Box::pin(thread::serve(stream, router, from, quitting)).await,
            }
        }
    }
}

/// Reads whose connection a load balancer brings. Without a header, or from anybody else, the connection ends: whoever
/// could leave it out, or write it, could say that he is somebody else.
async fn brought_by(
    balancer: SocketAddr,
    bringers: &[IpNet],
    io: &mut Rewind<Paced<TcpStream>>,
) -> io::Result<SocketAddr> {
    let ip = balancer.ip().to_canonical();
    if !bringers.is_empty() && !bringers.iter().any(|network| network.contains(&ip)) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    loop {
        match parse_proxy_header(io.ahead()) {
            ProxyHeader::Complete { length, source } => {
                io.consume(length);
                return Ok(source.unwrap_or(balancer));
            }
            ProxyHeader::Invalid => return Err(io::ErrorKind::InvalidData.into()),
            ProxyHeader::Incomplete => {}
        }
        if io.read_ahead().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A connection whose protocol is known.
enum Greeted {
    Http1(Rewind<Paced<TcpStream>>),
    /// With prior knowledge.
    Http2(Rewind<Paced<TcpStream>>),
    /// What it carries was agreed on by ALPN.
    Tls(Box<TlsStream<Rewind<Paced<TcpStream>>>>),
}

/// Agrees on keys; a client that speaks HTTP without TLS is told so.
async fn shake_hands(
    mut io: Rewind<Paced<TcpStream>>,
    config: Arc<ServerConfig>,
) -> io::Result<Box<TlsStream<Rewind<Paced<TcpStream>>>>> {
    if io.ahead().is_empty() {
        io.read_ahead().await?;
    }
    if io.ahead().first().is_some_and(u8::is_ascii_uppercase) {
        io.write_all(PLAIN_TEXT).await?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    timeout(HANDSHAKE, TlsAcceptor::from(config).accept(io)).await?.map(Box::new)
}

/// Reads until the first bytes tell the protocol: hardly ever more than once.
async fn recognise(mut io: Rewind<Paced<TcpStream>>) -> io::Result<Greeted> {
    loop {
        let first = io.ahead();
        if first.starts_with(PREFACE) {
            return Ok(Greeted::Http2(io));
        }
        if !PREFACE.starts_with(first) {
            return Ok(Greeted::Http1(io));
        }
        if io.read_ahead().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
