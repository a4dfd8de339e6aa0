//! Builds on a real engine: what ends up in the image, and what does not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use cutover_core::Blame;
use cutover_core::file::DockerBuild;
use cutover_docker::image::BuildSecrets;
use cutover_docker_engine::Engine;

use crate::suite::harness::engines_wanted;
use crate::suite::images::{Bench, add_shell, build, built, context, noise, secret};

/// Lists what is in an image: kind and permissions, owner, size and name of each file.
pub(crate) fn listing(engine: &Engine, image: &str) -> Vec<String> {
    let container = engine.docker(&["create", image, "none"]);
    let container = container.trim();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar").display().to_string();
    engine.docker(&["export", "--output", &archive, container]);
    engine.docker(&["rm", container]);
    let mut tar = std::process::Command::new("tar");
    let output = tar.args(["--numeric-owner", "--quoting-style=literal", "-tvf", &archive]).output().unwrap();
    // What the engine puts into each container.
    let engines_own = ["dev/", "etc/", "proc/", "sys/", ".dockerenv"];
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {} {}", words[0], words[1], words[2], words[5..].join(" "))
    });
    lines
        .filter(|line| !engines_own.iter().any(|own| line.split(' ').nth(3).unwrap().starts_with(own)))
        .collect()
}

#[tokio::test]
async fn an_image_has_the_contexts_files_with_permissions_links_and_bytes_and_nothing_that_is_ignored() {
    if !engines_wanted("an_image_has_the_contexts_files") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let folder = context(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        (".dockerignore", "Dockerfile\n.dockerignore\n**/*.log\n"),
        ("app/run", "#!/bin/sh\n"),
        ("app/x.log", "not wanted"),
        ("app-2/empty", ""),
        ("ümlaut ?", "x"),
    ]);
    let path = |name: &str| folder.path().join(name);
    fs::set_permissions(path("app/run"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("../app/run", path("app-2/link")).unwrap();
    symlink("/nowhere", path("dangling")).unwrap();
    noise(&path("big"), 40 << 20);

    let obtained = bench.build(build(), folder.path(), "r-1").await.unwrap();
    assert_eq!(
        listing(&engine, &obtained.id),
        [
            "drwxr-xr-x 0/0 0 app/",
            "-rwsr-x--x 0/0 10 app/run",
            "drwxr-xr-x 0/0 0 app-2/",
            "-rw-r--r-- 0/0 0 app-2/empty",
            "lrwxrwxrwx 0/0 0 app-2/link -> ../app/run",
            "-rw-r--r-- 0/0 41943040 big",
            "lrwxrwxrwx 0/0 0 dangling -> /nowhere",
            "-rw-r--r-- 0/0 1 ümlaut ?",
        ]
    );
    assert!(obtained.line.contains("as cutover-test/shop:r-1 (sha256:"), "{}", obtained.line);
    assert_eq!(
        engine.docker(&["images", "--quiet", "--no-trunc", "cutover-test/shop:r-1"]).trim(),
        obtained.id
    );
    // The second time nothing is built: the image is there.
    let again = bench.build(build(), folder.path(), "r-1").await.unwrap();
    assert_eq!((again.id, again.line.contains("is in the engine")), (obtained.id, true));
    assert!(bench.told().contains("COPY . /"));
}

#[tokio::test]
async fn a_secret_is_there_for_its_step_alone_and_in_no_layer_history_or_log() {
    if !engines_wanted("a_secret_is_there_for_its_step_alone") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let folder = context(&[(
        "Dockerfile",
        "FROM scratch\nCOPY root /\nRUN --mount=type=secret,id=TOKEN read value </run/secrets/TOKEN; echo \"it is $value\"; \
         echo \"${#value} letters\" >/seen\n",
    )]);
    add_shell(folder.path());
    let wanted = built(DockerBuild { secrets: vec!["TOKEN".into()], ..build() });
    let pinned = bench.images.pin(&wanted, folder.path()).await.unwrap();
    let fault = bench.obtain_with(&pinned, "r-1", &BuildSecrets::new()).await.unwrap_err();
    assert!(fault.what.ends_with("the secret TOKEN has no value"), "{}", fault.what);

    let value = "hush-4711-hush";
    let obtained = bench.obtain_with(&pinned, "r-1", &secret("TOKEN", value)).await.unwrap();
    let archive = bench.folder.path().join("image.tar").display().to_string();
    engine.docker(&["save", "--output", &archive, "cutover-test/shop:r-1"]);
    // Layers of this engine's archives are not compressed.
    let bytes = fs::read(&archive).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("14 letters") && !holds(value));
    assert!(listing(&engine, &obtained.id).iter().any(|line| line.ends_with("seen")));
    let history = engine.docker(&["history", "--no-trunc", "cutover-test/shop:r-1"]);
    assert!(history.contains("/run/secrets/TOKEN") && !history.contains(value), "{history}");
    // A step that prints it is not shown doing so.
    let log = fs::read_to_string(bench.log()).unwrap();
    assert!(log.contains("it is ***") && !log.contains(value), "{log}");
    assert!(bench.told().contains("it is ***") && !bench.told().contains(value));
    assert!(!serde_json::to_string(&pinned).unwrap().contains(value));
    // Nor is one that prints it and fails: its last lines go into the journal.
    let text = "FROM scratch\nCOPY root /\nRUN --mount=type=secret,id=TOKEN read value </run/secrets/TOKEN; echo \"$value\"; exit 1\n";
    let failing = context(&[("Dockerfile", text)]);
    add_shell(failing.path());
    let failing = bench.images.pin(&wanted, failing.path()).await.unwrap();
    let fault = bench.obtain_with(&failing, "r-2", &secret("TOKEN", value)).await.unwrap_err();
    assert_eq!(fault.lines, ["***"]);
    assert!(!serde_json::to_string(&fault).unwrap().contains(value));
    // Another value is the same build.
    assert_eq!(bench.images.pin(&wanted, folder.path()).await.unwrap(), pinned);
}

