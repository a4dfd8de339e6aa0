//! Images that are built by a release: what they are, what is shown meanwhile, and what is not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use cutover_docker_engine::Engine;

use crate::harness::{Said, Scratch, get, servers_wanted, wait};
use crate::service;

const SERVES: &str = "CMD [\"/shop\", \"--exact\", \"service::entry\", \"--nocapture\"]";

/// An engine with a base image, and a scratch folder whose release file builds on it.
struct Builds {
    // The server first: it must not see its containers end.
    scratch: Scratch,
    engine: Engine,
}

impl Builds {
    fn new() -> Builds {
        let (engine, mut scratch) = (Engine::start(), Scratch::new());
        scratch.docker_host = Some(engine.host());
        let exe = std::env::current_exe().unwrap();
        let programs = [(exe.as_path(), "/shop"), (Path::new("/bin/sh"), "/bin/sh")];
        engine.image(
            "base:1",
            &programs,
            &["ENV E2E_SERVICE=1 EVERYWHERE=1 RECEIVED=/tmp/received TROUBLE=/tmp/t"],
        );
        Builds { scratch, engine }
    }

    /// Writes the release file and a Dockerfile that goes on from the base image with these lines.
    fn file(&self, version: &str, lines: &str) {
        let app = self.scratch.path().join("app");
        fs::create_dir_all(&app).unwrap();
        fs::write(
            app.join("Dockerfile"),
            format!("FROM base:1\nARG VERSION\nENV VERSION=$VERSION\n{lines}\n"),
        )
        .unwrap();
        let text = format!(
            "service: shop\nplatform:\n  docker:\n    \
             build: {{context: app, args: {{VERSION: {version}}}, secrets: [BUILD_TOKEN]}}\n    port: 9000\n\
             route: [{{proxy: {{listen: '{}'}}}}]\n\
             checks: {{health: [{{path: /health, interval: 100ms}}], within: 60s}}\nbake: 300ms\nkeep_warm: 0s\n",
            self.scratch.address
        );
        fs::write(self.scratch.path().join("cutover.yaml"), text).unwrap();
    }

    fn deploy(&self) -> Said {
        Said::from(self.scratch.command(&["deploy"]).env("BUILD_TOKEN", TOKEN).output().unwrap())
    }
}

const TOKEN: &str = "hush-4711-hush";
const READS: &str =
    "RUN --mount=type=secret,id=BUILD_TOKEN read token </run/secrets/BUILD_TOKEN; echo \"it is $token\"";

#[test]
fn a_release_builds_its_image_and_a_step_that_fails_refuses_it_with_its_last_lines_and_no_secret() {
    if !servers_wanted("a_release_builds_its_image") {
        return;
    }
    let builds = Builds::new();
    builds.file("v1", &format!("{READS}\n{SERVES}"));
    let said = builds.deploy().expect(0);
    assert!(said.out.contains("it is ***"), "{}", said.out);
    assert_eq!(get(builds.scratch.address, "/"), Some((200, "v1\n".into())));
    // The same files again are the same revision: there is nothing to release.
    builds.file("v2", &format!("{READS}; echo one; exit 7\n{SERVES}"));
    let said = builds.deploy().expect(3);
    assert!(
        said.out.contains("exit 7 failed: ") && said.out.contains("exit code: 7"),
        "{}{}",
        said.out,
        said.err
    );
    builds.file("v3", &format!("{READS}\n{SERVES}"));
    builds.deploy().expect(0);
    service::settled(&builds.scratch, 1);
    assert_eq!(get(builds.scratch.address, "/"), Some((200, "v3\n".into())));
    // The value is sealed for as long as a build may need it, that of v2, and is in no other file, nor in an image.
    let mut holds = Vec::new();
    search(builds.scratch.path(), &mut holds);
    assert!(holds.len() == 1 && holds[0].contains("/build-secrets/"), "{holds:?}");
    assert_eq!(fs::metadata(&holds[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let images = builds.engine.docker(&["images", "--quiet", "--filter", "reference=cutover-*/shop"]);
    assert_eq!(images.lines().count(), 2, "{images}");
    for image in images.lines() {
        assert!(!builds.engine.docker(&["history", "--no-trunc", image]).contains(TOKEN));
    }
}

/// Collects the files that hold the token.
fn search(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            search(&entry.path(), found);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap_or_default();
            if bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
}

#[test]
fn what_a_build_says_is_shown_while_it_runs_and_an_abort_ends_it() {
    if !servers_wanted("what_a_build_says_is_shown_while_it_runs") {
        return;
    }
    let builds = Builds::new();
    builds.file("v1", &format!("RUN echo begins; while :; do read x </dev/zero || :; done\n{SERVES}"));
    let mut deploy = builds.scratch.command(&["deploy"]);
    let mut deploy = deploy.env("BUILD_TOKEN", TOKEN).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(deploy.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut lines = lines.skip_while(|line| !line.ends_with(" begins"));
    assert!(lines.next().is_some(), "the build said nothing before the release ended");
    builds.scratch.run(&["abort", "shop"]).expect(0);
    let rest: Vec<String> = lines.collect();
    assert_eq!(deploy.wait().unwrap().code(), Some(7), "{rest:?}");
    wait("the step to end", || (!running("read x </dev/zero")).then_some(()));
    assert_eq!(builds.engine.docker(&["images", "--quiet", "--filter", "reference=cutover-*/shop"]), "");
}

/// Tells whether a process with these words in its command line runs.
fn running(words: &str) -> bool {
    let commands = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    commands.map(|line| String::from_utf8_lossy(&line).into_owned()).any(|line| line.contains(words))
}
