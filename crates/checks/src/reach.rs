//! The way to an instance: to its own address, or through the route with the header that pins its revision.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use cutover_core::Fault;
use cutover_core::file::Through;
use cutover_ports::{CheckRequest, CheckedRoute, CheckedTls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tries::Miss;

/// Where systems keep the roots that they trust.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A connection, encrypted or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// A connection to who shall answer.
pub(crate) type Stream = Pin<Box<dyn Io>>;

/// Connects to the instance.
pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, Miss> {
    TcpStream::connect(address).await.map_err(|error| Miss::io(&error))
}

/// Returns the route that a check goes through.
pub(crate) fn route(request: &CheckRequest) -> Result<&CheckedRoute, Miss> {
    request.route.as_ref().ok_or_else(|| {
        Miss::CannotRun(Fault::cutover("ask through the route: nobody said where it is").fatal())
    })
}

/// Connects, and speaks TLS where the route does; then `http2` is what both sides shall speak.
pub(crate) async fn stream(request: &CheckRequest, through: Through, http2: bool) -> Result<Stream, Miss> {
    if through == Through::Instance {
        return Ok(Box::pin(connect(request.instance.address).await?));
    }
    let route = route(request)?;
    let stream = connect(route.address).await.map_err(|miss| {
        // The router is not the candidate.
        let why = match miss {
            Miss::No { why, .. } => why,
            Miss::CannotRun(fault) => fault.what,
        };
        Miss::CannotRun(Fault::platform(format!("ask through the route {}: {why}", route.address)).fatal())
    })?;
    match &route.tls {
        None => Ok(Box::pin(stream)),
        Some(tls) => encrypted(request, tls, stream, http2).await,
    }
}

/// A certificate that is not good for this host is the set-up's fault: the candidate has never seen it.
async fn encrypted(
    request: &CheckRequest,
    tls: &CheckedTls,
    stream: TcpStream,
    http2: bool,
) -> Result<Stream, Miss> {
    let address = stream.peer_addr().map_err(|error| Miss::io(&error))?;
    let host = request.host.clone().unwrap_or_else(|| address.ip().to_string());
    let fail = |why: String| {
        let what = format!("ask through the route: speak TLS with {address} for {host}: {why}");
        Miss::CannotRun(Fault::configuration(what))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(error.to_string()))?
        .with_root_certificates(roots(tls).map_err(&fail)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let name = ServerName::try_from(host.clone()).map_err(|error| fail(error.to_string()))?;
    match TlsConnector::from(Arc::new(config)).connect(name, stream).await {
        Ok(stream) => Ok(Box::pin(stream)),
        Err(error) => Err(fail(reason(&error))),
    }
}

fn reason(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => format!("the certificate is not good: {why}"),
        _ => error.to_string(),
    }
}

/// What this machine trusts, and what the route's own files hold.
fn roots(tls: &CheckedTls) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let mut add = |path: &Path| -> Result<(), String> {
        let text = fs::read(path)
            .map_err(|error| format!("read the certificates \"{}\": {error}", path.display()))?;
        // Lists of systems hold some that are of no use to rustls.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
        Ok(())
    };
    let given = std::env::var_os("SSL_CERT_FILE");
    let system = given.as_deref().map(Path::new);
    let system = system.or_else(|| BUNDLES.iter().map(Path::new).find(|path| path.exists()));
    for path in tls.trust.iter().map(std::path::PathBuf::as_path).chain(system) {
        add(path)?;
    }
    if roots.is_empty() {
        return Err("this machine has no list of roots; install ca-certificates".into());
    }
    Ok(roots)
}
