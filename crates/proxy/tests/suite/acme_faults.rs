//! Certificates by ACME as they go wrong: each fault in words, none of them touches the certificate in use.

use cutover_acme_server::{Fault, Place};
use cutover_proxy::EventKind;

use super::acme_harness::{Asking, LONG, SHORT};
use super::harness::{LIMIT, until};
use super::tls_client::shown;
use super::upstream::Upstream;

/// Whatever goes wrong once, the certificate comes, and what was ordered is not ordered again.
#[tokio::test]
async fn a_fault_anywhere_costs_no_second_order() {
    let mut asking = Asking::start(SHORT).await;
    let places = [
        Place::Directory,
        Place::NewNonce,
        Place::NewAccount,
        Place::NewOrder,
        Place::Order,
        Place::Authorization,
        Place::Challenge,
        Place::Finalize,
        Place::Certificate,
    ];
    let faults = [Fault::BadNonce, Fault::Status(500), Fault::Refused, Fault::LostAnswer];
    let mut cases = Vec::new();
    for place in places {
        // A nonce is neither given nor taken by these.
        let signed = !matches!(place, Place::Directory | Place::NewNonce);
        cases.extend(
            faults.iter().filter(|fault| signed || **fault != Fault::BadNonce).map(|fault| (place, *fault)),
        );
    }
    for (at, (place, fault)) in cases.into_iter().enumerate() {
        let (host, before) = (format!("h{at}.test"), asking.authority.seen());
        asking.resolve(&host);
        if place == Place::NewAccount {
            // As if the authority knew nobody: the account is made, or made anew.
            asking.authority.forget_everything();
            asking.authority.fault(place, fault);
        } else {
            asking.authority.fault(place, fault);
        }
        asking.ask_for(&[&host]).await;
        asking.until_served(&host, &[]).await;
        let seen = asking.authority.seen();
        let orders = seen.orders - before.orders;
        // Whose number was lost cannot be taken up; the next order is a new one.
        let most = if (place, fault) == (Place::NewOrder, Fault::LostAnswer) { 2 } else { 1 };
        assert_eq!(orders, most, "{place:?} {fault:?}: {seen:?}");
        assert_eq!(asking.authority.faults_left(), 0, "{place:?} {fault:?} never happened");
        assert!(seen.accounts - before.accounts <= 1, "{place:?} {fault:?}: {seen:?}");
        asking.until_seen(&host, "no problem", |seen| seen.problem.is_none()).await;
    }
}

