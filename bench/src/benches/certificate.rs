//! One certificate for all that are measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use cutover_bench::load::Secure;
use cutover_proxy::TlsRoute;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

pub(super) const HOST: &str = "bench.test";

/// A certificate of P-256 and its key, in files.
pub(super) struct Certificate {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file.
    pub(super) both: PathBuf,
    der: CertificateDer<'static>,
}

/// A client's side of TLS.
#[derive(Clone)]
pub(super) struct Trust {
    pub(super) connector: TlsConnector,
    pub(super) host: ServerName<'static>,
}

impl Certificate {
    /// Makes one, in a folder.
    pub(super) fn make(folder: &Path) -> Result<Certificate> {
        let key = KeyPair::generate().context("failed to make a key")?;
        let params = CertificateParams::new(vec![HOST.to_owned()])?;
        let cert = params.self_signed(&key).context("failed to sign a certificate")?;
        let path = |name: &str| folder.join(name);
        let (chain, secret) = (pem("CERTIFICATE", cert.der()), pem("PRIVATE KEY", key.serialized_der()));
        let made = Certificate {
            cert: path("cert.pem"),
            key: path("key.pem"),
            both: path("both.pem"),
            der: cert.der().clone(),
        };
        std::fs::write(&made.cert, &chain)?;
        std::fs::write(&made.key, &secret)?;
        std::fs::write(&made.both, chain + &secret)?;
        Ok(made)
    }

    /// Returns the route of cutover's table that answers with it.
    pub(super) fn route(&self, listen: SocketAddr) -> TlsRoute {
        let text = |path: &Path| path.display().to_string();
        let (cert, key) = (text(&self.cert), text(&self.key));
        TlsRoute { listen, host: Some(HOST.into()), cert, key, hsts_s: None, acme: None }
    }

    /// Returns a client that offers one cipher and one group, so that all servers agree to the same, and resumes no
    /// session: what a new connection costs is a whole handshake.
    pub(super) fn trust(&self) -> Result<Trust> {
        let provider = CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots()?)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let host = ServerName::try_from(HOST)?;
        Ok(Trust { connector: TlsConnector::from(Arc::new(config)), host })
    }

    /// Returns clients as users have them: they offer what they know, and resume sessions.
    pub(super) fn users(&self) -> Result<Secure> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_no_client_auth();
        Ok(Secure::new(ServerName::try_from(HOST)?, &config))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        Ok(roots)
    }
}

/// Returns bytes as PEM.
fn pem(what: &str, der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (at, three) in der.chunks(3).enumerate() {
        if at % 16 == 0 {
            text.push('\n');
        }
        let byte = |at: usize| usize::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for letter in 0..4 {
            let known = char::from(LETTERS[bits >> (18 - 6 * letter) & 63]);
            text.push(if letter <= three.len() { known } else { '=' });
        }
    }
    format!("-----BEGIN {what}-----{text}\n-----END {what}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_letters() {
        let of = |bytes: &[u8]| pem("X", bytes).lines().nth(1).unwrap_or_default().to_owned();
        assert_eq!((of(b"Man"), of(b"Ma"), of(b"M")), ("TWFu".into(), "TWE=".into(), "TQ==".into()));
    }
}
