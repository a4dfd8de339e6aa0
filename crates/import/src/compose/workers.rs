//! The other services: those that run from the same image without a port are processes of the release, the rest stays.

use std::collections::BTreeMap;

use cutover_core::ProcessName;
use cutover_core::file::foreign::{Node, Value, short};

use super::{Compose, deploy};
use crate::cursor::Cursor;
use crate::draft::Process;
use crate::import::Work;
use crate::quantity;

/// Keys that may be other than those of the service, or mean nothing beside it.
const OWN: [&str; 16] = [
    "command",
    "image",
    "build",
    "environment",
    "env_file",
    "depends_on",
    "restart",
    "stop_grace_period",
    "deploy",
    "scale",
    "logging",
    "labels",
    "profiles",
    "container_name",
    "healthcheck",
    "expose",
];
/// Limits, of which processes have the service's.
const LIMITS: [&str; 4] = ["mem_limit", "cpus", "pids_limit", "mem_reservation"];

/// Returns how many of the services became processes.
pub(super) fn import(work: &mut Work<'_>, compose: &Compose<'_>, services: &Cursor<'_>) -> usize {
    let mut count = 0;
    for (name, other) in services.entries() {
        if name == compose.service.key() {
            continue;
        }
        match why_not(work, compose, &other) {
            Some(why) => {
                let next = format!(
                    "keep it with compose: docker compose up -d {}; or import it by its own: --service {0}",
                    short(name)
                );
                work.ledger.left(&other, why, next);
            }
            None => {
                process(work, compose, name, &other);
                count += 1;
            }
        }
    }
    count
}

/// Says why a service cannot be a process of the release; none where it can.
fn why_not(work: &mut Work<'_>, compose: &Compose<'_>, other: &Cursor<'_>) -> Option<String> {
    let main = &compose.service;
    let same = |key: &str| same(main.get(key).as_ref(), other.get(key).as_ref());
    let image = (other.get("build").is_some() && same("build"))
        || (other.get("image").is_some() && main.get("image").is_some() && same("image"))
        || (other.get("image").is_some() && main.get("build").is_some() && same("image"));
    if !image || !other.is_map() {
        return Some("a release file is of one service, and this is another".into());
    }
    if other.get("ports").is_some() {
        return Some("it takes requests of its own, so it is a service of its own".into());
    }
    let Some(command) = other.get("command") else {
        return Some("it has no command of its own, by which it could be told from the service".into());
    };
    let differing = other
        .entries()
        .into_iter()
        .map(|(key, _)| key)
        .find(|key| !OWN.contains(key) && !LIMITS.contains(key) && !key.starts_with("x-") && !same(key));
    if let Some(key) = differing {
        return Some(format!(
            "a process has all but its command from the service, and its `{}` differs",
            short(key)
        ));
    }
    if let Some(name) = differing_variable(main, other) {
        return Some(format!(
            "a process has all but its command from the service, and its variable `{}` differs",
            short(&name)
        ));
    }
    let words = work.command(&command, "processes");
    match words {
        None => Some("its command cannot be read".into()),
        Some(words) if words.iter().any(|word| word.contains("$PORT") || word.contains("${PORT")) => {
            Some("its command asks for a port, and only the service itself has one".into())
        }
        Some(_) => None,
    }
}

/// The first variable that both have, with other values.
fn differing_variable(main: &Cursor<'_>, other: &Cursor<'_>) -> Option<String> {
    let all = |at: &Cursor<'_>| -> BTreeMap<String, Option<String>> {
        let pairs = at.get("environment").map(|at| at.pairs()).unwrap_or_default();
        pairs.into_iter().map(|pair| (pair.key.to_string(), pair.value.map(str::to_string))).collect()
    };
    let main = all(main);
    let differs =
        |(name, value): &(String, Option<String>)| main.get(name).is_some_and(|other| other != value);
    all(other).into_iter().find(differs).map(|(name, _)| name)
}

