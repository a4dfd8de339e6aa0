use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A context with a file of each kind.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("Dockerfile", "FROM scratch\nCOPY . /\n");
    write(".dockerignore", "**/*.log\nempty\nhidden\n!hidden/keep\n");
    write("a-b/x", "1");
    write("a/x", "2");
    write("a/y.log", "3");
    write("empty/z", "4");
    write("hidden/keep/it", "5");
    write("hidden/not", "6");
    write("z.log", "7");
    symlink("../outside", folder.path().join("link")).unwrap();
    fs::set_permissions(folder.path().join("a/x"), fs::Permissions::from_mode(0o4755)).unwrap();
    folder
}

fn recipe(folder: &Path) -> Recipe {
    Recipe {
        context: folder.into(),
        dockerfile: folder.join("Dockerfile"),
        target: None,
        args: BTreeMap::new(),
        secrets: Vec::new(),
    }
}

fn paths(folder: &Path) -> Vec<String> {
    let context = Context::read(folder, &folder.join("Dockerfile")).unwrap();
    context.entries.into_iter().map(|entry| entry.path).collect()
}

#[test]
fn a_context_is_what_is_not_ignored_folders_first() {
    let folder = folder();
    let mut expected =
        vec![".dockerignore", "Dockerfile", "a", "a/x", "a-b", "a-b/x", "hidden", "hidden/keep"];
    expected.extend(["hidden/keep/it", "link"]);
    // The engine takes them in the order of a walk alone: a folder, all that is in it, then the next name.
    assert_eq!(paths(folder.path()), expected);
}

#[test]
fn the_ignore_file_beside_the_dockerfile_goes_before_that_of_the_context() {
    let folder = folder();
    fs::write(folder.path().join("Dockerfile.dockerignore"), "**\n!z.log").unwrap();
    assert_eq!(paths(folder.path()), ["z.log"]);
}

#[tokio::test]
async fn a_build_is_named_by_all_that_goes_in_and_by_nothing_else() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let base = recipe(folder.path());
    let name = base.name().await.unwrap();
    assert!(crate::image::reference::is_digest(&name));
    // What is ignored, and when something was written, count for nothing.
    fs::write(path("z.log"), "other").unwrap();
    fs::write(path("a-b/x"), "1").unwrap();
    assert_eq!(base.name().await.unwrap(), name);

    let mut seen = std::collections::BTreeSet::from([name]);
    let mut other =
        async |recipe: &Recipe, what: &str| assert!(seen.insert(recipe.name().await.unwrap()), "{what}");
    other(&Recipe { target: Some("prod".into()), ..base.clone() }, "target").await;
    other(&Recipe { args: [("K".into(), "v".into())].into(), ..base.clone() }, "args").await;
    other(&Recipe { secrets: vec!["K".into()], ..base.clone() }, "secrets").await;
    fs::write(path("a-b/x"), "2").unwrap();
    other(&base, "bytes").await;
    fs::set_permissions(path("a-b/x"), fs::Permissions::from_mode(0o600)).unwrap();
    other(&base, "permissions").await;
    fs::rename(path("a-b/x"), path("a-b/y")).unwrap();
    other(&base, "names").await;
    fs::remove_file(path("link")).unwrap();
    symlink("elsewhere", path("link")).unwrap();
    other(&base, "links").await;
    fs::write(path("outside"), "FROM scratch\nCOPY a /\n").unwrap();
    other(&Recipe { dockerfile: path("outside"), ..base.clone() }, "Dockerfile").await;
}

#[tokio::test]
async fn what_cannot_be_read_is_a_fault_with_the_key_to_correct() {
    let folder = folder();
    let none = recipe(&folder.path().join("none")).name().await.unwrap_err();
    assert!(none.hint.contains("platform.docker.build.context"), "{none:?}");
    let recipe = Recipe { dockerfile: folder.path().join("none"), ..recipe(folder.path()) };
    let none = recipe.name().await.unwrap_err();
    assert!(none.what.contains("No such file") && none.hint.contains("build.dockerfile"), "{none:?}");
}
