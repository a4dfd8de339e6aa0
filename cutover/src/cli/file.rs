//! Reads the release file as the command line was told.

use std::io::Read;

use cutover_core::file::{Checked, Document, FileErrors};
use cutover_core::{ReleaseFile, ServiceName, file};

use super::args::{Deploy, Global};
use crate::cli::view::print;
use crate::exit;
use crate::failure::Failure;

/// More than any release file has; the reader itself says what is too large.
const ENOUGH: u64 = 16 << 20;

/// Reads the release file, with the environment of `--env` laid over it; a mistake in it is exit code 2.
pub(super) fn read(global: &Global) -> Result<ReleaseFile, Failure> {
    chosen(global, &document(global)?)
}

fn chosen(global: &Global, document: &Document) -> Result<ReleaseFile, Failure> {
    match &global.env {
        Some(name) => document.environment(name).map_err(bad),
        None => document.base().map_err(bad),
    }
}

fn bad(errors: FileErrors) -> Failure {
    Failure::new(exit::USAGE, errors.to_string())
}

fn document(global: &Global) -> Result<Document, Failure> {
    let name = global.file.display().to_string();
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&global.file).and_then(|file| file.take(ENOUGH).read_to_end(&mut bytes));
    read.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "name it with -f FILE, or write one with: cutover init",
            std::io::ErrorKind::IsADirectory => "name the file in it with -f FILE",
            std::io::ErrorKind::PermissionDenied => "give yourself the right to read it",
            _ => "",
        };
        Failure::new(exit::USAGE, format!("failed to read {name}: {error}")).hint(hint)
    })?;
    Document::read(&name, &bytes).map_err(bad)
}

/// Reads the release file and applies the options of `deploy`.
pub(super) fn read_for(global: &Global, deploy: &Deploy) -> Result<ReleaseFile, Failure> {
    let document = document(global)?;
    let mut read = chosen(global, &document)?;
    let names: Vec<&str> = document.environments().collect();
    if global.env.is_none() && !names.is_empty() {
        // A forgotten --env must not pass unseen.
        let (file, names) = (global.file.display(), names.join(", "));
        eprintln!("note: no --env, so the base of {file} is taken; its environments: {names}");
    }
    replace_what_runs(&mut read.platform, deploy)?;
    Ok(read)
}

/// Puts what `--artifact` or `--image` names in the place of what the release file does.
fn replace_what_runs(platform: &mut file::Platform, deploy: &Deploy) -> Result<(), Failure> {
    let refused = |option: &str, name: &str, instead: &str| {
        let what = format!("{option} is not for platform.{name}");
        Err(Failure::new(exit::USAGE, what).hint(format!("{instead}, or leave it out")))
    };
    match platform {
        file::Platform::Local(_) if deploy.image.is_some() => refused("--image", "local", "use --artifact"),
        file::Platform::Local(local) => {
            local.artifact = deploy.artifact.clone().or(local.artifact.take());
            Ok(())
        }
        file::Platform::Docker(_) if deploy.artifact.is_some() => {
            refused("--artifact", "docker", "use --image")
        }
        file::Platform::Docker(docker) => {
            if let Some(image) = &deploy.image {
                (docker.image, docker.build) = (Some(image.clone()), None);
            }
            Ok(())
        }
    }
}

/// Returns the service that a verb is about: the one named, else the release file's.
pub(super) fn service(global: &Global, named: Option<String>) -> Result<ServiceName, Failure> {
    if let Some(name) = named {
        return Ok(ServiceName::new(name));
    }
    read(global)
        .or_else(|failure| only_service(global).ok_or(failure))
        .map(|file| file.service)
        .map_err(|failure| failure.hint("name the service, or give its release file with -f FILE"))
}

/// Where the base is not complete, its environments may still agree on whose release file this is.
fn only_service(global: &Global) -> Option<ReleaseFile> {
    if global.env.is_some() {
        return None;
    }
    let mut files = document(global).ok()?.check().ok()?.environments.into_iter();
    let first = files.next()?;
    files.all(|file| file.service == first.service).then_some(first)
}

/// `cutover check`: with `--env` that environment, without it the base and all of them.
pub(super) fn check(global: &Global) -> Result<u8, Failure> {
    let checked = match &global.env {
        Some(_) => Checked { base: None, lacks: String::new(), environments: vec![read(global)?] },
        None => document(global)?.check().map_err(bad)?,
    };
    let files: Vec<&ReleaseFile> = checked.base.iter().chain(&checked.environments).collect();
    let Some(first) = files.first() else { return Ok(exit::OK) };
    if global.json() {
        print(&format!(
            "{}",
            serde_json::json!({ "ok": true, "service": first.service, "base": checked.base.is_some(), "files": files })
        ));
        return Ok(exit::OK);
    }
    for file in &files {
        let environment = file.environment.as_ref().map(|name| format!(" for {name}")).unwrap_or_default();
        print(&format!(
            "{} is good{environment}: {}, {}",
            global.file.display(),
            file.service,
            file.strategy.name()
        ));
    }
    if !checked.lacks.is_empty() {
        print(&format!("its base alone cannot be released ({}): deploy it with --env", checked.lacks));
    }
    Ok(exit::OK)
}
