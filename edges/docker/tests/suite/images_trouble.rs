//! What goes wrong with real engines and registries, and what it is called.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cutover_core::{After, Blame, Fault};
use cutover_docker::image::Credentials;
use cutover_docker_engine::Engine;

use crate::suite::harness::engines_wanted;
use crate::suite::images::{Bench, TWICE, build, context, noise, program, pulled};
use crate::suite::registry::{Registry, Wants, registries_wanted, stubborn};

async fn pin(bench: &Bench, image: &str) -> Fault {
    bench.images.pin(&pulled(image), "/".as_ref()).await.unwrap_err()
}

fn says(fault: &Fault, what: &str, hint: &str) {
    assert!(fault.what.contains(what) && fault.hint.contains(hint), "{fault:#?}");
}

/// Returns an address of this machine that the engine does not take for loopback: that of its own bridge.
fn beyond_loopback(engine: &Engine) -> IpAddr {
    let format = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
    engine.docker(&["network", "inspect", "bridge", "--format", format]).trim().parse().unwrap()
}

/// What the engine on this machine trusts a registry by, taken away again at the end.
struct Trusted(PathBuf);

impl Trusted {
    fn new(registry: &Registry) -> Trusted {
        let folder = Path::new("/etc/docker/certs.d").join(registry.name());
        fs::create_dir_all(&folder).unwrap();
        fs::copy(registry.authority(), folder.join("ca.crt")).unwrap();
        Trusted(folder)
    }
}

impl Drop for Trusted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn certificates_and_plain_http_are_told_apart_and_a_known_authority_is_enough() {
    if !registries_wanted("certificates_and_plain_http") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let host = Some(beyond_loopback(&engine));
    let plain = Registry::start_as(Wants { host, ..Wants::default() });
    let name = plain.name();
    let fault = pin(&bench, &format!("{name}/shop:1")).await;
    says(&fault, &format!("{name} speaks HTTP, and the engine wants HTTPS"), "insecure-registries");
    assert_eq!((fault.blame, fault.after), (Blame::Configuration, After::Final));

    let signed = Registry::start_as(Wants { host, tls: true, ..Wants::default() });
    let name = signed.name();
    let id = engine.image("mine:1", &[], &["LABEL x=1"]);
    let to = format!("{name}/shop:1");
    let fault = bench.images.push(&id, &to, &bench.watch()).await.unwrap_err();
    says(&fault, "does not know who signed the certificate", &format!("/etc/docker/certs.d/{name}/ca.crt"));
    let _trusted = Trusted::new(&signed);
    let pushed = bench.images.push(&id, &to, &bench.watch()).await.unwrap();
    let fresh = Engine::start();
    let other = Bench::of(&fresh);
    let pinned = other.images.pin(&pulled(&to), "/".as_ref()).await.unwrap();
    assert_eq!(pinned.content(), pushed.digest);
    assert_eq!(other.obtain(&pinned, "r-1").await.unwrap().id, id);
}

