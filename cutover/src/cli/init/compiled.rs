//! Projects that are built to one program: Cargo and Go.

use std::path::Path;

use super::draft::Draft;
use super::{Found, text, toml};

/// A Cargo package with a program.
pub(super) fn cargo(folder: &Path) -> Option<Found> {
    let manifest = text(folder, "Cargo.toml")?;
    let Some(package) = toml(&manifest, "package", "name") else {
        return Found::unclear("it is a workspace: run cutover init in the package that is the service");
    };
    let named = toml(&manifest, "package", "default-run").or_else(|| toml(&manifest, "bin", "name"));
    let main = folder.join("src/main.rs").exists();
    let Some(program) = named.or(main.then_some(package)) else {
        return Found::unclear("it has no program: no src/main.rs and no [[bin]]");
    };
    let build = "cargo build --release".to_string();
    Found::service(Draft {
        name: Some(package.into()),
        why: format!("its program `{program}` is the service"),
        from: format!("From Cargo.toml: the program `{program}`, built with: {build}"),
        command: vec![format!("./{program}")],
        artifact: Some(format!("target/release/{program}")),
        next: vec![build],
        ..Draft::default()
    })
}

/// A Go module with a program.
pub(super) fn go(folder: &Path) -> Option<Found> {
    let module = text(folder, "go.mod")?;
    let path = module.lines().find_map(|line| line.trim().strip_prefix("module "))?.trim().trim_matches('"');
    // `example.com/shop/v2` is called shop.
    let version = |part: &&str| part.strip_prefix('v').is_some_and(|rest| rest.parse::<u32>().is_ok());
    let name = path.rsplit('/').find(|part| !version(part)).unwrap_or("app");
    let commands: Vec<String> = std::fs::read_dir(folder.join("cmd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let (program, package) = match commands.as_slice() {
        _ if folder.join("main.go").exists() => (name.to_string(), ".".to_string()),
        [only] => (only.clone(), format!("./cmd/{only}")),
        several if several.iter().any(|command| command == name) => {
            (name.to_string(), format!("./cmd/{name}"))
        }
        [] => return Found::unclear("it has no program: no main.go and no cmd/"),
        _ => return Found::unclear("it has several programs in cmd/, none named like the module"),
    };
    let build = format!("go build -o bin/{program} {package}");
    Found::service(Draft {
        name: Some(name.into()),
        why: format!("its program `{program}` is the service"),
        from: format!("From go.mod: the program `{program}`, built with: {build}"),
        command: vec![format!("./{program}")],
        artifact: Some(format!("bin/{program}")),
        next: vec![build],
        ..Draft::default()
    })
}
