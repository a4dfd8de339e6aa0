//! One HTTP request and its answer, in HTTP/1.1 or HTTP/2, straight to the instance or through the route.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use cutover_core::file::{Expect, TargetProtocol, Through};
use cutover_core::{CheckOutcome, Fault};
use cutover_ports::CheckRequest;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use crate::reach;
use crate::tries::{Miss, Try};

/// No more of a body is read by a health check.
const BODY_BYTES: usize = 64 << 10;
/// Headers by which cutover's proxy says that an answer is its own: who is to blame, and why.
const BLAME: &str = "x-cutover-blame";
const REASON: &str = "x-cutover-reason";
/// No more of a body is shown.
const BODY_SHOWN: usize = 200;

/// What is sent.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    /// Name and value; one named here replaces what is sent anyhow.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) through: Through,
    /// Spoken whatever the instances are said to speak.
    pub(crate) http2: bool,
}

impl<'a> Ask<'a> {
    /// Makes a GET.
    pub(crate) fn get(path: &'a str, through: Through) -> Ask<'a> {
        Ask { method: Method::GET, path, headers: Vec::new(), body: Bytes::new(), through, http2: false }
    }
}

/// Asks for `path`, and compares the answer with what is expected.
pub(crate) async fn get(check: &CheckRequest, path: &str, through: Through, expect: &Expect) -> Try {
    exchange(check, &Ask::get(path, through), async |response| judge(response, expect).await).await
}

/// Sends a request, and lets `judge` look at the answer.
///
/// # Cancel safety
/// Nothing is left running when it is dropped: the connection is driven beside the exchange and ends with it.
pub(crate) async fn exchange<T>(
    check: &CheckRequest,
    ask: &Ask<'_>,
    judge: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Miss>,
) -> Result<T, Miss> {
    let mut request = request(check, ask).map_err(Miss::CannotRun)?;
    let http2 = ask.http2 || (ask.through == Through::Instance && check.protocol == TargetProtocol::H2c);
    let stream = TokioIo::new(reach::stream(check, ask.through, http2).await?);
    if http2 {
        let tls =
            ask.through == Through::Route && check.route.as_ref().is_some_and(|route| route.tls.is_some());
        absolute(&mut request, tls)?;
        let tasks = Arc::new(Tasks::default());
        let spawner = Spawner(Arc::downgrade(&tasks));
        let (mut sender, connection) =
            http2::handshake(spawner, stream).await.map_err(|error| broken(&error))?;
        let exchange = async {
            judge(own(ask, sender.send_request(request).await.map_err(|error| broken(&error))?)?).await
        };
        return beside(exchange, connection).await;
    }
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| broken(&error))?;
    let exchange =
        async { judge(own(ask, sender.send_request(request).await.map_err(|error| broken(&error))?)?).await };
    beside(exchange, connection).await
}

/// Returns the answer, unless the router gave it by itself for a reason that is not the candidate's.
fn own(ask: &Ask<'_>, response: Response<Incoming>) -> Result<Response<Incoming>, Miss> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    match header(BLAME) {
        Some(blame) if ask.through == Through::Route && blame != "target" => {
            let (status, reason) = (response.status().as_u16(), header(REASON).unwrap_or_default());
            let what =
                format!("ask {} through the route: the proxy itself answered {status} ({reason})", ask.path);
            Err(Miss::CannotRun(Fault::platform(what).fatal()))
        }
        _ => Ok(response),
    }
}

async fn beside<T>(
    exchange: impl Future<Output = Result<T, Miss>>,
    connection: impl Future,
) -> Result<T, Miss> {
    tokio::select! {
        biased;
        outcome = exchange => outcome,
        never = async {
            connection.await;
            std::future::pending().await
        } => never,
    }
}

/// Tasks of a connection, which end with whoever holds them.
type Tasks = Mutex<JoinSet<()>>;

/// Starts the tasks of a connection. It does not hold them: they hold it.
#[derive(Clone)]
struct Spawner(Weak<Tasks>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        // Whoever asked is gone otherwise.
        if let Some(tasks) = self.0.upgrade() {
            tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
        }
    }
}

