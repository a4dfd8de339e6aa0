//! Images on their way: pinned, pushed, pulled and pruned, between real engines and a real registry.

use std::collections::BTreeSet;
use std::time::Duration;

use cutover_core::RevisionId;
use cutover_core::file::{DockerPlatform, DockerPull};
use cutover_docker::image::{Credentials, Images, Retry};
use cutover_docker_engine::Engine;

use crate::suite::harness::engines_wanted;
use crate::suite::images::{Bench, TWICE, build, built, context, noise, pulled, service};
use crate::suite::registry::{Registry, Wants, Wire, registries_wanted};

const COPY: &str = "FROM scratch\nCOPY . /\n";

fn nobody() -> Credentials {
    Credentials::of_folder("/nonexistent", "", Duration::from_secs(5))
}

/// Pushes an image of these bytes under a name; its digest.
async fn push(bench: &Bench, text: &str, to: &str) -> String {
    let folder = context(&[("Dockerfile", COPY), ("text", text)]);
    let obtained = bench.build(build(), folder.path(), &format!("r-{text}")).await.unwrap();
    bench.images.push(&obtained.id, to, &bench.watch()).await.unwrap().digest
}

#[tokio::test]
async fn what_is_built_and_pushed_is_pulled_by_digest_by_another_engine_whatever_its_tag_becomes() {
    if !registries_wanted("what_is_built_and_pushed_is_pulled_by_digest") {
        return;
    }
    let (registry, one, other) = (Registry::start(), Engine::start(), Engine::start());
    let (from, to) = (Bench::of(&one), Bench::of(&other));
    let name = format!("{}/team/shop:1.4", registry.name());
    let first = push(&from, "one", &name).await;
    assert!(from.told().contains(": Pushed"), "{}", from.told());

    let pinned = to.images.pin(&pulled(&name), "/".as_ref()).await.unwrap();
    assert_eq!(pinned.content(), first);
    assert_eq!(other.docker(&["images", "--quiet"]), "", "pinning pulls nothing");
    // The tag moves on; the revision does not.
    let second = push(&from, "two", &name).await;
    assert_ne!(first, second);
    // What was pushed has its own names alone again: it goes with its revision.
    let names = one.docker(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}"]);
    let names: BTreeSet<&str> = names.lines().collect();
    assert_eq!(names, BTreeSet::from(["cutover-test/shop:r-one <none>", "cutover-test/shop:r-two <none>"]));
    let obtained = to.obtain(&pinned, "r-1").await.unwrap();
    assert!(to.told().contains("Pull complete"), "{}", to.told());
    assert!(obtained.line.starts_with(&format!("pulled {name} (sha256:")), "{}", obtained.line);
    let digests = other.docker(&["inspect", "--format", "{{.RepoDigests}}", "cutover-test/shop:r-1"]);
    assert!(digests.contains(&first), "{digests}");
    let again = to.obtain(&pinned, "r-1").await.unwrap();
    assert!(again.id == obtained.id && again.line.ends_with("is in the engine"), "{again:?}");

    // What the engine has goes before the registry, unless the file says `pull: always`.
    other.docker(&["tag", &obtained.id, &name]);
    let mut file = pulled(&name);
    assert_eq!(to.images.pin(&file, "/".as_ref()).await.unwrap().content(), first);
    file.pull = DockerPull::Never;
    assert_eq!(to.images.pin(&file, "/".as_ref()).await.unwrap().content(), first);
    file.pull = DockerPull::Always;
    assert_eq!(to.images.pin(&file, "/".as_ref()).await.unwrap().content(), second);
    let by_digest = pulled(&format!("{}/team/shop@{second}", registry.name()));
    assert_eq!(to.images.pin(&by_digest, "/".as_ref()).await.unwrap().content(), second);
}

#[tokio::test]
async fn an_image_of_the_engine_alone_is_pinned_by_its_id() {
    if !engines_wanted("an_image_of_the_engine_alone") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let id = engine.image("mine:1", &[], &["LABEL x=1"]);
    let pinned = bench.images.pin(&pulled("mine:1"), "/".as_ref()).await.unwrap();
    assert_eq!(pinned.content(), id);
    engine.image("mine:1", &[], &["LABEL x=2"]);
    assert_eq!(bench.obtain(&pinned, "r-1").await.unwrap().id, id);
    assert_eq!(bench.images.pin(&pulled(&id), "/".as_ref()).await.unwrap().content(), id);
    engine.docker(&["rmi", "--force", &id]);
    let fault = bench.obtain(&pinned, "r-1").await.unwrap_err();
    assert!(fault.hint.contains("in the engine alone"), "{fault:?}");
    let file = DockerPlatform { pull: DockerPull::Never, ..pulled("none:1") };
    let fault = bench.images.pin(&file, "/".as_ref()).await.unwrap_err();
    assert!(fault.what.contains("the engine does not have that image"), "{fault:?}");
}

