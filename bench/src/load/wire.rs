//! How clients reach what they ask: in the clear, or by TLS.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Options;
use super::http::chain;

/// A client's side of TLS.
#[derive(Debug, Clone)]
pub struct Secure {
    host: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Secure {
    /// Returns clients that ask for `host` and trust whom `config` trusts; each offers the one protocol (ALPN) that it speaks.
    pub fn new(host: ServerName<'static>, config: &ClientConfig) -> Self {
        let speaking = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Self { host, http1: speaking(b"http/1.1"), http2: speaking(b"h2") }
    }
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// A connection, with TLS or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects as the options say; an error is the text of a failure.
pub(crate) async fn connect(options: &Options, speaks: Speaks) -> Result<Box<dyn Stream>, String> {
    let failed = |error: std::io::Error| format!("failed to connect: {}", chain(&error));
    let stream = TcpStream::connect(options.address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let Some(secure) = &options.secure else { return Ok(Box::new(stream)) };
    let config = match speaks {
        Speaks::Http1 => &secure.http1,
        Speaks::Http2 => &secure.http2,
    };
    let connecting = TlsConnector::from(config.clone()).connect(secure.host.clone(), stream);
    let stream = connecting.await.map_err(|error| format!("failed to connect: TLS: {}", chain(&error)))?;
    // Who takes no protocol may speak the older one; a client of HTTP/2 would get what it cannot read.
    if speaks == Speaks::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err("failed to connect: TLS: the other side does not speak HTTP/2".into());
    }
    Ok(Box::new(stream))
}