fn request(check: &CheckRequest, ask: &Ask<'_>) -> Result<Request<Full<Bytes>>, Fault> {
    let (method, path) = (&ask.method, ask.path);
    let fail = |what: String| Fault::configuration(format!("ask {method} {path}: {what}"));
    let uri: Uri = path.parse().map_err(|error| fail(format!("{error}")))?;
    if !path.starts_with('/') {
        return Err(fail("a path starts with /".into()));
    }
    let address = check.instance.address.to_string();
    let host = match (&check.host, &check.route) {
        (Some(host), _) => host.clone(),
        (None, Some(route)) if ask.through == Through::Route => route.address.to_string(),
        (None, _) => address,
    };
    let mut request = Request::builder()
        .method(method.clone())
        .uri(uri)
        .body(Full::new(ask.body.clone()))
        .map_err(|error| fail(error.to_string()))?;
    let usual =
        [("host", &*host), ("user-agent", "cutover-check"), ("accept", "*/*"), ("connection", "close")];
    let pin = check.route.as_ref().filter(|_| ask.through == Through::Route).map(|route| &route.pin);
    let usual = usual.into_iter().chain(pin.map(|(name, value)| (name.as_str(), value.as_str())));
    let given = ask.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in usual.chain(given) {
        let name: HeaderName = name.parse().map_err(|error| fail(format!("header {name}: {error}")))?;
        let value = HeaderValue::from_str(value).map_err(|error| fail(format!("{name} {value}: {error}")))?;
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

/// What HTTP/2 says of host and path stands in the address.
fn absolute(request: &mut Request<Full<Bytes>>, tls: bool) -> Result<(), Miss> {
    let headers = request.headers_mut();
    headers.remove(header::CONNECTION);
    let host = headers.remove(header::HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost").to_owned();
    let path = request.uri().to_string();
    let scheme = if tls { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(&*authority).path_and_query(&*path).build();
    *request.uri_mut() = uri.map_err(|error| {
        Miss::CannotRun(Fault::configuration(format!("ask {path} of host {authority}: {error}")))
    })?;
    Ok(())
}

async fn judge(response: Response<Incoming>, expect: &Expect) -> Try {
    let status = response.status().as_u16();
    let wrong_status = !expect.status.contains(status);
    if !wrong_status && expect.body.is_none() {
        return Ok(status.to_string());
    }
    let body = read(response.into_body(), BODY_BYTES).await;
    if wrong_status {
        // What of the body came is enough to show.
        let (Ok((body, _)) | Err((body, _))) = body;
        return Err(wrong(format!("answered {status}, expected {}", expect.status), &body));
    }
    let (body, _) = body.map_err(|(_, error)| broken(&error))?;
    match &expect.body {
        Some(text) if !contains(&body, text.as_bytes()) => {
            Err(wrong(format!("body does not contain \"{text}\""), &body))
        }
        _ => Ok(status.to_string()),
    }
}

/// An answer that is not as it should be.
pub(crate) fn wrong(why: String, body: &[u8]) -> Miss {
    Miss::No { outcome: CheckOutcome::Failed, why, shown: shown(body), lines: Vec::new() }
}

/// Reads at most `most` bytes; says whether that is all of it. What came before an error is told beside it.
pub(crate) async fn read(
    mut body: Incoming,
    most: usize,
) -> Result<(Vec<u8>, bool), (Vec<u8>, hyper::Error)> {
    let mut bytes = Vec::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
            Err(error) => return Err((bytes, error)),
        }
        if bytes.len() >= most {
            // Whether more would come is not waited for.
            whole = bytes.len() == most && body.is_end_stream();
            break;
        }
    }
    bytes.truncate(most);
    Ok((bytes, whole))
}

/// Shows the beginning of a body, on the same line.
pub(crate) fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String =
        text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(BODY_SHOWN).collect();
    if text.is_empty() { "; the body is empty".into() } else { format!("; body begins: {text}") }
}

/// Tells whether the body has the text in it.
pub(crate) fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

/// An answer that did not come, or not to its end.
pub(crate) fn broken(error: &hyper::Error) -> Miss {
    use std::error::Error;
    let cause = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    match cause {
        Some(cause) => Miss::io(cause),
        None if error.is_parse() => Miss::no(format!("the answer is not HTTP ({error})")),
        None => Miss::no(format!("the answer broke off ({error})")),
    }
}
