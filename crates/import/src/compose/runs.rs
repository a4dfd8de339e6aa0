//! What runs: image or build, command, user, signals.

use cutover_core::file::FileErrors;
use cutover_core::file::foreign::short;

use crate::cursor::Cursor;
use crate::draft::Build;
use crate::import::Work;
use crate::{quantity, secret};

pub(super) fn import(work: &mut Work<'_>, service: &Cursor<'_>) -> Result<(), FileErrors> {
    match (service.get("image"), service.get("build")) {
        (image, Some(at)) => {
            build(work, &at);
            if let Some(image) = image {
                work.ledger.became(
                    &image,
                    "platform.docker.build.push",
                    "cutover names what it builds by its content, and pushes it only when asked",
                    "give `push:` with this name, without its tag, if the image must be in a registry",
                );
                work.draft.decide("push", "name a registry here if the image must be in one");
            }
        }
        (Some(at), None) => {
            let written = work.value(&at, "image").unwrap_or_default();
            // A tag that came to nothing is the newest.
            let image = written.trim_end_matches([':', '@']).to_string();
            if !is_image(&image) {
                let names = work.variables.fill(at.text().unwrap_or_default());
                let (what, hint) = match names.unset.is_empty() {
                    true => (
                        format!("`{}` is not an image", short(&image)),
                        "such as `registry.example/shop:1.4`".into(),
                    ),
                    false => (
                        format!("the image is made of {}, which has no value here", names.names()),
                        format!("set it, such as: {}=… cutover import FILE", names.unset[0]),
                    ),
                };
                return Err(work.file.error(at.node.place, what, hint));
            }
            work.draft.image = Some(image);
            work.ledger.took(&at);
        }
        (None, None) => {
            let hint = match service.get("extends").is_some() {
                true => "it extends another: docker compose config > whole.yaml, and import that",
                false => "cutover releases containers: give it one of the two",
            };
            let what = format!("the service `{}` has neither `image` nor `build`", short(service.key()));
            return Err(work.file.error(service.place, what, hint));
        }
    }
    if let Some(at) = service.get("entrypoint")
        && let Some(words) = work.command(&at, "entrypoint")
    {
        work.draft.entrypoint = words;
        work.ledger.took(&at);
    }
    if let Some(at) = service.get("command")
        && let Some(words) = work.command(&at, "command")
    {
        work.draft.command = words;
        work.ledger.took(&at);
    }
    small_keys(work, service);
    Ok(())
}

fn small_keys(work: &mut Work<'_>, service: &Cursor<'_>) {
    if let Some(at) = service.get("user")
        && let Some(user) = work.value(&at, "user")
        && !user.is_empty()
        && !user.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        work.draft.user = Some(user);
        work.ledger.took(&at);
    }
    if let Some(at) = service.get("stop_signal")
        && let Some(signal) = work.value(&at, "stop_signal")
    {
        let name = signal.trim_start_matches("SIG").to_string();
        if ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"].contains(&name.as_str()) {
            work.draft.stop_signal = Some(name);
            work.ledger.took(&at);
        } else {
            let what = format!("instances cannot be stopped by `{}`", short(&signal));
            work.ledger.left(&at, what, "let the service stop on TERM, INT, QUIT, HUP, USR1, USR2 or WINCH");
        }
    }
    if let Some(at) = service.get("stop_grace_period")
        && let Some(span) = work.value(&at, "stop_grace").and_then(|text| quantity::span(&text, None))
    {
        work.draft.stop_grace = Some(span);
        work.ledger.took(&at);
    }
    if let Some(at) = service.get("pull_policy") {
        match at.text() {
            Some("always") => {
                work.draft.pull = Some("always");
                work.ledger.took(&at);
            }
            Some("never") => {
                work.draft.pull = Some("never");
                work.ledger.took(&at);
            }
            _ => {}
        }
    }
    logging(work, service);
}

fn logging(work: &mut Work<'_>, service: &Cursor<'_>) {
    let Some(at) = service.get("logging") else { return };
    let kept = |text: &str| matches!(text, "json-file" | "local");
    match at.get("driver").and_then(|driver| driver.text()) {
        Some(driver) if !kept(driver) => {
            let what =
                format!("logs are kept in bounded files for `cutover logs`, not sent to `{}`", short(driver));
            return work.ledger.left(
                &at,
                what,
                "let the service itself send them, or read them from the engine",
            );
        }
        _ => {}
    }
    let option = |name: &str| at.find(&["options", name]).and_then(|at| at.text());
    if let Some(size) = option("max-size").and_then(quantity::size) {
        let files = option("max-file").and_then(quantity::whole).unwrap_or(1).max(1);
        let bytes = size.bytes().saturating_mul(u64::from(files)).max(64 << 10);
        work.draft.log_size = Some(cutover_core::Size::from_bytes(bytes));
    }
    work.ledger.took(&at);
}

