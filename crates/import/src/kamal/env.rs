//! `env:` of the file and of roles: clear values, and names of secrets.

use cutover_core::file::foreign::short;

use super::build::is_word;
use super::ruby::is_ruby;
use crate::compose::{is_reserved, is_variable};
use crate::cursor::Cursor;
use crate::import::Work;
use crate::{quantity, secret, words};

pub(super) fn import(work: &mut Work<'_>, env: Option<&Cursor<'_>>) {
    let Some(env) = env else { return };
    let split = ["clear", "secret", "tags"].iter().any(|key| env.get(key).is_some());
    if !split {
        return clear(work, env);
    }
    if let Some(at) = env.get("clear") {
        clear(work, &at);
    }
    if let Some(at) = env.get("secret") {
        secrets(work, &at);
    }
}

fn clear(work: &mut Work<'_>, at: &Cursor<'_>) {
    for pair in at.pairs() {
        let (key, value) = (pair.key, pair.value.unwrap_or_default());
        if is_ruby(value) {
            continue;
        }
        if !is_variable(key) || value.contains('\0') {
            work.ledger.left(&pair.at, "this is no variable of an environment", "leave it out");
        } else if is_reserved(key) {
            if key == "PORT" {
                work.draft.port = quantity::port(value).or(work.draft.port);
            }
            let what = format!("cutover sets `{key}` itself, for each instance");
            work.ledger.became(&pair.at, "platform.docker.port", what, "");
        } else if secret::is_secret(key, value) {
            let why = "it looks like a secret, so its value was not copied";
            work.secret(
                &pair.at,
                key,
                why,
                format!("export {key}=…, with the value of line {}", pair.at.place.line),
            );
        } else {
            work.draft.secrets.retain(|known| known != key);
            work.draft.env.insert(key.to_string(), value.to_string());
            work.ledger.became_same(&pair.at, "platform.docker.env");
        }
    }
}

/// `NAME`, or `NAME:SECRET` where the secret is called otherwise.
fn secrets(work: &mut Work<'_>, at: &Cursor<'_>) {
    for item in at.each() {
        let Some(text) = item.text().filter(|text| !is_ruby(text)) else { continue };
        let (name, source) = text.split_once(':').unwrap_or((text, text));
        if !is_word(name) || !is_word(source) || is_reserved(name) {
            let what = format!("`{}` is no variable that cutover can set", short(text));
            work.ledger.left(&item, what, "rename it");
            continue;
        }
        if name == source {
            work.draft.secret(name);
            work.loaded.push(name.to_string());
            work.ledger.became_same(&item, "platform.docker.secrets");
        } else {
            let why = format!("it is called {source} in Kamal's secrets");
            work.secret(&item, name, &why, format!("export {name}=\"${source}\""));
        }
    }
    if !at.each().is_empty() {
        load(work);
    }
}

/// The order in which Kamal reads its secrets; what comes later wins.
fn load(work: &mut Work<'_>) {
    let folder = super::build::root_folder(work.input.folder);
    let place = |name: &str| {
        words::for_shell(&if folder == "." { format!("./{name}") } else { format!("{folder}/{name}") })
    };
    let (common, own) = (place(".kamal/secrets-common"), place(".kamal/secrets"));
    let line = format!("set -a; [ ! -e {common} ] || . {common}; . {own}; set +a");
    if !work.next.contains(&line) {
        work.next.push(line);
        work.draft.decide(
            "secrets",
            "Kamal reads .kamal/secrets-common, then .kamal/secrets (of a destination .kamal/secrets.NAME instead); load them before `cutover deploy`",
        );
    }
}
