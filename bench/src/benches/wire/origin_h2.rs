//! The server behind proxies of HTTP/2: speaks whichever protocol it is spoken to in, and answers calls of gRPC.

use std::convert::Infallible;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

/// The path of the one call that it knows.
pub(in crate::benches) const CALL: &str = "/bench.Bench/Echo";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// Serves `/N` with N bytes, and the call, until it is killed.
pub(crate) fn run() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(serve(stream));
        }
    })
}

async fn serve(stream: TcpStream) {
    let mut first = [0; 3];
    let http2 = stream.peek(&mut first).await.is_ok() && first == *b"PRI";
    let (io, answers) = (TokioIo::new(stream), service_fn(answer));
    // A client that goes away ends its connection, and nothing else.
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let _ = builder.max_concurrent_streams(1_000).serve_connection(io, answers).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, answers).await;
    }
}

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    if request.uri().path() == CALL {
        return Ok(call(request.into_body()).await);
    }
    let length = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
    let body = Full::new(Bytes::from(vec![b'.'; length])).map_err(|never| match never {}).boxed();
    Ok(Response::new(body))
}

/// Returns the message that came, and the status in trailers.
async fn call(body: Incoming) -> Answer {
    let came = body.collect().await.map(|body| body.to_bytes());
    let status = if came.is_ok() { "0" } else { "13" };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let message = Full::new(came.unwrap_or_default()).map_err(|never| match never {});
    let body = message.with_trailers(async move { Some(Ok(trailers)) }).boxed();
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, GRPC);
    answer
}

/// Returns a message of gRPC with so many bytes: not compressed, its length, itself.
pub(in crate::benches) fn message(length: u32) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.resize(message.len() + length as usize, b'.');
    message
}

/// Makes a call through a proxy, and fails unless message and status come back: load generators look at neither.
pub(in crate::benches) async fn check_call(proxy: std::net::SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(proxy).await.context("a connection was refused")?;
    let io = TokioIo::new(stream);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake::<_, _, BoxBody<Bytes, Infallible>>(TokioExecutor::new(), io)
            .await?;
    let connection = tokio::spawn(connection);
    let sent = Bytes::from(message(64));
    let request = Request::post(format!("http://bench.test{CALL}")).header(CONTENT_TYPE, GRPC);
    let request = request.header(TE, "trailers").body(Full::new(sent.clone()).boxed())?;
    let answer = client.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?;
    let told = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
    ensure!(
        status == 200 && told == Some(HeaderValue::from_static("0")) && body.to_bytes() == sent,
        "a call was answered {status} with grpc-status {told:?}, or with another message"
    );
    // The other backend of the same proxy.
    let plain = Request::get("http://bench.test/64").body(Empty::new().boxed())?;
    let body = client.send_request(plain).await?.into_body().collect().await?.to_bytes();
    ensure!(body.len() == 64, "64 bytes were asked for, and {} came", body.len());
    drop(client);
    connection.abort();
    Ok(())
}
