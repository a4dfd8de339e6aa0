//! A proxy, a service behind it, and an authority that looks at the proxy's plain listener.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use cutover_acme_server::AcmeServer;
use cutover_proxy::{AcmeIssuer, CertificateObservation, Observation, ServiceTable, TlsRoute};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::harness::{LIMIT, Proxy, SERVICE, any, table, track, until_seen};
use super::tls_client::connect;
use super::upstream::Upstream;

/// An hour: a test in which nothing must be asked for twice.
pub(crate) const LONG: &str = "3600000";
/// A test that waits for what happens at the next attempt.
pub(crate) const SHORT: &str = "100";

pub(crate) struct Asking {
    pub(crate) proxy: Proxy,
    _upstream: Upstream,
    pub(crate) authority: AcmeServer,
    /// The listener of HTTPS; that of the proxy is plain.
    pub(crate) secure: SocketAddr,
    pub(crate) service: ServiceTable,
    generation: u64,
}

impl Asking {
    /// Starts all three; nothing is asked for yet. `pause` is that after the first failure, in milliseconds.
    pub(crate) async fn start(pause: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let proxy = Proxy::start_with(dir, &[("CUTOVER_TEST_ACME_PAUSE_MS", pause)]).await;
        let upstream = Upstream::start("v1").await;
        let secure = proxy.client.listen(any()).await.unwrap();
        let service = table(vec![track("v1", 10_000, &[upstream.addr])]);
        let authority = AcmeServer::start();
        std::fs::write(proxy.path("root.pem"), authority.root_pem()).unwrap();
        Self { proxy, _upstream: upstream, authority, secure, service, generation: 0 }
    }

    /// Lets a name lead to the plain listener.
    pub(crate) fn resolve(&self, host: &str) {
        self.authority.resolve(host, self.proxy.addr);
    }

    pub(crate) fn issuer(&self) -> AcmeIssuer {
        let root = self.proxy.path("root.pem").to_str().unwrap().to_owned();
        AcmeIssuer { directory: self.authority.directory(), email: None, root: Some(root) }
    }

    pub(crate) fn route(&self, host: &str) -> TlsRoute {
        TlsRoute {
            listen: self.secure,
            host: Some(host.into()),
            cert: String::new(),
            key: String::new(),
            acme: Some(self.issuer()),
            hsts_s: None,
        }
    }

    /// Has certificates asked for these hosts, beside those that are in the table.
    pub(crate) async fn ask_for(&mut self, hosts: &[&str]) {
        let routes: Vec<TlsRoute> = hosts.iter().map(|host| self.route(host)).collect();
        self.service.tls.extend(routes);
        self.set().await;
    }

    pub(crate) async fn set(&mut self) {
        self.generation = self.proxy.set(self.generation, &self.service).await.generation;
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.authority.root_der().into()
    }

    /// Connects as a client that verifies the name.
    pub(crate) async fn connect(&self, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        connect(&self.root(), self.secure, host, &[]).await
    }

    /// Waits until clients of a host are served, and with another certificate than `before`.
    pub(crate) async fn until_served(&self, host: &str, before: &[u8]) -> TlsStream<TcpStream> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.connect(host).await {
                Ok(stream) if super::tls_client::shown(&stream) != before => return stream,
                _ => {
                    let seen = self.certificate(host).await;
                    assert!(
                        Instant::now() < end,
                        "no certificate for {host}: {seen:#?} {:?}",
                        self.authority.seen()
                    );
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn certificate(&self, host: &str) -> CertificateObservation {
        of(&self.proxy.client.observe().await.unwrap(), host).unwrap()
    }

    /// Waits until the certificate of a host is seen to be so.
    pub(crate) async fn until_seen(
        &self,
        host: &str,
        what: &str,
        look: impl Fn(&CertificateObservation) -> bool,
    ) -> CertificateObservation {
        let seen = until_seen(&self.proxy, what, |seen| of(seen, host).is_some_and(|seen| look(&seen))).await;
        of(&seen, host).unwrap()
    }

    /// Waits until an attempt has failed; returns what is said of it.
    pub(crate) async fn until_problem(&self, host: &str) -> String {
        self.until_seen(host, "a problem", |seen| seen.problem.is_some()).await.problem.unwrap()
    }

    /// Returns all files of the authority's folder and of the challenges, but those that say nothing.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.proxy.path("acme")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
            }
        }
        found.sort();
        found
    }
}

fn of(seen: &Observation, host: &str) -> Option<CertificateObservation> {
    let service = seen.services.get(SERVICE)?;
    service.certificates.iter().find(|seen| seen.host.as_deref() == Some(host)).cloned()
}