fn process(work: &mut Work<'_>, compose: &Compose<'_>, name: &str, other: &Cursor<'_>) {
    let Some(at) = other.get("command") else { return };
    let command = work.command(&at, "processes").unwrap_or_default();
    let name = process_name(name, |name| work.draft.processes.contains_key(name));
    work.ledger.became(
        &at,
        "processes.*.command",
        format!("it is the process `{name}` of the same release, which has all else as the service has it"),
        "",
    );
    let grace = other.get("stop_grace_period");
    let stop_grace = grace.as_ref().and_then(|at| quantity::span(at.text()?, None));
    if let (Some(at), Some(_)) = (&grace, stop_grace) {
        work.ledger.became(at, "processes.*.stop_grace", "of the process alone", "");
    }
    let replicas = deploy::replicas(work, other);
    let alone = ["clock", "cron", "scheduler", "beat"].iter().any(|word| name.contains(word));
    if let Some(at) = other.get("healthcheck") {
        work.ledger.became(&at, "", "a process is watched by whether it lives", "");
    }
    rest(work, &compose.service, &name, other);
    work.draft.processes.insert(name, Process { command, replicas, stop_grace, alone });
}

/// What a process has as the service has it is said to be so; what it has beside it goes to all of them, or is left.
fn rest(work: &mut Work<'_>, main: &Cursor<'_>, name: &str, other: &Cursor<'_>) {
    for (key, at) in other.entries() {
        let shared = same(main.get(key).as_ref(), Some(&at)) && !["command", "healthcheck"].contains(&key);
        if shared || ["image", "build"].contains(&key) {
            work.ledger.became_same(&at, "platform.docker");
        } else if LIMITS.contains(&key) {
            let what = format!("the process `{name}` has the limits of the service, not its own");
            work.ledger.left(&at, what, "set the larger one in platform.docker");
        }
    }
    let shared: Vec<_> = main.get("environment").map(|at| at.pairs()).unwrap_or_default();
    let known = |key: &str| shared.iter().any(|pair| pair.key == key);
    for pair in other.get("environment").map(|at| at.pairs()).unwrap_or_default() {
        match known(pair.key) {
            true => work.ledger.became_same(&pair.at, "platform.docker"),
            // Processes and service run from one environment.
            false => super::environment::variable(work, &pair),
        }
    }
    if let Some(at) = other.get("env_file").filter(|at| !same(main.get("env_file").as_ref(), Some(at))) {
        at.each().iter().for_each(|item| super::environment::file(work, item));
    }
    for at in other.get("deploy").map(|at| at.children()).unwrap_or_default() {
        if !["replicas", "restart_policy", "labels"].contains(&at.key()) {
            let what = format!("the process `{name}` is replaced with the service, and has its limits");
            work.ledger.left(&at, what, "set what both need in platform.docker and strategy");
        }
    }
}

/// The nearest name that a process can have, and that is not taken.
pub(crate) fn process_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c.to_ascii_lowercase() } else { '-' }
    };
    let name: String = name.chars().map(plain).collect();
    let name: String = name.trim_start_matches(|c: char| !c.is_ascii_lowercase()).chars().take(16).collect();
    let good =
        |name: &str| ProcessName::is_usable(name) && !["web", "release"].contains(&name) && !taken(name);
    if good(&name) {
        return name;
    }
    let base = if name.is_empty() { "process" } else { &name };
    (2_u32..).map(|i| format!("{base}-{i}")).find(|name| good(name)).unwrap_or_else(|| "process".into())
}

fn same(one: Option<&Cursor<'_>>, other: Option<&Cursor<'_>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => equal(one.node, other.node),
        (None, None) => true,
        _ => false,
    }
}

/// Tells whether two values say the same, wherever they stand.
fn equal(one: &Node, other: &Node) -> bool {
    match (&one.value, &other.value) {
        (Value::Scalar(one), Value::Scalar(other)) => one.text == other.text,
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Value::Map(one), Value::Map(other)) => {
            let has = |entry: &cutover_core::file::foreign::Entry| {
                other.iter().any(|known| known.key == entry.key && equal(&entry.value, &known.value))
            };
            one.len() == other.len() && one.iter().all(has)
        }
        _ => false,
    }
}
