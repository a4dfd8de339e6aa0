//! Clients that speak HTTP/2: hyper's own, and one that writes its frames by hand.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::harness::LIMIT;

pub(crate) type Body = BoxBody<Bytes, hyper::Error>;

/// A connection with prior knowledge.
pub(crate) struct H2 {
    pub(crate) sender: SendRequest<Body>,
    /// Ends with the connection; false: by an error.
    pub(crate) connection: JoinHandle<bool>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: HeaderMap,
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::builder().uri(format!("http://shop.test{path}")).body(empty()).unwrap()
}

pub(crate) fn post(path: &str, body: Body) -> Request<Body> {
    Request::builder().method("POST").uri(format!("http://shop.test{path}")).body(body).unwrap()
}

impl H2 {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = timeout(LIMIT, TcpStream::connect(addr)).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    pub(crate) async fn over<I>(stream: I) -> Self
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
        Self { sender, connection: tokio::spawn(async move { connection.await.is_ok() }) }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        timeout(LIMIT, self.sender.clone().send_request(request)).await.unwrap()
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> Result<Answer, hyper::Error> {
        let (head, body) = self.send(request).await?.into_parts();
        let whole = timeout(LIMIT, body.collect()).await.unwrap()?;
        let trailers = whole.trailers().cloned().unwrap_or_default();
        let body = String::from_utf8_lossy(&whole.to_bytes()).into_owned();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
    }
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// GET / of shop.test, in HPACK.
pub(crate) const HEAD: &[u8] = b"\x82\x86\x84\x41\x09shop.test";

/// Frames written by hand.
pub(crate) struct Frames(pub(crate) BufReader<TcpStream>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

impl Frames {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let mut own = Self(BufReader::new(TcpStream::connect(addr).await.unwrap()));
        own.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        own.write(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        own
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(LIMIT, self.0.write_all(bytes)).await.expect("the proxy reads on or closes")
    }

    /// Reads a frame; None once the proxy has closed.
    pub(crate) async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        timeout(LIMIT, self.0.read_exact(&mut head)).await.expect("a frame or the end").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        timeout(LIMIT, self.0.read_exact(&mut payload)).await.expect("a whole frame").ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until a frame of a kind comes; None if the proxy closes before.
    pub(crate) async fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }
}