#[tokio::test]
async fn names_tags_addresses_and_statuses_that_do_not_work_have_their_own_words() {
    if !registries_wanted("names_tags_addresses_and_statuses") {
        return;
    }
    let (engine, registry) = (Engine::start(), Registry::start());
    let bench = Bench::of(&engine);
    let name = registry.name();
    let fault = pin(&bench, &format!("{name}/nothing/like:this")).await;
    says(
        &fault,
        &format!("look for {name}/nothing/like:this in the registry: "),
        "many registries say the same",
    );
    let id = engine.image("mine:1", &[], &["LABEL x=1"]);
    bench.images.push(&id, &format!("{name}/shop:1"), &bench.watch()).await.unwrap();
    let fault = pin(&bench, &format!("{name}/shop:2")).await;
    says(&fault, "no such tag or digest", "Correct the tag");
    let missing = format!("{name}/shop@sha256:{}", "0".repeat(64));
    let pinned = bench.images.pin(&pulled(&missing), "/".as_ref()).await.unwrap();
    let fault = bench.obtain(&pinned, "r-1").await.unwrap_err();
    says(&fault, "no such tag or digest", "deleted on");

    says(&pin(&bench, "127.0.0.1:1/shop:1").await, "nobody listens at 127.0.0.1:1", "Start the registry");
    says(&pin(&bench, "registry.invalid/shop:1").await, "registry.invalid does not resolve", "DNS");
    says(&pin(&bench, "Shop").await, "read the image `Shop`", "registry.example/shop:1.4");
    let many = stubborn(
        "429 Too Many Requests",
        r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#,
    );
    says(&pin(&bench, &format!("{many}/shop:1")).await, "wants fewer requests", "docker login");
    let broken = stubborn("503 Service Unavailable", "{}");
    says(&pin(&bench, &format!("{broken}/shop:1")).await, "has trouble of its own", "log");
    let denied = stubborn("403 Forbidden", r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#);
    says(
        &pin(&bench, &format!("{denied}/shop:1")).await,
        "does not let this login do that",
        "give the account access",
    );
}

#[tokio::test]
async fn an_image_for_other_machines_alone_is_refused_before_anything_is_pulled() {
    if !registries_wanted("an_image_for_other_machines_alone") {
        return;
    }
    let (engine, registry) = (Engine::start(), Registry::start());
    let bench = Bench::of(&engine);
    let id = engine.image("mine:1", &[], &["LABEL x=1"]);
    let pushed =
        bench.images.push(&id, &format!("{}/shop:1", registry.name()), &bench.watch()).await.unwrap();
    let url = format!("http://{}/v2/shop/manifests", registry.name());
    let v2 = "application/vnd.docker.distribution.manifest.v2+json";
    let get = ["-sf", "-H", &format!("accept: {v2}"), &format!("{url}/1")].map(str::to_owned);
    let manifest = Command::new("curl").args(get).output().unwrap().stdout;
    let list = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [{"mediaType": v2, "digest": pushed.digest, "size": manifest.len(),
            "platform": {"architecture": "s390x", "os": "linux"}}],
    });
    let list_type = "content-type: application/vnd.docker.distribution.manifest.list.v2+json";
    let put = ["-sf", "-X", "PUT", "-H", list_type, "-d", &list.to_string(), &format!("{url}/other")]
        .map(str::to_owned);
    assert!(Command::new("curl").args(put).status().unwrap().success());
    let fault = pin(&bench, &format!("{}/shop:other", registry.name())).await;
    says(&fault, "there is no image for the architecture", "that architecture too");
    assert!(fault.what.contains("linux/s390x"), "{}", fault.what);
}

#[tokio::test]
async fn a_wrong_login_is_no_matter_of_trying_again() {
    if !registries_wanted("a_wrong_login_is_no_matter_of_trying_again") {
        return;
    }
    let (engine, registry) = (Engine::start(), Registry::start_as(Wants { login: true, ..Wants::default() }));
    let name = registry.name();
    let nobody = || Credentials::of_folder("/nonexistent", "", Duration::from_secs(5));
    let id = engine.image("mine:1", &[], &["LABEL x=1"]);
    for credentials in [nobody(), nobody().with(&name, "me", "wrong-word")] {
        let bench = Bench::with(&engine, credentials, TWICE);
        let hint = format!("docker login {name}");
        let fault = pin(&bench, &format!("{name}/shop:1")).await;
        says(&fault, &format!("{name} wants a login, or does not accept the one it got"), &hint);
        let fault = bench.images.push(&id, &format!("{name}/shop:1"), &bench.watch()).await.unwrap_err();
        says(&fault, &format!("push {name}/shop:1: {name} wants a login"), &hint);
        assert!(!format!("{fault:?}{}", bench.told()).contains("wrong-word"));
        assert!(!bench.told().contains("trying again"), "{}", bench.told());
        let folder = context(&[("Dockerfile", &format!("FROM {name}/base:1\n"))]);
        let fault = bench.build(build(), folder.path(), "r-1").await.unwrap_err();
        says(&fault, "wants a login", "docker login");
    }
}

