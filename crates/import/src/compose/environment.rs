//! The environment: what is plain is copied, what is secret or comes from the shell is taken by name.

use std::collections::BTreeMap;

use cutover_core::file::foreign::short;

use crate::cursor::{Cursor, Pair};
use crate::import::Work;
use crate::variables::Variables;
use crate::{quantity, secret, words};

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
    let load = load(&text, &words::for_shell(&place));
    let what = format!("{count} of its variables are in `secrets` by name; no value was copied");
    work.ledger.differs(at, what, format!("load it before `cutover deploy`: {}", short(&load)));
    if !work.next.contains(&load) {
        work.next.push(load);
    }
}

/// A line for the shell that exports what the file says, and runs nothing of it.
fn load(text: &str, place: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+,=-".contains(c);
    let is_plain = |line: &str| {
        let line = line.trim();
        line.starts_with('#') || line.strip_prefix("export ").unwrap_or(line).chars().all(plain)
    };
    if text.lines().all(is_plain) {
        return format!("set -a; . {place}; set +a");
    }
    // The shell would cut such a value at its first space, or run it.
    format!(
        "while IFS='=' read -r name value; do case $name in ''|'#'*) ;; *) export \"$name=$value\";; esac; done < {place}"
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_the_shell_exports_what_a_file_says_and_runs_none_of_it() {
        let folder = std::env::temp_dir().join(format!("cutover-import-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for (text, expected) in [
            ("# all of it\nMOTD=plain\nexport OTHER=1\n", "plain"),
            (
                "# it's\n\nMOTD=hello $(touch ran) `touch ran`; touch ran\n",
                "hello $(touch ran) `touch ran`; touch ran",
            ),
        ] {
            std::fs::write(folder.join("a;touch ran"), text).unwrap();
            let line = load(text, &words::for_shell("./a;touch ran"));
            let shell = std::process::Command::new("sh")
                .args(["-c", &format!("{line}; printenv MOTD")])
                .current_dir(&folder)
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&shell.stdout).trim(), expected, "{line}: {shell:?}");
            assert!(!folder.join("ran").exists(), "{line}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
