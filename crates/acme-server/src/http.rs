//! HTTPS, the addresses of the resources, and what holds for every request to one of them.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::faults::{Fault, Place};
use crate::jws::{Jwk, Signed};
use crate::problem::Problem;
use crate::{Shared, account, order, renewal};

/// An answer of JSON.
pub(crate) type Answer = Response<Value>;

pub(crate) async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let (chain, key) = shared.signer.own();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| answer(shared.clone(), request));
            // One that breaks off, or that a fault cuts.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Returns a resource that was made, and where.
pub(crate) fn located(status: StatusCode, url: &str, resource: &Value) -> Answer {
    let mut answer = Response::new(resource.clone());
    *answer.status_mut() = status;
    answer.headers_mut().insert(LOCATION, HeaderValue::try_from(url).unwrap());
    answer
}

/// What a request is to.
struct Target {
    place: Place,
    id: usize,
    at: usize,
}

fn target(path: &str) -> Option<Target> {
    let mut parts = path.trim_start_matches('/').split('/');
    let place = match parts.next()? {
        "directory" => Place::Directory,
        "new-nonce" => Place::NewNonce,
        "new-account" => Place::NewAccount,
        "new-order" => Place::NewOrder,
        "acct" => Place::Account,
        "order" => Place::Order,
        "authz" => Place::Authorization,
        "chall" => Place::Challenge,
        "finalize" => Place::Finalize,
        "cert" => Place::Certificate,
        _ => return None,
    };
    let mut number = || parts.next().map_or(Some(0), |text| text.parse().ok());
    Some(Target { place, id: number()?, at: number()? })
}

/// An error ends the connection without an answer.
async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    if let Some(name) = request.uri().path().strip_prefix("/renewal-info/") {
        // Neither signed nor with a nonce.
        let suggested = renewal::suggest(&shared, name).map(write);
        return Ok(suggested.unwrap_or_else(|problem| problem.response()));
    }
    let Some(target) = target(request.uri().path()) else {
        return Ok(Problem::new(404, "malformed", "no such resource").response());
    };
    let fault = shared.take_fault(target.place);
    match fault {
        Some(Fault::Refused) => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Hang) => match pending::<Infallible>().await {},
        _ => {}
    }
    let answered = respond(&shared, request, &target, fault).await;
    let mut response = answered.unwrap_or_else(|problem| {
        shared.book().seen.problems.push(problem.kind.to_owned());
        problem.response()
    });
    if let Some(Fault::RateLimited(seconds)) = fault {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if fault == Some(Fault::LostAnswer) {
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    if target.place != Place::Directory {
        let nonce = HeaderValue::try_from(shared.book().nonce()).unwrap();
        response.headers_mut().insert("replay-nonce", nonce);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    Ok(response)
}

async fn respond(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    target: &Target,
    fault: Option<Fault>,
) -> Result<Response<Full<Bytes>>, Problem> {
    match fault {
        Some(Fault::Status(status)) => {
            let mut response = Response::new(Full::from("<html>something is wrong</html>"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            return Ok(response);
        }
        Some(Fault::RateLimited(_)) => {
            return Err(Problem::new(429, "rateLimited", "too many certificates for this name"));
        }
        Some(Fault::BadNonce) => return Err(Problem::new(400, "badNonce", "this nonce is too old")),
        _ => {}
    }
    if target.place == Place::Directory {
        return Ok(write(Response::new(directory(shared))));
    }
    if target.place == Place::NewNonce {
        return Ok(Response::new(Full::default()));
    }
    let path = format!("{}{}", shared.base, request.uri().path());
    let signed = read(request).await?;
    if signed.header.url != path {
        return Err(Problem::new(
            400,
            "unauthorized",
            format!("signed for {}, sent to {path}", signed.header.url),
        ));
    }
    shared.book().use_nonce(&signed.header.nonce)?;
    if target.place == Place::NewAccount {
        let key =
            signed.header.jwk.clone().ok_or_else(|| Problem::malformed("a new account gives its key"))?;
        signed.verify(&key)?;
        return account::make(shared, &signed, &key).map(write);
    }
    let (own, key) = sender(shared, &signed)?;
    signed.verify(&key)?;
    if target.place == Place::Certificate {
        return certificate(shared, &signed, target.id, own, fault);
    }
    let proof = (target.id, target.at);
    match target.place {
        Place::NewOrder => order::make(shared, &signed, own),
        Place::Account => account::change(shared, &signed, target.id, own),
        Place::Order => order::read(shared, &signed, target.id, own),
        Place::Authorization => order::read_proof(shared, &signed, proof, own),
        Place::Challenge => order::answer_challenge(shared, &signed, proof, own),
        _ => order::finalize(shared, &signed, target.id, own),
    }
    .map(write)
}

fn directory(shared: &Shared) -> Value {
    let base = &shared.base;
    let mut directory = json!({
        "newNonce": format!("{base}/new-nonce"),
        "newAccount": format!("{base}/new-account"),
        "newOrder": format!("{base}/new-order"),
        "revokeCert": format!("{base}/revoke-cert"),
        "keyChange": format!("{base}/key-change"),
        "meta": {"termsOfService": format!("{base}/terms")},
    });
    if shared.behaviour().renewal.is_some() {
        directory["renewalInfo"] = json!(format!("{base}/renewal-info"));
    }
    directory
}

async fn read(request: Request<Incoming>) -> Result<Signed, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::new(405, "malformed", "only POST is allowed here"));
    }
    if request.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != "application/jose+json") {
        return Err(Problem::new(415, "malformed", "application/jose+json is wanted"));
    }
    let body = request.into_body().collect().await.map_err(|error| Problem::malformed(error.to_string()))?;
    Signed::parse(&body.to_bytes())
}

/// Returns the account that signed, and its key.
fn sender(shared: &Shared, signed: &Signed) -> Result<(usize, Jwk), Problem> {
    let kid =
        signed.header.kid.as_ref().ok_or_else(|| Problem::malformed("an account names itself by kid"))?;
    let book = shared.book();
    let found = book.accounts.iter().find(|account| account::url(shared, account.id) == *kid);
    found.map(|account| (account.id, account.key.clone())).ok_or_else(account::unknown)
}

fn certificate(
    shared: &Shared,
    signed: &Signed,
    id: usize,
    own: usize,
    fault: Option<Fault>,
) -> Result<Response<Full<Bytes>>, Problem> {
    signed.reads()?;
    let mut book = shared.book();
    book.order(id, own)?;
    let chain = book.certificates.get(&id).cloned();
    let chain = chain.ok_or_else(|| Problem::new(404, "malformed", "no such certificate"))?;
    let text = if fault == Some(Fault::Garbage) { "no certificate at all\n".to_owned() } else { chain };
    let mut response = Response::new(Full::from(text));
    let kind = HeaderValue::from_static("application/pem-certificate-chain");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

fn write(answer: Answer) -> Response<Full<Bytes>> {
    let (mut parts, body) = answer.into_parts();
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Full::from(body.to_string()))
}
