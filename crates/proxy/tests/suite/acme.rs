//! Certificates by ACME as they should go: asked for, served, renewed.

use std::os::unix::fs::PermissionsExt;

use cutover_proxy::{ErrorKind, REASON_HEADER};

use super::acme_harness::{Asking, LONG, SHORT};
use super::harness::{SERVICE, Wire, until};
use super::tls_client::{Authority, ask, connect, shown};

const GET: &str = "GET /headers HTTP/1.1\r\nhost: a.test\r\n\r\n";

#[tokio::test]
async fn a_certificate_is_asked_for_and_served() {
    let mut asking = Asking::start(LONG).await;
    asking.resolve("a.test");
    asking.authority.change(|behaviour| behaviour.validation_lag = std::time::Duration::from_millis(300));
    // The plain listener only redirects: a challenge is answered all the same.
    asking.service.redirect = vec![asking.proxy.addr];
    asking.ask_for(&["a.test"]).await;
    // Until it is there, clients of HTTPS are refused, and nobody else is.
    assert!(asking.connect("a.test").await.is_err());
    let mistaken = Wire::connect(asking.secure).await.get("/").await;
    assert_eq!((mistaken.status, mistaken.header(REASON_HEADER)), (400, Some("plain-text")));
    assert_eq!(asking.proxy.get("/").await.status, 308);
    let mut stream = asking.until_served("a.test", &[]).await;
    let answer = ask(&mut stream, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-forwarded-proto: https"), "{answer}");
    let seen = asking.authority.seen();
    assert_eq!((seen.accounts, seen.orders, seen.looked, seen.signed), (1, 1, 1, 1), "{seen:?}");
    assert_eq!(seen.problems, Vec::<String>::new());
    let told = asking.certificate("a.test").await;
    let acme = told.acme.unwrap();
    assert_eq!((told.problem, acme.failures, acme.directory), (None, 0, asking.authority.directory()));
    let (next_s, last) = (acme.next_ms.unwrap() / 1_000, told.not_after.unwrap().cast_unsigned());
    let third = 30 * 86_400;
    assert!(
        (last - third * 11 / 10 - 3_600..=last - third).contains(&next_s),
        "renewed at {next_s} of {last}"
    );
    assert!(asking.proxy.client.events(0).await.unwrap().is_empty());
    assert_eq!(asking.proxy.client.observe().await.unwrap().unrouted["acme-challenge"], 1);
}

#[tokio::test]
async fn keys_are_their_owners_alone_and_in_no_other_file() {
    let mut asking = Asking::start(LONG).await;
    asking.resolve("a.test");
    asking.ask_for(&["a.test"]).await;
    asking.until_served("a.test", &[]).await;
    let files = asking.files();
    let names: Vec<&str> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    // No order and no challenge is left.
    assert_eq!(names, ["a.test.attempt.json", "a.test.pem", "account.json", "lock"], "{files:?}");
    for path in &files {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    for name in ["table.json", "events.json", "listeners.json"] {
        let text = std::fs::read_to_string(asking.proxy.path(name)).unwrap_or_default();
        assert!(!text.contains("PRIVATE KEY"), "{name}");
    }
}

#[tokio::test]
async fn only_challenges_of_our_own_are_answered() {
    let mut asking = Asking::start(LONG).await;
    asking.resolve("a.test");
    asking.authority.change(|behaviour| behaviour.signing_lag = std::time::Duration::from_secs(600));
    asking.authority.change(|behaviour| behaviour.validation_lag = std::time::Duration::from_secs(600));
    asking.ask_for(&["a.test"]).await;
    let token = until("a challenge", || {
        let folder = std::fs::read_dir(asking.proxy.path("acme/challenges")).ok()?;
        let names = folder.flatten().map(|entry| entry.file_name().to_str().unwrap().to_owned());
        names.into_iter().find(|name| !name.contains('.'))
    })
    .await;
    let path = format!("/.well-known/acme-challenge/{token}");
    let own = asking.proxy.get(&path).await;
    assert_eq!((own.status, own.header("cache-control")), (200, Some("no-store")));
    assert!(own.text().starts_with(&format!("{token}.")), "{}", own.text());
    // Everything else is the service's, which says so.
    for path in [
        "/.well-known/acme-challenge/",
        "/.well-known/acme-challenge/unknown",
        "/.well-known/acme-challenge/../account.json",
        "/.well-known/acme-challenge/..%2faccount.json",
        "/.well-known/acme-challenge",
        "/.well-known/other",
    ] {
        assert_eq!(asking.proxy.get(path).await.text(), "v1", "{path}");
    }
    let posted = Wire::connect(asking.proxy.addr).await.post(&path, "x").await.unwrap();
    assert_eq!(posted.text(), "v1");
}

#[tokio::test]
async fn it_is_renewed_when_a_third_is_left_and_drops_no_connection() {
    let mut asking = Asking::start(SHORT).await;
    asking.resolve("a.test");
    // A fifth of its life is left from the beginning.
    asking.authority.change(|behaviour| behaviour.life = (4_000, 1_000));
    asking.ask_for(&["a.test"]).await;
    let mut kept = asking.until_served("a.test", &[]).await;
    for _ in 0..2 {
        let before = shown(&asking.connect("a.test").await.unwrap());
        asking.until_served("a.test", &before).await;
        assert!(ask(&mut kept, GET).await.starts_with("HTTP/1.1 200"), "the connection lives on");
    }
    asking.authority.change(|behaviour| behaviour.life = (0, 9_000));
    asking
        .until_seen("a.test", "a long one", |seen| {
            let next_ms = seen.acme.as_ref().and_then(|acme| acme.next_ms).unwrap_or(0);
            next_ms / 1_000 > seen.not_after.unwrap_or(0).cast_unsigned() - 3_400
        })
        .await;
    let seen = asking.authority.seen();
    assert_eq!((seen.accounts, seen.orders, &*seen.problems), (1, seen.signed, &[][..]), "{seen:?}");
}

#[tokio::test]
async fn an_authority_can_have_a_certificate_renewed_early() {
    let mut asking = Asking::start(SHORT).await;
    asking.resolve("a.test");
    let (day, year) = (86_400, 365 * 86_400);
    // A third of its life is left in a month.
    asking.authority.change(|behaviour| {
        (behaviour.life, behaviour.renewal) = ((30 * 86_400, 60 * 86_400), Some((year, year + day)));
    });
    asking.ask_for(&["a.test"]).await;
    let first = shown(&asking.until_served("a.test", &[]).await);
    until("it is asked", || (asking.authority.seen().renewals >= 2).then_some(())).await;
    let planned = asking.certificate("a.test").await;
    let (next_ms, last) = (planned.acme.unwrap().next_ms.unwrap(), planned.not_after.unwrap());
    assert!(next_ms / 1_000 <= last.cast_unsigned() - 30 * 86_400, "a hint makes it no later");
    assert_eq!(asking.authority.seen().orders, 1);
    // It is going to be revoked.
    asking.authority.change(|behaviour| behaviour.renewal = Some((-day, -1)));
    asking.until_served("a.test", &first).await;
    // A hint that cannot be had is none.
    asking.authority.change(|behaviour| behaviour.renewal = None);
    let third = 30 * 86_400;
    asking
        .until_seen("a.test", "the plan again", |seen| {
            let next_ms = seen.acme.as_ref().and_then(|acme| acme.next_ms).unwrap_or(0);
            next_ms / 1_000 > seen.not_after.unwrap_or(0).cast_unsigned() - third * 11 / 10 - 3_600
        })
        .await;
}

#[tokio::test]
async fn from_files_to_an_authority_clients_always_see_a_certificate() {
    let mut asking = Asking::start(LONG).await;
    let (own, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let mut from_files = asking.route("a.test");
    (from_files.cert, from_files.key) = own.issue("a.test").write(files.path(), "a");
    from_files.acme = None;
    asking.service.tls = vec![from_files];
    asking.set().await;
    asking.authority.change(|behaviour| behaviour.validation_lag = std::time::Duration::from_secs(1));
    asking.resolve("a.test");
    asking.service.tls.clear();
    asking.ask_for(&["a.test"]).await;
    assert!(
        own.connect(asking.secure, "a.test", &[]).await.is_ok(),
        "the one before, until the next is there"
    );
    asking.until_served("a.test", &[]).await;
}

#[tokio::test]
async fn one_that_has_expired_is_shown_until_the_next_is_there() {
    let mut asking = Asking::start(LONG).await;
    asking.resolve("a.test");
    asking.ask_for(&["a.test"]).await;
    asking.until_served("a.test", &[]).await;
    // Nobody wanted it for a while, and it expired meanwhile.
    let path = asking.certificate("a.test").await.cert;
    let expired = Authority::new().issue_between("a.test", 2020, 2021);
    std::fs::write(&path, format!("{}{}", expired.cert, expired.key)).unwrap();
    let wanted = std::mem::take(&mut asking.service.tls);
    asking.set().await;
    asking.authority.change(|behaviour| behaviour.validation_lag = std::time::Duration::from_secs(600));
    asking.service.tls = wanted;
    asking.set().await;
    let error = asking.connect("a.test").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "it is shown, and its client sees why it is no good: {error}");
    assert_eq!(asking.certificate("a.test").await.not_after, Some(1_609_459_200));
}

#[tokio::test]
async fn the_authority_is_told_whom_to_write_to() {
    let mut asking = Asking::start(SHORT).await;
    asking.resolve("a.test");
    asking.ask_for(&["a.test"]).await;
    asking.until_served("a.test", &[]).await;
    assert_eq!(asking.authority.seen().contacts, Vec::<String>::new());
    // Another address is told when a certificate is asked for the next time.
    for route in &mut asking.service.tls {
        route.acme.as_mut().unwrap().email = Some("ops@a.test".into());
    }
    asking.resolve("b.test");
    let mut second = asking.route("b.test");
    second.acme.as_mut().unwrap().email = Some("ops@a.test".into());
    asking.service.tls.push(second);
    asking.set().await;
    asking.until_served("b.test", &[]).await;
    let seen = asking.authority.seen();
    assert_eq!((seen.accounts, seen.orders), (1, 2), "the certificate of a.test is not asked for again");
    assert_eq!(seen.contacts, ["mailto:ops@a.test"]);
}

#[tokio::test]
async fn a_table_that_nobody_could_sign_for_is_refused() {
    let mut asking = Asking::start(LONG).await;
    let good = asking.route("a.test");
    let (mut nameless, mut plain, mut both, mut numbered) = (good.clone(), good.clone(), good.clone(), good);
    nameless.host = None;
    plain.acme.as_mut().unwrap().directory = "http://ca.test/directory".into();
    both.cert = "/c.pem".into();
    numbered.host = Some("127.0.0.1".into());
    for (route, words) in [
        (nameless, "needs a host"),
        (plain, "is asked by https"),
        (both, "give files or ACME, not both"),
        (numbered, "is no name that an authority signs for"),
    ] {
        asking.service.tls = vec![route];
        let error = asking.proxy.client.set(SERVICE, 0, 1, &asking.service).await.unwrap_err();
        assert!(*error.kind() == ErrorKind::Invalid && error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn several_hosts_share_a_listener_and_each_gets_its_own() {
    let mut asking = Asking::start(LONG).await;
    let hosts = ["a.test", "b.test", "c.test"];
    hosts.iter().for_each(|host| asking.resolve(host));
    asking.ask_for(&hosts).await;
    for host in hosts {
        asking.until_served(host, &[]).await;
    }
    assert!(connect(&asking.root(), asking.secure, "d.test", &[]).await.is_err());
    let seen = asking.authority.seen();
    assert_eq!((seen.accounts, seen.orders, seen.signed), (1, 3, 3));
}
