//! The environment: what is plain is copied, what is secret or comes from the shell is taken by name.

use std::collections::BTreeMap;

use cutover_core::file::foreign::short;

use crate::cursor::{Cursor, Pair};
use crate::import::Work;
use crate::variables::Variables;
use crate::{quantity, secret};

pub(super) fn import(work: &mut Work<'_>, service: &Cursor<'_>) {
    if let Some(at) = service.get("environment") {
        for pair in at.pairs() {
            variable(work, &pair);
        }
    }
    if let Some(at) = service.get("env_file") {
        for item in at.each() {
            file(work, &item);
        }
    }
}

/// Set by cutover for each instance.
pub(crate) fn is_reserved(name: &str) -> bool {
    ["PORT", "CUTOVER_SERVICE", "CUTOVER_REVISION", "CUTOVER_INSTANCE"].contains(&name)
}

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0', '$']) && !name.contains(char::is_whitespace)
}

pub(super) fn variable(work: &mut Work<'_>, pair: &Pair<'_>) {
    let Pair { key, value, at } = pair;
    if !is_name(key) || value.is_some_and(|value| value.contains('\0')) {
        return work.ledger.left(at, "this is no variable of an environment", "leave it out");
    }
    if is_reserved(key) {
        if *key == "PORT" {
            let port = value.and_then(|value| quantity::port(&work.variables.fill(value).text));
            work.draft.port = work.draft.port.or(port);
        }
        let what = format!("cutover sets `{key}` itself, for each instance");
        return work.ledger.became(at, "platform.docker.port", what, "");
    }
    // The shell of whoever imports says nothing of the shell that deploys.
    let none = BTreeMap::new();
    let filled = value.map(|value| Variables(&none).fill(value));
    match filled {
        None => work.secret(
            at,
            key,
            "its value comes from the environment of `cutover deploy`",
            format!("export {key}=…"),
        ),
        Some(filled) if !filled.unset.is_empty() => {
            let why = format!("its value is made of {}, which is known when you deploy", filled.names());
            let next = match filled.unset.as_slice() {
                [one] if filled.text.is_empty() && one == key => format!("export {key}=…"),
                [one] if filled.text.is_empty() => format!("export {key}=\"${one}\""),
                _ => format!("export {key}=…, as the compose file makes it"),
            };
            work.secret(at, key, &why, next);
        }
        Some(filled) if secret::is_secret(key, &filled.text) => {
            let why = "it looks like a secret, so its value was not copied";
            work.secret(at, key, why, format!("export {key}=…, with the value of line {}", at.place.line));
        }
        Some(filled) => {
            if !filled.is_plain() {
                let what = format!("the default of {} is taken, whatever the shell says", filled.names());
                work.ledger.differs(
                    at,
                    what,
                    "change it in the release file, or per environment in `environments:`",
                );
            }
            work.draft.secrets.retain(|known| known != key);
            work.draft.env.insert((*key).to_string(), filled.text);
            work.ledger.took(at);
        }
    }
}

pub(super) fn file(work: &mut Work<'_>, at: &Cursor<'_>) {
    let path = at.text().or_else(|| at.get("path").and_then(|path| path.text()));
    let Some(path) = path else {
        return work.ledger.left(
            at,
            "no path is named here",
            "name its variables in platform.docker.secrets",
        );
    };
    let path = work.variables.fill(path).text;
    let Some(text) = (work.input.read)(&path) else {
        if at.get("required").is_some_and(|at| at.text() == Some("false")) {
            return work.ledger.differs(at, "it is not there, and need not be", "");
        }
        let what = "the file cannot be read here, so its variables are not known";
        return work.ledger.left(
            at,
            what,
            "name them in platform.docker.secrets, and export them before `cutover deploy`",
        );
    };
    let names: Vec<&str> = names(&text).filter(|name| !is_reserved(name)).collect();
    let mut count = 0;
    for name in names {
        // What the file itself says wins over its env_file.
        if !work.draft.env.contains_key(name) {
            work.draft.secret(name);
            work.loaded.push(name.to_string());
            count += 1;
        }
    }
    let place = work.path(&path).unwrap_or(path);
    let load =
        format!("set -a; . {}; set +a", if place.contains(char::is_whitespace) { "FILE" } else { &place });
    let what = format!("{count} of its variables are in `secrets` by name; no value was copied");
    work.ledger.differs(at, what, format!("load it before `cutover deploy`: {}", short(&load)));
    if !work.next.contains(&load) {
        work.next.push(load);
    }
}

/// The names of the variables of a file of `NAME=value` lines.
pub(crate) fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let name = line.split_once('=').map_or(line, |(name, _)| name).trim();
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(word))
            .then_some(name)
    })
}
