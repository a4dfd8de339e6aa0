//! An HTTP GET, straight to the instance.

use bytes::Bytes;
use cutover_core::{Fault, file};
use cutover_ports::CheckRequest;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::http2;
use crate::tcp;
use crate::tries::{Miss, Try};

/// No more of a body is read.
const BODY_BYTES: usize = 64 << 10;
/// No more of a body is shown.
const BODY_SHOWN: usize = 200;

/// Asks for `path`, and compares the answer with what is expected.
pub(crate) async fn get(check: &CheckRequest, path: &str, expect: &file::Expect) -> Try {
    let request = request(check, path).map_err(Miss::CannotRun)?;
    let stream = tcp::connect(check.instance.address).await?;
    if check.protocol == file::TargetProtocol::H2c {
        return http2::get(stream, request, expect).await;
    }
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        judge(response, expect).await
    };
    // The connection is driven beside the exchange and ends with it; nothing is left running when this is
    // dropped.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Try>().await
    };
    tokio::select! {
        biased;
        outcome = exchange => outcome,
        outcome = drive => outcome,
    }
}

fn request(check: &CheckRequest, path: &str) -> Result<Request<Empty<Bytes>>, Fault> {
    let address = check.instance.address.to_string();
    let host = check.host.as_deref().unwrap_or(&address);
    let fail = |what: String| Fault::configuration(format!("ask GET {path}: {what}"));
    let uri: Uri = path.parse().map_err(|error| fail(format!("{error}")))?;
    if !path.starts_with('/') {
        return Err(fail("a path starts with /".into()));
    }
    let host = HeaderValue::from_str(host).map_err(|error| fail(format!("host {host}: {error}")))?;
    Request::get(uri)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "cutover-check")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| fail(error.to_string()))
}

pub(crate) async fn judge(response: http::Response<Incoming>, expect: &file::Expect) -> Try {
    let status = response.status().as_u16();
    let wrong_status = !expect.status.contains(status);
    if !wrong_status && expect.body.is_none() {
        return Ok(());
    }
    let body = read(response.into_body()).await;
    if wrong_status {
        // What of the body came is enough to show.
        let (Ok(body) | Err((body, _))) = body;
        let why = format!("answered {status}, expected {}", expect.status);
        return Err(Miss::No { why, shown: shown(&body), lines: Vec::new() });
    }
    let body = body.map_err(|(_, error)| broken(&error))?;
    match &expect.body {
        Some(text) if !contains(&body, text.as_bytes()) => {
            let why = format!("body does not contain \"{text}\"");
            Err(Miss::No { why, shown: shown(&body), lines: Vec::new() })
        }
        _ => Ok(()),
    }
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, (Vec<u8>, hyper::Error)> {
    let mut bytes = Vec::new();
    while bytes.len() < BODY_BYTES {
        match body.frame().await {
            Some(Ok(frame)) => bytes.extend(frame.into_data().unwrap_or_default()),
            Some(Err(error)) => return Err((bytes, error)),
            None => break,
        }
    }
    bytes.truncate(BODY_BYTES);
    Ok(bytes)
}

fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String =
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(BODY_SHOWN).collect();
    if text.is_empty() { "; the body is empty".into() } else { format!("; body begins: {text}") }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

pub(crate) fn broken(error: &hyper::Error) -> Miss {
    use std::error::Error;
    let cause = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    match cause {
        Some(cause) => Miss::io(cause),
        None if error.is_parse() => Miss::no(format!("the answer is not HTTP ({error})")),
        None => Miss::no(format!("the answer broke off ({error})")),
    }
}
