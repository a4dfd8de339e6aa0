//! Reads the release file as the command line was told.

use cutover_core::{ReleaseFile, ServiceName, file};

use super::args::{Deploy, Global};
use crate::exit;
use crate::failure::Failure;

/// Reads the release file; a mistake in it is exit code 2.
pub(super) fn read(global: &Global) -> Result<ReleaseFile, Failure> {
    let name = global.file.display().to_string();
    let source = std::fs::read_to_string(&global.file).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "name it with -f FILE, or write one: the README shows ten lines",
            _ => "",
        };
        Failure::new(exit::USAGE, format!("failed to read {name}: {error}")).hint(hint)
    })?;
    ReleaseFile::read(&name, &source).map_err(|errors| Failure::new(exit::USAGE, errors.to_string()))
}

/// Reads the release file and applies the options of `deploy`.
pub(super) fn read_for(global: &Global, deploy: &Deploy) -> Result<ReleaseFile, Failure> {
    let mut read = read(global)?;
    let file::Platform::Local(local) = &mut read.platform;
    if let Some(artifact) = &deploy.artifact {
        local.artifact = Some(artifact.clone());
    }
    Ok(read)
}

/// Returns the service that a verb is about: the one named, else the release file's.
pub(super) fn service(global: &Global, named: Option<String>) -> Result<ServiceName, Failure> {
    match named {
        Some(name) => Ok(ServiceName::new(name)),
        None => read(global)
            .map(|file| file.service)
            .map_err(|failure| failure.hint("name the service, or give its release file with -f FILE")),
    }
}

/// `cutover check`.
pub(super) fn check(global: &Global) -> Result<u8, Failure> {
    let file = read(global)?;
    if global.json() {
        println!("{}", serde_json::json!({ "ok": true, "service": file.service }));
    } else {
        println!("{} is good: {}, {}", global.file.display(), file.service, file.strategy.name());
    }
    Ok(exit::OK)
}