#[tokio::test]
async fn target_args_and_a_dockerfile_from_outside_of_the_context_are_honoured() {
    if !engines_wanted("target_args_and_a_dockerfile_from_outside") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let folder = context(&[
        ("files/a", "a"),
        ("files/b", "b"),
        ("Other", "FROM scratch AS one\nARG FILE=a\nCOPY $FILE /got\nFROM one AS two\nCOPY b /more\n"),
    ]);
    let recipe = |target: Option<&str>, file: &str| DockerBuild {
        context: "files".into(),
        dockerfile: "../Other".into(),
        target: target.map(str::to_owned),
        args: [("FILE".to_owned(), file.to_owned())].into(),
        ..build()
    };
    let one = bench.build(recipe(Some("one"), "b"), folder.path(), "r-1").await.unwrap();
    assert_eq!(listing(&engine, &one.id), ["-rw-r--r-- 0/0 1 got"]);
    let two = bench.build(recipe(None, "a"), folder.path(), "r-2").await.unwrap();
    assert_eq!(listing(&engine, &two.id), ["-rw-r--r-- 0/0 1 got", "-rw-r--r-- 0/0 1 more"]);
}

#[tokio::test]
async fn a_build_that_fails_says_which_step_with_its_last_lines() {
    if !engines_wanted("a_build_that_fails_says_which_step") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let folder =
        context(&[("Dockerfile", "FROM scratch\nCOPY root /\nRUN echo one; echo two >&2; exit 3\n")]);
    add_shell(folder.path());
    let fault = bench.build(build(), folder.path(), "r-1").await.unwrap_err();
    assert_eq!(fault.blame, Blame::Candidate, "{fault:?}");
    assert!(fault.what.contains("RUN echo one; echo two >&2; exit 3 failed: "), "{}", fault.what);
    assert!(fault.what.contains("exit code: 3"), "{}", fault.what);
    // Two pipes: which comes first is chance.
    let lines: BTreeSet<&str> = fault.lines.iter().map(String::as_str).collect();
    assert_eq!(lines, BTreeSet::from(["one", "two"]));
    let log = fs::read_to_string(bench.log()).unwrap();
    assert!(log.contains(" one\n") && log.contains(" two\n"), "{log}");

    fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY missing /\n").unwrap();
    let fault = bench.build(build(), folder.path(), "r-2").await.unwrap_err();
    assert_eq!(fault.blame, Blame::Configuration, "{fault:?}");
    assert!(fault.what.contains("missing") && fault.hint.contains(".dockerignore"), "{fault:?}");

    fs::write(folder.path().join("Dockerfile"), "FORM scratch\n").unwrap();
    let fault = bench.build(build(), folder.path(), "r-3").await.unwrap_err();
    assert!(fault.what.contains("FORM") && fault.hint.contains("Dockerfile"), "{fault:?}");
    assert_eq!(engine.docker(&["images", "--quiet", "cutover-test/shop"]), "");
}

