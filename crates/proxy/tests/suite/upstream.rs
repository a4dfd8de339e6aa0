//! Servers to proxy to: a well-behaved one, and ones that follow a script byte by byte.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cutover_proxy::MIRROR_HEADER;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// A server named by its revision.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    task: JoinHandle<()>,
}

pub(crate) struct Shared {
    name: String,
    /// Status of every answer to `/id`.
    pub(crate) status: AtomicU16,
    pub(crate) delay_ms: AtomicU64,
    /// Status of gRPC of every answer to `/grpc` and `/grpc-at-once`.
    pub(crate) grpc_status: AtomicU16,
    pub(crate) requests: AtomicU64,
    /// Those among them that said that they are copies.
    pub(crate) copies: AtomicU64,
    pub(crate) connections: AtomicU64,
    /// Those of HTTP/2 among them.
    pub(crate) shared_connections: AtomicU64,
    /// Streams that a connection of HTTP/2 may have at once.
    pub(crate) most_streams: AtomicU32,
    /// A connection of HTTP/2 says GOAWAY after so many requests.
    pub(crate) retires_after: AtomicU64,
    /// Static files below `/assets/` that it has.
    pub(crate) files: Mutex<Vec<String>>,
    /// Bodies of the POSTs received.
    pub(crate) posted: Mutex<Vec<String>>,
}

type Body = BoxBody<Bytes, hyper::Error>;

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

impl Upstream {
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.into(),
            status: AtomicU16::new(200),
            delay_ms: AtomicU64::new(0),
            grpc_status: AtomicU16::new(5),
            requests: AtomicU64::new(0),
            copies: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            shared_connections: AtomicU64::new(0),
            most_streams: AtomicU32::new(200),
            retires_after: AtomicU64::new(u64::MAX),
            files: Mutex::default(),
            posted: Mutex::default(),
        });
        let own = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                own.connections.fetch_add(1, Ordering::SeqCst);
                let shared = own.clone();
                tokio::spawn(async move {
                    let mut first = [0; 3];
                    if stream.peek(&mut first).await.is_ok() && first == *b"PRI" {
                        return serve_http2(stream, shared).await;
                    }
                    let service = service_fn(move |request| answer(request, shared.clone()));
                    let _ = http1::Builder::new()
                        .half_close(true)
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self { addr, shared, task }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_http2(stream: TcpStream, shared: Arc<Shared>) {
    shared.shared_connections.fetch_add(1, Ordering::SeqCst);
    let (served, retires) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let (own, limit, retire) = (shared.clone(), shared.retires_after.load(Ordering::SeqCst), retires.clone());
    let service = service_fn(move |request| {
        if served.fetch_add(1, Ordering::SeqCst) + 1 == limit {
            retire.notify_one();
        }
        answer(request, own.clone())
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(shared.most_streams.load(Ordering::SeqCst))
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = retires.notified() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(mut request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Infallible> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    if request.headers().get(MIRROR_HEADER).is_some_and(|copy| copy == "1") {
        shared.copies.fetch_add(1, Ordering::SeqCst);
    }
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let route = parts.next().unwrap_or_default().to_owned();
    let argument: u64 = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    if request.headers().contains_key("upgrade") {
        let protocol = request.headers()["upgrade"].clone();
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(stream) = upgrade.await {
                super::websocket::serve(TokioIo::new(stream), &route).await;
            }
        });
        let response =
            Response::builder().status(101).header("connection", "upgrade").header("upgrade", protocol);
        return Ok(response.body(full("")).unwrap());
    }
    let mut response = match route.as_str() {
        "slow" => {
            tokio::time::sleep(Duration::from_millis(argument)).await;
            Response::new(full(shared.name.clone()))
        }
        "headers" => {
            let mut lines: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
                .collect();
            lines.sort();
            Response::new(full(format!("{} {}\n{}", request.method(), request.uri(), lines.join("\n"))))
        }
        "big" => Response::new(full(vec![b'x'; argument as usize])),
        "grpc" => {
            let status = shared.grpc_status.load(Ordering::SeqCst);
            let mut response = Response::new(grpc(request.into_body(), status));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            response
        }
        "grpc-at-once" => {
            let status = HeaderValue::from(shared.grpc_status.load(Ordering::SeqCst));
            let mut response = Response::new(full(""));
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
            response.headers_mut().insert("grpc-status", status);
            response
        }
        "echo" => Response::new(request.into_body().boxed()),
        "trailers" => match request.into_body().collect().await {
            Ok(body) => {
                let trailers = body.trailers().cloned().unwrap_or_default();
                let mut text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                for (name, value) in &trailers {
                    text.push_str(&format!(" {name}: {}", value.to_str().unwrap()));
                }
                Response::new(full(text))
            }
            Err(_) => Response::new(full("broken")),
        },
        "stream" => Response::new(stream(argument)),
        "post" => match request.into_body().collect().await {
            Ok(body) => {
                let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                shared.posted.lock().unwrap().push(text);
                Response::new(full(shared.name.clone()))
            }
            Err(_) => Response::new(full("broken")),
        },
        "assets" => {
            let file = path.trim_start_matches("/assets/").to_owned();
            let there = shared.files.lock().unwrap().contains(&file);
            let mut response = Response::new(full(format!("{file} of {}", shared.name)));
            if !there {
                *response.status_mut() = http::StatusCode::NOT_FOUND;
            }
            response
        }
        "empty" => {
            let mut response = Response::new(full(""));
            *response.status_mut() = http::StatusCode::from_u16(argument as u16).unwrap();
            response
        }
        _ => {
            tokio::time::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::SeqCst))).await;
            let mut response = Response::new(full(shared.name.clone()));
            let status = shared.status.load(Ordering::SeqCst);
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            response
        }
    };
    response.headers_mut().insert("x-served-by", HeaderValue::from_str(&shared.name).unwrap());
    if route == "stream" {
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    }
    Ok(response)
}

