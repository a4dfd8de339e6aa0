//! An authority of its own for each test, and clients that trust it alone.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::harness::LIMIT;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate that is named like its issuer for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    pub(crate) fn issue(&self, host: &str) -> Pair {
        self.issue_between(host, 2020, 2090)
    }

    pub(crate) fn issue_between(&self, host: &str, from: i32, to: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Pair { cert: pem("CERTIFICATE", cert.der()), key: pem("PRIVATE KEY", key.serialized_der()) }
    }

    /// Writes the certificate that clients trust; returns its path.
    pub(crate) fn write_root(&self, dir: &Path) -> std::path::PathBuf {
        let path = dir.join("root.pem");
        std::fs::write(&path, pem("CERTIFICATE", &self.root)).unwrap();
        path
    }

    /// Connects; an error when the handshake fails.
    pub(crate) async fn connect(
        &self,
        addr: SocketAddr,
        host: &str,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        connect(&self.root, addr, host, alpn).await
    }

    /// Connects, and says `first` in the clear before the handshake.
    pub(crate) async fn connect_after(
        &self,
        first: &[u8],
        addr: SocketAddr,
        host: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(first).await?;
        over(&self.root, stream, host, &[]).await
    }
}

/// Connects as a client that trusts one root.
pub(crate) async fn connect(
    root: &CertificateDer<'static>,
    addr: SocketAddr,
    host: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    over(root, TcpStream::connect(addr).await?, host, alpn).await
}

async fn over(
    root: &CertificateDer<'static>,
    stream: TcpStream,
    host: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    timeout(LIMIT, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap()
}

fn pem(what: &str, der: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (at, bytes) in der.chunks(3).enumerate() {
        if at % 16 == 0 {
            text.push('\n');
        }
        let bits =
            bytes.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - bytes.len()));
        for letter in 0..4 {
            let index = bits >> (18 - 6 * letter) & 63;
            text.push(if letter <= bytes.len() { LETTERS[index as usize].into() } else { '=' });
        }
    }
    format!("-----BEGIN {what}-----{text}\n-----END {what}-----\n")
}

impl Pair {
    /// Writes both; returns their paths.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> (String, String) {
        let path = |kind: &str| dir.join(format!("{name}.{kind}")).to_str().unwrap().to_owned();
        let (cert, key) = (path("cert.pem"), path("key.pem"));
        for (path, text) in [(&cert, &self.cert), (&key, &self.key)] {
            // As tools that renew do: a new file in the place of the old one.
            std::fs::write(format!("{path}.new"), text).unwrap();
            std::fs::rename(format!("{path}.new"), path).unwrap();
        }
        (cert, key)
    }
}

/// Sends a request of HTTP/1.1 and reads head and body of a known length.
pub(crate) async fn ask(stream: &mut TlsStream<TcpStream>, head: &str) -> String {
    timeout(LIMIT, stream.write_all(head.as_bytes())).await.unwrap().unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap());
    }
    let text = String::from_utf8(text).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    timeout(LIMIT, stream.read_exact(&mut body)).await.unwrap().unwrap();
    text + &String::from_utf8(body).unwrap()
}

/// Returns the serial number, in a way, of the certificate that a connection began with.
pub(crate) fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}