#[tokio::test]
async fn a_rate_limit_is_honoured_and_told() {
    let mut asking = Asking::start(SHORT).await;
    asking.resolve("a.test");
    asking.authority.fault(Place::NewOrder, Fault::RateLimited(7_300));
    asking.ask_for(&["a.test"]).await;
    let problem = asking.until_problem("a.test").await;
    for words in
        ["get a certificate for a.test", "rateLimited", "too many certificates", "asked again in 2 h"]
    {
        assert!(problem.contains(words), "{words}: {problem}");
    }
    let told = asking.certificate("a.test").await.acme.unwrap();
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let wait_s = told.next_ms.unwrap() / 1_000 - now_s;
    assert!((7_200..=7_300).contains(&wait_s) && told.failures == 1, "{told:?}");
    assert_eq!(asking.authority.seen().orders, 0);
    let events = asking.proxy.client.watch(0, LIMIT).await.unwrap();
    assert!(events.len() == 1 && events[0].kind == EventKind::Alert, "{events:#?}");
    assert!(events[0].why.contains("there is none yet, its clients are refused"), "{}", events[0].why);
    let page = asking.proxy.client.observe().await.unwrap().prometheus();
    let labels = "{service=\"shop\",host=\"a.test\"}";
    for line in [
        format!("cutover_proxy_certificate_problem{labels} 1"),
        format!("cutover_proxy_certificate_failures{labels} 1"),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_fails_in_words_and_comes_when_it_leads_here() {
    let mut asking = Asking::start(SHORT).await;
    asking.ask_for(&["a.test"]).await;
    let problem = asking.until_problem("a.test").await;
    let words = "the authority says dns: DNS problem: NXDOMAIN looking up A for a.test; let the name lead to this machine";
    assert!(problem.contains(words), "{problem}");
    // Some other server answers for it.
    let other = Upstream::start("other").await;
    asking.authority.resolve("a.test", other.addr);
    let elsewhere = |problem: &str| problem.contains("something else answers for the name on port 80");
    let told = asking
        .until_seen("a.test", "another cause", |seen| seen.problem.as_deref().is_some_and(elsewhere))
        .await;
    assert!(told.acme.unwrap().failures >= 2, "failures in a row are counted");
    asking.resolve("a.test");
    asking.until_served("a.test", &[]).await;
    asking.until_seen("a.test", "no problem", |seen| seen.problem.is_none()).await;
    assert_eq!(asking.authority.seen().signed, 1);
}

#[tokio::test]
async fn a_failure_leaves_the_certificate_in_use() {
    let mut asking = Asking::start(SHORT).await;
    asking.resolve("a.test");
    asking.authority.change(|behaviour| behaviour.life = (4_000, 1_000));
    asking.ask_for(&["a.test"]).await;
    let before = shown(&asking.until_served("a.test", &[]).await);
    // What is sent is no certificate, and then the authority is gone altogether.
    for (fault, words) in
        [(Fault::Garbage, "the authority sent what cannot be used"), (Fault::Status(503), "answers 503")]
    {
        let place = if fault == Fault::Garbage { Place::Certificate } else { Place::Directory };
        (0..50).for_each(|_| asking.authority.fault(place, fault));
        let seen = shown(&asking.connect("a.test").await.unwrap());
        asking
            .until_seen("a.test", words, |seen| {
                seen.problem.as_ref().is_some_and(|text| text.contains(words))
            })
            .await;
        assert!(asking.connect("a.test").await.is_ok() && !seen.is_empty());
        let told = asking.proxy.client.events(0).await.unwrap();
        assert!(
            told.iter().any(|event| event.why.contains("the certificate before stays in use")),
            "{told:#?}"
        );
    }
    asking.authority.clear_faults();
    asking.until_served("a.test", &before).await;
}

#[tokio::test]
async fn an_authority_that_hangs_or_fails_a_host_holds_up_nobody_else() {
    let mut asking = Asking::start(LONG).await;
    // The authority of c.test never answers, and b.test leads nowhere.
    let silent = cutover_acme_server::AcmeServer::start();
    silent.fault(Place::Directory, Fault::Hang);
    let mut stuck = asking.route("c.test");
    stuck.acme.as_mut().unwrap().directory = silent.directory();
    std::fs::write(asking.proxy.path("silent.pem"), silent.root_pem()).unwrap();
    stuck.acme.as_mut().unwrap().root = asking.proxy.path("silent.pem").to_str().map(str::to_owned);
    asking.service.tls.push(stuck);
    asking.set().await;
    until("the silent one is asked", || (silent.faults_left() == 0).then_some(())).await;
    asking.resolve("a.test");
    asking.ask_for(&["b.test", "a.test"]).await;
    asking.until_served("a.test", &[]).await;
    assert!(asking.until_problem("b.test").await.contains("NXDOMAIN"));
    assert!(asking.certificate("c.test").await.acme.unwrap().under_way);
}

#[tokio::test]
async fn a_retry_time_that_a_wrong_clock_has_written_holds_up_nobody() {
    let mut asking = Asking::start(LONG).await;
    asking.ask_for(&["a.test"]).await;
    asking.until_problem("a.test").await;
    let file = asking.files().into_iter().find(|path| path.ends_with("a.test.attempt.json")).unwrap();
    let wrong = r#"{"failures": 1, "next_ms": 4102444800000, "open": false, "problem": "in the year 2100"}"#;
    std::fs::write(file, wrong).unwrap();
    let before = asking.proxy.worker_pid().await;
    super::harness::signal(before, rustix::process::Signal::KILL);
    asking.resolve("a.test");
    asking.until_served("a.test", &[]).await;
}

#[tokio::test]
async fn a_cause_outside_of_the_authority_is_told_with_what_to_do() {
    let mut asking = Asking::start(SHORT).await;
    asking.resolve("a.test");
    std::fs::write(asking.proxy.path("root.pem"), "no certificate").unwrap();
    asking.ask_for(&["a.test"]).await;
    let problem = asking.until_problem("a.test").await;
    assert!(problem.contains("root.pem\" holds no root certificate in PEM"), "{problem}");
    // A root of somebody else.
    let other = super::tls_client::Authority::new().write_root(asking.proxy.dir.path());
    assert_eq!(other, asking.proxy.path("root.pem"));
    let text = |seen: &cutover_proxy::CertificateObservation| seen.problem.clone().unwrap_or_default();
    asking
        .until_seen("a.test", "a stranger", |seen| text(seen).contains("cannot ask https://127.0.0.1"))
        .await;
    assert_eq!(asking.authority.seen().accounts, 0, "a stranger is told nothing");
    std::fs::write(asking.proxy.path("root.pem"), asking.authority.root_pem()).unwrap();
    asking.until_served("a.test", &[]).await;
}

#[tokio::test]
async fn an_authority_that_forgot_us_gets_to_know_us_again() {
    let mut asking = Asking::start(SHORT).await;
    asking.resolve("a.test");
    asking.authority.change(|behaviour| behaviour.life = (4_000, 1_000));
    asking.ask_for(&["a.test"]).await;
    let first = shown(&asking.until_served("a.test", &[]).await);
    asking.authority.forget_everything();
    asking.until_served("a.test", &first).await;
    until("a second account", || (asking.authority.seen().accounts == 2).then_some(())).await;
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_asked_for_no_more() {
    let mut asking = Asking::start(LONG).await;
    asking.ask_for(&["a.test"]).await;
    asking.until_problem("a.test").await;
    asking.service.tls.clear();
    asking.resolve("b.test");
    asking.ask_for(&["b.test"]).await;
    asking.until_served("b.test", &[]).await;
    assert_eq!(asking.authority.seen().orders, 2, "one for each");
}
