//! The demo's service: a small HTTP server whose behaviour the environment chooses.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit;
use crate::failure::Failure;

/// Runs the service on `$PORT` until it is told to stop.
pub(crate) fn run() -> Result<u8, Failure> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok());
    let port = port.ok_or_else(|| Failure::new(exit::USAGE, "the demo's service needs $PORT"))?;
    let failed = |error: std::io::Error| Failure::own(format!("the demo's service failed: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(serve(port)).map_err(failed)?;
    Ok(exit::OK)
}

async fn serve(port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let version: Arc<str> = std::env::var("DEMO_VERSION").unwrap_or_default().into();
    let sick = std::env::var("DEMO_HEALTH").is_ok_and(|health| health == "sick");
    // Breaks after so many requests: past every check, in the middle of live traffic.
    let breaks_after =
        std::env::var("DEMO_BREAKS_AFTER").ok().and_then(|n| n.parse().ok()).unwrap_or(u64::MAX);
    let served = Arc::new(AtomicU64::new(0));
    let mut stop = signal(SignalKind::terminate())?;
    println!("shop {version} listens on port {port}");
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = stop.recv() => return Ok(()),
        };
        let (version, served) = (version.clone(), served.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let health = request.uri().path() == "/health";
            let n = if health { 0 } else { served.fetch_add(1, Ordering::Relaxed) };
            let broken = (health && sick) || n >= breaks_after;
            let (status, body) = match (broken, health) {
                (true, true) => (500, "the database of this version is missing a table\n".to_string()),
                (true, false) => (500, format!("shop {version}: out of stock, and of luck\n")),
                (false, _) => (200, format!("shop {version}\n")),
            };
            async move {
                let mut response = Response::new(Full::new(Bytes::from(body)));
                *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
                Ok::<_, Infallible>(response)
            }
        });
        // A client that goes away early is its own business.
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer),
        );
    }
}
