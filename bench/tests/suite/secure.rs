//! The same clients by TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use cutover_bench::load::{Kind, Mix, Secure};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::harness::{Running, handled, only, options, run};

/// Starts what takes TLS off and passes bytes on; returns where, and how clients come to it.
async fn unwrapping(service: SocketAddr, protocols: &[&str]) -> (SocketAddr, Secure) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["shop.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let server = server.unwrap().with_no_client_auth();
    let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut server = server.with_single_cert(vec![cert.der().clone()], secret).unwrap();
    server.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let address = handled(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A client that does not like it says so itself.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut there = TcpStream::connect(service).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut there).await;
        }
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    (address, Secure::new("shop.test".try_into().unwrap(), &client))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_goes_by_tls() {
    let service = Running::start("v1", None, None).await;
    let (address, secure) = unwrapping(service.address, &["h2", "http/1.1"]).await;
    let mut options = options(address, Mix { http2: 2, grpc: 2, sticky: 2, ..Mix::small() }, 300);
    options.secure = Some(secure);
    let report = run(options).await;
    assert_eq!((report.sent(), report.failed()), (300, 0), "{report}");
    assert!(Kind::ALL.iter().all(|kind| report.kind(*kind).sent > 0), "{report}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_fails_is_a_failed_request() {
    let service = Running::start("v1", None, None).await;
    let (address, _) = unwrapping(service.address, &[]).await;
    let (_, stranger) = unwrapping(service.address, &[]).await;
    for kind in Kind::ALL {
        let mut options = options(address, only(kind), 3);
        options.secure = Some(stranger.clone());
        let report = run(options).await;
        assert_eq!((report.sent(), report.failed()), (3, 3), "{report}");
        let text = &report.kind(kind).failures[0].text;
        assert!(text.contains("failed to connect: TLS: invalid peer certificate"), "{text}");
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_http2_fail_where_it_is_not_agreed_on() {
    let service = Running::start("v1", None, None).await;
    let (address, secure) = unwrapping(service.address, &[]).await;
    for (kind, fails) in [(Kind::GetKept, 0), (Kind::WebSocket, 0), (Kind::Http2, 3), (Kind::Grpc, 3)] {
        let mut options = options(address, only(kind), 3);
        options.secure = Some(secure.clone());
        let report = run(options).await;
        assert_eq!((report.sent(), report.failed()), (3, fails), "{report}");
    }
    service.stop().await;
}