/// Answers each message with itself, at the end with the status in trailers, as servers of gRPC do.
fn grpc(mut body: Incoming, status: u16) -> Body {
    let (sender, mut receiver) = mpsc::channel::<Frame<Bytes>>(1);
    tokio::spawn(async move {
        let mut count = 0_u64;
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { break };
            count += u64::from(!data.is_empty());
            if sender.send(Frame::data(data)).await.is_err() {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status));
        trailers.insert("x-messages", HeaderValue::from(count));
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    let frames = Poll(Box::new(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok))));
    StreamBody::new(frames).boxed()
}

/// Chunks a few milliseconds apart, then a trailer.
fn stream(count: u64) -> Body {
    let (sender, mut receiver) = mpsc::channel::<Frame<Bytes>>(1);
    tokio::spawn(async move {
        for at in 0..count {
            if sender.send(Frame::data(Bytes::from(format!("chunk {at}\n")))).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from(count));
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    let frames = Poll(Box::new(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok))));
    StreamBody::new(frames).boxed()
}

type PollFrame = dyn FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>>
    + Send
    + Sync;

struct Poll(Box<PollFrame>);

impl futures_util::Stream for Poll {
    type Item = Result<Frame<Bytes>, hyper::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        (self.0)(cx)
    }
}

/// A server that does to each connection what the script says; gets the connection's number.
pub(crate) async fn scripted<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(BufReader<TcpStream>, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(script(BufReader::new(stream), number));
        }
    });
    addr
}

/// Reads a request with its body of known length; None at the end of the connection.
pub(crate) async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let mut head = String::new();
    loop {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        if head.ends_with("\r\n\r\n") {
            break;
        }
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, String::from_utf8_lossy(&body).into_owned()))
}

pub(crate) async fn write(stream: &mut BufReader<TcpStream>, text: &str) {
    let _ = stream.write_all(text.as_bytes()).await;
}

/// An address that refuses connections.
pub(crate) async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
