//! The connection to an authority: HTTPS with a deadline, a bound, and the roots of this machine or the one given.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::AcmeError;

/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(30);
/// No answer of an authority is longer: a chain has a few kilobytes.
const MOST: usize = 1 << 20;
/// Where systems keep the roots that they trust.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Asks an authority. What it says of asking again is kept beside the answers, which do not pass it on.
#[derive(Clone)]
pub(crate) struct Http {
    tls: TlsConnector,
    again_after: Arc<Mutex<Option<Duration>>>,
}

impl Http {
    /// Trusts the certificates in the file, or those that this machine trusts.
    pub(crate) fn new(root: Option<&Path>) -> Result<Self, AcmeError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| AcmeError::new(format!("speak TLS to the authority: {error}")))?
            .with_root_certificates(roots(root)?)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), again_after: Arc::default() })
    }

    /// Returns how long the authority wants to be left alone, if its last refusal said so.
    pub(crate) fn again_after(&self) -> Option<Duration> {
        *self.again_after.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, AcmeError> {
    let given = std::env::var_os("SSL_CERT_FILE");
    let path = file
        .or_else(|| given.as_deref().map(Path::new))
        .or_else(|| BUNDLES.iter().map(Path::new).find(|path| path.exists()))
        .ok_or_else(|| {
            AcmeError::new(
                "trust the authority: this machine has no list of roots; install ca-certificates, or give `root`",
            )
        })?;
    let text = fs::read(path).map_err(|error| {
        AcmeError::new(format!("read the root certificates \"{}\": {error}", path.display()))
    })?;
    let mut roots = RootCertStore::empty();
    // Lists of systems hold some that are of no use to rustls.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
    if roots.is_empty() {
        let text = format!("trust the authority: \"{}\" holds no root certificate in PEM", path.display());
        return Err(AcmeError::new(text));
    }
    Ok(roots)
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let own = self.clone();
        Box::pin(async move {
            let uri = request.uri().clone();
            match timeout(ANSWER, exchange(&own.tls, request)).await {
                Ok(Ok(response)) => own.look_at(&uri, response),
                Ok(Err(why)) => Err(other(format!("cannot ask {uri}: {why}"))),
                Err(_) => Err(other(format!("cannot ask {uri}: no answer within {}s", ANSWER.as_secs()))),
            }
        })
    }
}

impl Http {
    /// Keeps when to come back, and turns what is no answer of an ACME server into an error that says so.
    fn look_at(&self, uri: &Uri, response: Response<Full<Bytes>>) -> Result<BytesResponse, Error> {
        let status = response.status();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            *self.again_after.lock().unwrap_or_else(PoisonError::into_inner) = retry_after(&response);
        }
        let told = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_problem = told.is_some_and(|kind| kind.starts_with("application/problem+json"));
        if (status.is_client_error() || status.is_server_error()) && !is_problem {
            return Err(other(format!("{uri} answers {status}; see whether the authority has an outage")));
        }
        Ok(response.into())
    }
}

/// Seconds, as all authorities write it; a date is taken for an hour.
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(value.trim().parse().unwrap_or(3_600)))
}

fn other(text: String) -> Error {
    Error::Other(text.into())
}

async fn exchange(
    tls: &TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Full<Bytes>>, String> {
    let uri = request.uri().clone();
    if uri.scheme_str() != Some("https") {
        return Err("an authority is asked by https only".into());
    }
    let authority = uri.authority().ok_or("it names no host")?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect((host.as_str(), authority.port_u16().unwrap_or(443)))
        .await
        .map_err(|error| error.to_string())?;
    let stream = tls.connect(name, stream).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with the exchange, whose end closes its only sender.
    let driver = tokio::spawn(connection);
    let host = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() =
        uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MOST).collect().await.map_err(|error| error.to_string())?.to_bytes();
    driver.abort();
    Ok(Response::from_parts(parts, Full::new(body)))
}