#[tokio::test]
async fn a_login_is_taken_from_file_environment_or_helper_for_push_pull_pin_and_base_images() {
    if !registries_wanted("a_login_is_taken_from_file_environment_or_helper") {
        return;
    }
    let registry = Registry::start_as(Wants { login: true, ..Wants::default() });
    let (one, other) = (Engine::start(), Engine::start());
    let given = Credentials::of_folder("/nonexistent", "", Duration::from_secs(5)).with(
        &registry.name(),
        "me",
        "word",
    );
    let name = format!("{}/shop:1", registry.name());
    let from = Bench::with(&one, given, TWICE);
    let digest = push(&from, "one", &name).await;

    // me:word
    let file = format!(r#"{{"auths": {{"http://{}/v2/": {{"auth": "bWU6d29yZA=="}}}}}}"#, registry.name());
    let config = context(&[("config.json", &file)]);
    let to = Bench::with(&other, Credentials::of_folder(config.path(), "", Duration::from_secs(5)), TWICE);
    let pinned = to.images.pin(&pulled(&name), "/".as_ref()).await.unwrap();
    assert_eq!(pinned.content(), digest);
    to.obtain(&pinned, "r-1").await.unwrap();
    other.docker(&["rmi", "--force", "cutover-test/shop:r-1", &format!("{}/shop@{digest}", registry.name())]);

    let file = format!(r#"{{"credHelpers": {{"{}": "test"}}}}"#, registry.name());
    let config = context(&[("config.json", &file)]);
    let answer = r#"#!/bin/sh
read server
echo "$1 $server" >>"${0%/*}/asked"
echo '{"ServerURL": "x", "Username": "me", "Secret": "word"}'
"#;
    crate::suite::images::program(&config.path().join("docker-credential-test"), answer);
    let path = format!("{}:/usr/bin:/bin", config.path().display());
    let to = Bench::with(&other, Credentials::of_folder(config.path(), path, Duration::from_secs(20)), TWICE);
    // The base of a build: the engine asks for the login over the session.
    let folder = context(&[("Dockerfile", &format!("FROM {name}\nCOPY more /\n")), ("more", "1")]);
    to.build(build(), folder.path(), "r-2").await.unwrap();
    let asked = std::fs::read_to_string(config.path().join("asked")).unwrap();
    assert!(asked.lines().all(|line| line == format!("get {}", registry.name())), "{asked}");
    assert!(!to.told().contains("word") && !from.told().contains("word"));
}

#[tokio::test]
async fn a_registry_that_goes_away_during_a_push_and_comes_back_has_it_in_the_end() {
    if !registries_wanted("a_registry_that_goes_away_during_a_push") {
        return;
    }
    let (mut registry, engine) = (Registry::start(), Engine::start());
    let patient = Retry { tries: 100, first: Duration::from_millis(100), most: Duration::from_millis(300) };
    let nobody = nobody();
    let bench = Bench::with(&engine, nobody, patient);
    let folder = context(&[("Dockerfile", COPY)]);
    noise(&folder.path().join("big"), 60 << 20);
    let built = bench.build(build(), folder.path(), "r-1").await.unwrap();
    let name = format!("{}/shop:1", registry.name());
    let watch = bench.watch();
    let pushing = bench.images.push(&built.id, &name, &watch);
    let disturbing = async {
        let told = async |what: &str| {
            while !bench.told().contains(what) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        told("Pushing").await;
        registry.kill();
        // The engine tries again by itself; when it gives up, we do.
        told("Retrying").await;
        registry.start_again();
    };
    let (pushed, ()) = tokio::join!(pushing, disturbing);
    let pushed = pushed.unwrap();
    let fresh = Engine::start();
    let to = Bench::of(&fresh);
    let pinned = to.images.pin(&pulled(&name), "/".as_ref()).await.unwrap();
    assert_eq!(pinned.content(), pushed.digest);
    to.obtain(&pinned, "r-1").await.unwrap();
}

#[tokio::test]
async fn a_registry_that_is_away_is_tried_again_and_then_named_and_one_that_comes_back_in_time_is_no_fault() {
    if !registries_wanted("a_registry_that_is_away_is_tried_again") {
        return;
    }
    let (mut registry, engine) = (Registry::start(), Engine::start());
    let bench = Bench::of(&engine);
    let id = engine.image("mine:1", &[], &["LABEL x=1"]);
    let name = format!("{}/shop:1", registry.name());
    registry.kill();
    let fault = bench.images.push(&id, &name, &bench.watch()).await.unwrap_err();
    let words = format!("push {name}: nobody listens at {}: ", registry.name());
    assert!(fault.what.starts_with(&words) && fault.what.ends_with("; tried 2 times"), "{}", fault.what);
    assert_eq!(fault.hint, "Start the registry, or correct its port.");
    assert!(bench.told().contains("trying again (2 of 2)"));

    let patient = Retry { tries: 1000, first: Duration::from_millis(20), most: Duration::from_millis(20) };
    let nobody = nobody();
    let bench = Bench::with(&engine, nobody, patient);
    let watch = bench.watch();
    let back = async {
        while !bench.told().contains("trying again (3 of") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        registry.start_again();
    };
    let (pushed, ()) = tokio::join!(bench.images.push(&id, &name, &watch), back);
    assert!(pushed.unwrap().line.starts_with(&format!("pushed {name} (sha256:")));
}

#[tokio::test]
async fn a_pull_that_is_cut_goes_on() {
    if !registries_wanted("a_pull_that_is_cut_goes_on") {
        return;
    }
    // The engine itself gives up at once: it is our trying again that counts.
    let (registry, one, other) =
        (Registry::start(), Engine::start(), Engine::start_with(&["--max-download-attempts=1"]));
    let from = Bench::of(&one);
    let folder = context(&[("Dockerfile", COPY)]);
    noise(&folder.path().join("big"), 8 << 20);
    let built = from.build(build(), folder.path(), "r-1").await.unwrap();
    let pushed =
        from.images.push(&built.id, &format!("{}/shop:1", registry.name()), &from.watch()).await.unwrap();

    let wire = Wire::cut_after(2 << 20, registry.address());
    let nobody = nobody();
    let patient = Retry { tries: 100, first: Duration::from_millis(100), most: Duration::from_millis(100) };
    let to = Bench::with(&other, nobody, patient);
    let name = format!("{}/shop@{}", wire.name(), pushed.digest);
    let pinned = to.images.pin(&pulled(&name), "/".as_ref()).await.unwrap();
    let mending = async {
        while !to.told().contains("trying again (2 of 100)") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        wire.mend();
    };
    let (obtained, ()) = tokio::join!(to.obtain(&pinned, "r-1"), mending);
    assert_eq!(obtained.unwrap().id, built.id);
}

#[tokio::test]
async fn pruning_removes_what_was_built_or_pulled_for_gone_revisions_and_nothing_else() {
    if !registries_wanted("pruning_removes") {
        return;
    }
    let (registry, one, other) = (Registry::start(), Engine::start(), Engine::start());
    let name = |tag: &str| format!("{}/shop:{tag}", registry.name());
    let from = Bench::of(&one);
    push(&from, "one", &name("1")).await;
    push(&from, "two", &name("2")).await;
    push(&from, "three", &name("3")).await;
    let to = Bench::of(&other);
    let keep = |names: &[&str]| names.iter().map(|name| RevisionId::new(*name)).collect::<BTreeSet<_>>();

    // Pulled for two revisions at once; pulled for one; pulled by a person before; and built.
    let pin = async |tag: &str| to.images.pin(&pulled(&name(tag)), "/".as_ref()).await.unwrap();
    let first = to.obtain(&pin("1").await, "r-1").await.unwrap();
    to.obtain(&pin("1").await, "r-1b").await.unwrap();
    let second = to.obtain(&pin("2").await, "r-2").await.unwrap();
    other.docker(&["pull", "--quiet", &name("3")]);
    let third = to.obtain(&pin("3").await, "r-3").await.unwrap();
    let folder = context(&[("Dockerfile", COPY), ("x", "1")]);
    let fourth = to.build(build(), folder.path(), "r-4").await.unwrap();
    let there = || -> BTreeSet<String> {
        let text = other.docker(&["images", "--all", "--quiet", "--no-trunc"]);
        text.lines().map(str::to_owned).collect()
    };
    let ids = |all: &[&String]| all.iter().map(|id| id.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(there(), ids(&[&first.id, &second.id, &third.id, &fourth.id]));

    let all = keep(&["r-1", "r-1b", "r-2", "r-3", "r-4"]);
    assert_eq!(to.images.prune(&service(), &all).await.unwrap(), Default::default());
    // One of two revisions still needs the first.
    let pruned = to.images.prune(&service(), &keep(&["r-1b", "r-2"])).await.unwrap();
    assert_eq!(pruned.removed, ["cutover-test/shop:r-1", "cutover-test/shop:r-3", "cutover-test/shop:r-4"]);
    assert_eq!(there(), ids(&[&first.id, &second.id, &third.id]));
    assert!(other.docker(&["images"]).contains("/shop "), "a person's own name stays");
    // Another state folder's revisions of the same service are none of its business.
    let there_too =
        Images::of(&cutover_docker::Engine::at(&other.host()).unwrap(), "else", nobody(), TWICE).unwrap();
    assert_eq!(there_too.prune(&service(), &keep(&[])).await.unwrap(), Default::default());
    // A container, stopped though it is, keeps its image.
    other.docker(&["create", "--name", "user", &second.id, "x"]);
    let pruned = to.images.prune(&service(), &keep(&[])).await.unwrap();
    assert_eq!(pruned.removed, ["cutover-test/shop:r-1b", "cutover-test/shop:r-2"]);
    assert_eq!(pruned.in_use.len(), 1, "{pruned:?}");
    assert_eq!(there(), ids(&[&second.id, &third.id]));
    other.docker(&["rm", "user"]);
    assert_eq!(to.images.prune(&service(), &keep(&[])).await.unwrap(), Default::default());
    assert_eq!(there(), ids(&[&third.id]));
    let pinned = to.images.pin(&built(build()), folder.path()).await.unwrap();
    assert!(to.obtain(&pinned, "r-4").await.unwrap().line.starts_with("built "));
}