/// `build: .`, or its keys.
fn build(work: &mut Work<'_>, at: &Cursor<'_>) {
    let mut build = Build::default();
    let context = if at.text().is_some() { Some(at.clone()) } else { at.get("context") };
    if let Some(at) = context {
        let text = work.value(&at, "build").unwrap_or_default();
        let remote = text.contains("://") || text.starts_with("git@");
        match work.path(&text).filter(|_| !remote && !text.is_empty()) {
            Some(path) => {
                build.context = Some(path);
                work.ledger.took(&at);
            }
            None => {
                let what = "the build needs a folder of this machine; the release file's own is taken";
                work.ledger.left(&at, what, "clone it, and name the folder in `build.context`");
                work.draft.decide("build", "name the folder to build from");
            }
        }
    } else {
        build.context = work.path(".");
    }
    for (key, slot) in [("dockerfile", &mut build.dockerfile), ("target", &mut build.target)] {
        if let Some(at) = at.get(key)
            && let Some(text) =
                work.value(&at, "build").filter(|text| !text.is_empty() && !text.contains('\0'))
        {
            *slot = Some(text);
            work.ledger.took(&at);
        }
    }
    if let Some(args) = at.get("args") {
        for pair in args.pairs() {
            argument(work, &mut build, &pair.at, pair.key, pair.value);
        }
    }
    if let Some(secrets) = at.get("secrets") {
        build_secrets(work, &mut build, &secrets);
    }
    build.secrets.retain(|name| !build.args.contains_key(name));
    work.draft.build = Some(build);
}

/// An argument can be read in the image by everybody: a secret does not become one.
fn argument(work: &mut Work<'_>, build: &mut Build, at: &Cursor<'_>, key: &str, value: Option<&str>) {
    let filled = value.map(|value| work.variables.fill(value));
    match filled {
        Some(filled) if filled.unset.is_empty() && !secret::is_secret(key, &filled.text) => {
            if !filled.is_plain() {
                let what = format!("{} is filled in as it is now", filled.names());
                work.ledger.differs(at, what, "change it in the release file: cutover fills in nothing");
            }
            build.args.insert(key.to_string(), filled.text.replace('\0', ""));
            work.ledger.took(at);
        }
        _ if secret::is_secret_name(key) && is_secret_word(key) => {
            build.secrets.push(key.to_string());
            work.ledger.became(
                at,
                "platform.docker.build.secrets",
                "an argument can be read in the image by everybody, so it is a secret of the build",
                format!("read it in the Dockerfile by RUN --mount=type=secret,id={key}, and export {key}=…"),
            );
        }
        _ => {
            let what = "its value comes from the shell, and is not known here";
            work.ledger.left(at, what, format!("write it: build.args: {{{}: …}}", short(key)));
            work.draft.decide("build", format!("args.{} came from the shell", short(key)));
        }
    }
}

fn is_secret_word(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn build_secrets(work: &mut Work<'_>, build: &mut Build, at: &Cursor<'_>) {
    for item in at.items() {
        let name = item.text().or_else(|| item.get("source").and_then(|source| source.text()));
        if let Some(name) = name.filter(|name| is_secret_word(name)) {
            if !build.secrets.iter().any(|known| known == name) {
                build.secrets.push(name.to_string());
            }
            let what = "its value is read from the environment of `cutover deploy`, not from a file";
            work.ledger.differs(&item, what, format!("export {name}=…"));
        } else {
            work.ledger.left(&item, "only a variable's name can name a secret of the build", "rename it");
        }
    }
}

/// Tells whether the text can name an image.
pub(crate) fn is_image(text: &str) -> bool {
    let path = text.split_once('/').map_or(text, |(_, path)| path);
    let path = path.split(['@', ':']).next().unwrap_or_default();
    text.len() <= 500
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !path.is_empty()
        && !path.ends_with('/')
        && !text.contains("//")
        && !path.contains(|c: char| c.is_ascii_uppercase())
}
