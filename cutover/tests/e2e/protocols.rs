//! Whole releases in other protocols than plain HTTP/1.1, under load: no request fails.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;

use crate::clients::{Clients, get_tls};
use crate::h2c::Streams;
use crate::harness::{Scratch, free_address, get, wait};
use crate::service::{file, whole};

const CANARY: &str =
    "strategy: {canary: {weights: [10%, 50%, 100%], bake: 500ms}}\nbake: 500ms\nkeep_warm: 0s\ndrain: 8s";

/// Writes the release file of `version` with other routes than the plain one.
fn with_routes(scratch: &Scratch, version: &str, routes: &[String]) {
    file(scratch, version, "", CANARY);
    reroute(scratch, routes);
}

fn reroute(scratch: &Scratch, routes: &[String]) {
    let path = scratch.path().join("cutover.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let plain = format!("route: [{{proxy: {{listen: '{}'}}}}]", scratch.address);
    let list = routes.iter().map(|route| format!("{{proxy: {{{route}}}}}")).collect::<Vec<_>>().join(", ");
    assert!(text.contains(&plain), "{text}");
    fs::write(path, text.replace(&plain, &format!("route: [{list}]"))).unwrap();
}

/// Writes a certificate that signed itself, and its key; returns what clients must trust.
fn write_certificate(folder: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["shop.localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(folder.join("shop.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("shop.key"), key.serialize_pem()).unwrap();
    certificate.der().clone()
}

/// Waits until the clients have sent so many more.
fn more(clients: &Clients, requests: u64) {
    let goal = clients.sent() + requests;
    wait("more requests", || (clients.sent() >= goal).then_some(()));
}

/// Releases `version` while the clients ask, and checks that none of them was failed.
fn release(scratch: &Scratch, clients: Clients) {
    more(&clients, 200);
    let report = scratch.deploy().expect(0).report();
    more(&clients, 200);
    let (sent, failures) = clients.stop();
    assert!(sent >= 400 && failures.is_empty(), "{sent} sent: {failures:#?}");
    assert_eq!(report["outcome"], "released", "{report}");
}

#[test]
fn a_release_over_tls_fails_nothing_and_plain_http_leads_there() {
    let scratch = Scratch::new();
    let (secure, folder) = (free_address(), scratch.path().to_owned());
    let root = write_certificate(&folder);
    let files = format!("cert: {0}/shop.pem, key: {0}/shop.key", folder.display());
    let routes = [
        format!("listen: '{}', host: shop.localhost, redirect: https", scratch.address),
        format!("listen: '{secure}', host: shop.localhost, tls: {{{files}, hsts: 365d}}"),
    ];
    with_routes(&scratch, "v1", &routes);
    scratch.deploy().expect(0);
    let answer = get_tls(secure, &root).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("v1\n"), "{answer}");
    assert!(answer.contains("strict-transport-security: max-age=31536000\r\n"), "{answer}");
    let (status, body) = get(scratch.address, "/a?b=c").unwrap();
    assert!(status == 308 && body.contains("https"), "{status} {body}");
    let clients = Clients::start_tls(secure, &root);
    with_routes(&scratch, "v2", &routes);
    release(&scratch, clients);
    assert!(get_tls(secure, &root).unwrap().ends_with("v2\n"));
    whole(&scratch, 2);
    let said = scratch.run(&["proxy", "status"]).expect(0).out;
    let line = format!("certificate of shop.localhost on {secure}: until 4096-01-01");
    assert!(said.contains(&line) && said.contains("shop.pem"), "{said}");
    let seen = scratch.run(&["proxy", "status", "--output", "json"]).expect(0).json();
    let certificate = &seen["observed"]["services"]["shop"]["certificates"][0];
    assert_eq!(certificate["host"], "shop.localhost", "{seen}");
    assert!(certificate["not_after"].is_i64() && certificate["problem"].is_null(), "{certificate}");
}

#[test]
fn a_release_of_instances_that_speak_http_2_alone_fails_nothing() {
    let scratch = Scratch::new();
    let write = |version: &str| {
        let exe = std::env::current_exe().unwrap();
        let local = format!(
            "command: ['{}', '--exact', 'h2c::entry', '--nocapture'], replicas: 2, env: {{E2E_H2C: '1', VERSION: {version}}}",
            exe.display()
        );
        scratch.file(
            &local,
            &format!("checks: {{health: [{{path: /health, interval: 100ms}}], within: 30s}}\n{CANARY}"),
        );
        reroute(&scratch, &[format!("listen: '{}', target_protocol: h2c", scratch.address)]);
    };
    write("v1");
    scratch.deploy().expect(0);
    assert_eq!(get(scratch.address, "/"), Some((200, "v1".into())));
    // Clients of both versions of HTTP share the listener.
    let (clients, streams) = (Clients::start(scratch.address), Streams::start(scratch.address));
    wait("streams", || (streams.answered() >= 200).then_some(()));
    write("v2");
    release(&scratch, clients);
    let (answered, failures) = streams.stop();
    assert!(answered >= 400 && failures.is_empty(), "{answered} answered: {failures:#?}");
    assert_eq!(get(scratch.address, "/"), Some((200, "v2".into())));
}

#[test]
fn a_release_gets_its_certificate_from_an_authority() {
    let scratch = Scratch::new();
    let (secure, authority): (SocketAddr, _) = (free_address(), cutover_acme_server::AcmeServer::start());
    let root_file = scratch.path().join("root.pem");
    fs::write(&root_file, authority.root_pem()).unwrap();
    let plain = format!("listen: '{}', host: shop.localhost, redirect: https", scratch.address);
    let acme = format!("acme: {{directory: '{}', root: '{}'}}", authority.directory(), root_file.display());
    let tls = format!("listen: '{secure}', host: shop.localhost, tls: {{{acme}}}");
    // Nobody could look at it: said before anything runs.
    with_routes(&scratch, "v1", std::slice::from_ref(&tls));
    let refused = scratch.deploy().expect(3);
    let report = refused.report().to_string();
    assert!(report.contains("no listener speaks plain HTTP"), "{report}");
    with_routes(&scratch, "v1", &[plain.clone(), tls.clone()]);
    // The name does not lead here yet: the release goes on, and status says why there is no certificate.
    scratch.deploy().expect(0);
    let status = wait("the cause", || {
        let said = scratch.run(&["status"]).expect(0).out;
        said.contains("certificate of shop.localhost: ").then_some(said)
    });
    assert!(status.contains("NXDOMAIN") && status.contains("let the name lead to this machine"), "{status}");
    let said = scratch.run(&["proxy", "status"]).expect(0).out;
    assert!(said.contains("NONE YET") && said.contains("after 1 failure in a row"), "{said}");
    // It does now. The next attempt comes with the pause; a new authority in the file is asked at once.
    authority.resolve("shop.localhost", scratch.address);
    let again = tls.replace("directory'", "directory?again'");
    let root: CertificateDer<'static> = authority.root_der().into();
    with_routes(&scratch, "v2", &[plain, again]);
    scratch.deploy().expect(0);
    let answer = wait("a certificate", || get_tls(secure, &root).ok());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("v2\n"), "{answer}");
    let status = scratch.run(&["status"]).expect(0).out;
    assert!(!status.contains("certificate of"), "{status}");
}
