//! The `docker` command against an engine, and images out of this machine's files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Engine;

pub(crate) fn command(host: &str, config: &Path, arguments: &[&str]) -> Command {
    // Debian's: another one may be newer than what the engine speaks.
    let debian = Path::new("/usr/bin/docker");
    let mut command = Command::new(if debian.exists() { debian } else { Path::new("docker") });
    command.arg("--host").arg(host).args(arguments);
    // The person's own configuration is none of the tests' business.
    command.env("DOCKER_CONFIG", config).env("DOCKER_BUILDKIT", "0").env_remove("DOCKER_HOST");
    command
}

pub(crate) fn image(engine: &Engine, name: &str, programs: &[(&Path, &str)], lines: &[&str]) -> String {
    let context = tempfile::tempdir().unwrap();
    let root = context.path().join("root");
    fs::create_dir_all(root.join("tmp")).unwrap();
    for (program, to) in programs {
        copy(program, &root.join(to.trim_start_matches('/')));
        for library in libraries(program) {
            copy(&library, &root.join(library.strip_prefix("/").unwrap()));
        }
    }
    let text = format!("FROM scratch\nCOPY root /\n{}\n", lines.join("\n"));
    fs::write(context.path().join("Dockerfile"), text).unwrap();
    engine.docker(&["build", "--quiet", "--tag", name, &context.path().to_string_lossy()]).trim().into()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap_or_else(|error| panic!("copy {} to {}: {error}", from.display(), to.display()));
}

/// Returns what the program's loader would load, and the loader.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}
