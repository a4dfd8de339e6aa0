//! `.dockerignore` as Docker's own client honours it: both send the same files.

use std::fs;

use cutover_docker_engine::Engine;

use crate::suite::harness::engines_wanted;
use crate::suite::images::{Bench, build, context};
use crate::suite::images_build::listing;

const FILES: &[(&str, &str)] = &[
    (".env", ""),
    (".git/config", ""),
    ("README-secret.md", ""),
    ("README.md", ""),
    ("a/.env", ""),
    ("a/b/c/deep.log", ""),
    ("a/b/keep.txt", ""),
    ("a/b/x.log", ""),
    ("a/one.md", ""),
    ("docs/a+b(c).txt", ""),
    ("docs/index.html", ""),
    ("fao", ""),
    ("fdo", ""),
    ("foo", ""),
    ("node_modules/x/index.js", ""),
    ("src/lib.rs", ""),
    ("src/node_modules/y", ""),
    ("star*name", ""),
    ("startname", ""),
    ("x.log", ""),
];

/// Each is a file of its own. Left out are lines on which Docker's clients differ among themselves: a `!` line with a
/// wildcard below an ignored folder, which BuildKit honours and the older client does not; and `+`, `(` and `|`, which the older
/// one takes for signs of a regular expression.
const LINES: &[&str] = &[
    "",
    "# only a comment\n\n",
    "*.log",
    "*/*.log",
    "**/*.log",
    "**/*.log\n!a/b/x.log",
    "a",
    "a/",
    "/a",
    "./a/../docs",
    "a/b\n!a/b/keep.txt",
    "a/b/**",
    "**/b",
    "**",
    "*\n!src",
    "*\n!src/lib.rs",
    "*\n!a/b/keep.txt\n!README.md",
    "*.md\n!README*.md\nREADME-secret.md",
    "*.md\nREADME-secret.md\n!README*.md",
    "f?o",
    "f[a-c]o",
    "f[^a-c]o",
    "star\\*name",
    "docs/index*",
    ".*",
    "**/.env",
    ".git\nnode_modules\n**/node_modules",
    "  foo  ",
    " # foo",
    "\u{feff}foo",
    "foo\r\nfao\r\n",
    "! foo\nfoo",
    "foo\n! foo",
    "Dockerfile\n.dockerignore",
    "a/**/*.log",
    "**/*.md\n!**/one.md",
];

#[tokio::test]
async fn the_same_files_are_sent_as_by_dockers_own_client() {
    if !engines_wanted("the_same_files_are_sent_as_by_dockers_own_client") {
        return;
    }
    let engine = Engine::start();
    let bench = Bench::of(&engine);
    let folder = context(FILES);
    fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    let mut different = Vec::new();
    for (number, lines) in LINES.iter().enumerate() {
        fs::write(folder.path().join(".dockerignore"), lines).unwrap();
        // One file is always there: an image without any layer cannot be listed.
        let ours =
            bench.build(build(), folder.path(), &format!("r-{number}")).await.map(|obtained| obtained.id);
        let path = folder.path().display().to_string();
        let output = engine
            .command(&["build", "--quiet", "--tag", "theirs", &path])
            .env("DOCKER_BUILDKIT", "1")
            .output();
        let theirs = output.unwrap();
        let ours = ours.map(|id| files(&engine, &id)).map_err(|fault| fault.what);
        let theirs = match theirs.status.success() {
            true => Ok(files(&engine, "theirs")),
            false => Err(String::from_utf8_lossy(&theirs.stderr).into_owned()),
        };
        if ours.is_ok() != theirs.is_ok() || (ours.is_ok() && ours != theirs) {
            different.push(format!("{lines:?}:\n ours   {ours:?}\n theirs {theirs:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// The files of an image, without the folders that are there only because of them.
fn files(engine: &Engine, image: &str) -> Vec<String> {
    listing(engine, image).into_iter().filter(|line| !line.starts_with('d')).collect()
}