#[tokio::test]
async fn a_helper_that_is_missing_hangs_fails_or_answers_garbage_is_named() {
    if !engines_wanted("a_helper_that_is_missing_hangs_fails") {
        return;
    }
    let engine = Engine::start();
    let config = context(&[("config.json", r#"{"credsStore": "test"}"#)]);
    let path = format!("{}:/usr/bin:/bin", config.path().display());
    let limit = Duration::from_millis(700);
    let bench = Bench::with(&engine, Credentials::of_folder(config.path(), path, limit), TWICE);
    let helper = config.path().join("docker-credential-test");
    let ask = async || pin(&bench, "127.0.0.1:1/shop:1").await;
    let fault = ask().await;
    says(&fault, "docker-credential-test for the login of 127.0.0.1:1: there is no such program", "PATH");

    program(&helper, "#!/bin/sh\nexec sleep 1000\n");
    let begun = Instant::now();
    says(
        &ask().await,
        "no answer within 0.7 s, so it was killed",
        "echo 127.0.0.1:1 | docker-credential-test get",
    );
    assert!(begun.elapsed() < Duration::from_secs(60), "it was waited for");

    program(&helper, "#!/bin/sh\necho '{\"Username\": \"me\", \"Secret\": hush'\n");
    let fault = ask().await;
    says(&fault, "its answer is no JSON with Username and Secret", "by hand");
    assert!(!format!("{fault:?}").contains("hush"));

    program(&helper, "#!/bin/sh\necho 'the key ring is locked'\nexit 1\n");
    says(&ask().await, "it failed: the key ring is locked", "by hand");

    // One that knows nothing of this registry is no fault: it may want no login.
    program(&helper, "#!/bin/sh\necho 'credentials not found in native keychain'\nexit 1\n");
    says(&ask().await, "nobody listens at 127.0.0.1:1", "Start the registry");
}

/// A small file system, gone at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn mounted(megabytes: u32) -> Small {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "cutover-small"]).arg(folder.path());
        assert!(mount.status().unwrap().success());
        Small(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What the engine mounted in it may be on its way out.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_is_named_during_pull_and_build_and_the_rest_goes_on_when_there_is_room() {
    if !registries_wanted("a_disk_that_is_full") {
        return;
    }
    let (registry, one) = (Registry::start(), Engine::start());
    let from = Bench::of(&one);
    let folder = context(&[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    noise(&folder.path().join("big"), 48 << 20);
    let built = from.build(build(), folder.path(), "r-1").await.unwrap();
    let pushed =
        from.images.push(&built.id, &format!("{}/shop:1", registry.name()), &from.watch()).await.unwrap();

    let small = Small::mounted(64);
    let engine = Engine::start_in(small.0.path(), &[]);
    let bench = Bench::of(&engine);
    // It fits as it comes, and not unpacked.
    let pinned = bench.images.pin(&pulled(&pushed.at), "/".as_ref()).await.unwrap();
    let fault = bench.obtain(&pinned, "r-1").await.unwrap_err();
    says(&fault, "disk is full", "docker system df");
    assert_eq!((fault.blame, fault.after), (Blame::Platform, After::Final));
    assert!(!bench.told().contains("trying again"));
    let fault = bench.build(build(), folder.path(), "r-2").await.unwrap_err();
    says(&fault, "the disk is full", "docker builder prune");

    let grown = Command::new("mount").args(["-o", "remount,size=400m"]).arg(small.0.path()).status();
    assert!(grown.unwrap().success());
    assert_eq!(bench.obtain(&pinned, "r-1").await.unwrap().id, built.id);
    bench.build(build(), folder.path(), "r-2").await.unwrap();
}

#[tokio::test]
async fn an_engine_that_is_not_there_or_not_ours_is_named() {
    if !engines_wanted("an_engine_that_is_not_there") {
        return;
    }
    let mut engine = Engine::start();
    let bench = Bench::of(&engine);
    let folder = context(&[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    engine.kill();
    says(&pin(&bench, "shop:1").await, "the Docker engine does not answer", "systemctl start docker");
    let fault = bench.build(build(), folder.path(), "r-1").await.unwrap_err();
    says(&fault, "the Docker engine does not answer", "DOCKER_HOST");
    assert_eq!(fault.after, After::Retry);
    engine.start_again();
    bench.build(build(), folder.path(), "r-1").await.unwrap();
}
