//! Which certificate of a listener a client sees: the one of the host that it names.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Returns how a listener speaks TLS.
pub(crate) fn configure(provider: Arc<CryptoProvider>, names: Names) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(names));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Certificates of one listener by name.
#[derive(Clone, Default)]
pub(crate) struct Names {
    by_host: HashMap<String, Arc<CertifiedKey>>,
    /// For clients that name no host, or one that nobody has a certificate for.
    other: Option<Arc<CertifiedKey>>,
    /// That one was given without a host.
    meant: bool,
}

impl Names {
    /// Adds the certificate of a host, or of whoever asks for no other.
    pub(crate) fn add(&mut self, host: Option<&str>, certified: &Arc<CertifiedKey>) {
        match host {
            Some(host) => {
                self.by_host.insert(host.to_ascii_lowercase(), certified.clone());
                self.other.get_or_insert_with(|| certified.clone());
            }
            None if !self.meant => (self.other, self.meant) = (Some(certified.clone()), true),
            None => {}
        }
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<CertifiedKey>, b: &Arc<CertifiedKey>| Arc::ptr_eq(a, b);
        let hosts =
            self.by_host.iter().all(|(host, own)| other.by_host.get(host).is_some_and(|its| same(own, its)));
        let rest = match (&self.other, &other.other) {
            (Some(own), Some(its)) => same(own, its),
            (None, None) => true,
            _ => false,
        };
        hosts && rest && self.by_host.len() == other.by_host.len()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_host.keys()).finish()
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.by_host.get(name));
        named.or(self.other.as_ref()).cloned()
    }
}
