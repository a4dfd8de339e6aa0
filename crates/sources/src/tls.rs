//! TLS to a store: the roots that this machine trusts, or those of `SSL_CERT_FILE`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::source::AskError;

/// Where systems keep the roots that they trust.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Returns where this machine's roots are.
pub(crate) fn bundle() -> Option<PathBuf> {
    let given = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    given.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()))
}

/// Makes what speaks TLS with the roots in the file.
pub(crate) fn connector(roots: Option<&Path>) -> Result<TlsConnector, AskError> {
    let hint = "install ca-certificates, or name a file in SSL_CERT_FILE for the server";
    let path = roots.ok_or_else(|| AskError::wrong("this machine has no list of roots to trust", hint))?;
    let wrong = |why: String| {
        AskError::wrong(format!("the root certificates \"{}\" cannot be used: {why}", path.display()), hint)
    };
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut store = RootCertStore::empty();
    // Lists of systems hold some that are of no use to rustls.
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok));
    if store.is_empty() {
        return Err(wrong("there is no certificate in PEM".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