#[tokio::test]
async fn a_build_that_is_broken_off_or_whose_files_change_can_be_repeated() {
    if !engines_wanted("a_build_that_is_broken_off") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let folder =
        context(&[("Dockerfile", "FROM scratch\nCOPY root /\nRUN while ! [ -e /go ]; do echo wait; done\n")]);
    add_shell(folder.path());
    let pinned = bench.images.pin(&built(build()), folder.path()).await.unwrap();
    {
        let endless = bench.obtain(&pinned, "r-1");
        let told = async {
            while !bench.told().contains("wait") {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            done = endless => panic!("it ended: {done:?}"),
            () = told => {}
        }
    }
    // The step does not go on for nobody.
    crate::suite::harness::wait("the step to end", async || (!running("[ -e /go ]")).then_some(())).await;
    fs::write(folder.path().join("root/go"), "").unwrap();
    let fault = bench.obtain(&pinned, "r-1").await.unwrap_err();
    assert!(fault.what.ends_with("the context changed since the release began"), "{}", fault.what);
    bench.build(build(), folder.path(), "r-2").await.unwrap();
}

/// Tells whether a process with these words in its command line runs.
fn running(words: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).any(|line| line.contains(words))
}

#[tokio::test]
async fn two_builds_at_once_are_two_images_and_the_same_twice_is_one() {
    if !engines_wanted("two_builds_at_once") {
        return;
    }
    let engine = Engine::start();
    let (one, other) = (Bench::of(&engine), Bench::of(&engine));
    let file = "FROM scratch\nCOPY . /\n";
    let (left, right) =
        (context(&[("Dockerfile", file), ("x", "1")]), context(&[("Dockerfile", file), ("x", "2")]));
    let (a, b, c) = tokio::join!(
        one.build(build(), left.path(), "r-1"),
        other.build(build(), right.path(), "r-2"),
        other.build(build(), left.path(), "r-1"),
    );
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_ne!(a.id, b.id);
    let named = engine.docker(&["images", "--quiet", "--no-trunc", "cutover-test/shop:r-1"]);
    assert!(named.trim() == a.id || named.trim() == c.id);
    let got = |id: &str| listing(&engine, id).len();
    assert_eq!((got(&a.id), got(&b.id)), (2, 2));
}

#[tokio::test]
async fn a_folder_that_cannot_be_a_context_is_a_fault_before_the_engine_is_asked() {
    if !engines_wanted("a_folder_that_cannot_be_a_context") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let fault = bench.build(build(), Path::new("/nonexistent"), "r-1").await.unwrap_err();
    assert!(fault.what.contains("it is no folder"), "{}", fault.what);
}
