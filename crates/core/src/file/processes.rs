//! The processes beside the routed one: workers, clocks, consumers of a queue.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::defaults;
use super::tree::short;
use super::validate::Mistake;
use crate::ids::ProcessName;
use crate::units::Span;

/// Says what a name means that is none of a process, and what to do instead.
fn reserved(name: &str, section: &str) -> Option<(String, &'static str)> {
    match name {
        "web" => Some((
            format!("the routed process is platform.{section}.command"),
            "move its command there, and leave `web` out here",
        )),
        "release" => Some((
            "`release` runs once for a release, it is no process that stays".into(),
            "run it before `cutover deploy`, or as a `gate:`",
        )),
        _ => None,
    }
}

/// A process beside the routed one. It gets no requests and no `PORT`; all that is not said here, artifact, environment,
/// secrets, user, stop signal, limits, is as the section of `platform` says; in a container `command` replaces CMD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How many of it run; 1 by default.
    #[serde(default = "defaults::replicas")]
    pub replicas: u32,
    /// Whether two revisions of it may run at once. If not, the old one stops before the new one starts, and in between
    /// nobody does its work: for a clock, or the only consumer of a queue.
    #[serde(default = "overlap")]
    pub overlap: bool,
    /// How long it may take to stop before it is killed; as the platform's `stop_grace` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<Span>,
}

const fn overlap() -> bool {
    true
}

pub(super) fn mistakes(processes: &BTreeMap<ProcessName, Process>, section: &str) -> Vec<Mistake> {
    processes.iter().flat_map(|(name, process)| mistakes_of(name, process, section)).collect()
}

fn mistakes_of(name: &ProcessName, process: &Process, section: &str) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: &str, what: String, hint: &str| {
        found.push(Mistake { path: format!("processes.{name}{key}"), what, hint: hint.into() });
    };
    if let Some((what, instead)) = reserved(name.as_str(), section) {
        say("", what, instead);
        return found;
    }
    if !ProcessName::is_usable(name.as_str()) {
        say(
            "",
            format!("the process name \"{}\" is not usable", short(name.as_str())),
            "use a lower-case word of at most 20 letters, digits, - and _, such as `worker`",
        );
    }
    if process.command.first().is_none_or(String::is_empty) {
        let what = "the command is empty".into();
        say(".command", what, "name the program and its arguments: `command: [./shop, work]`");
    }
    for (i, word) in process.command.iter().enumerate() {
        if word.contains('\0') {
            let what = "a NUL character cannot be passed to a program".into();
            say(&format!(".command[{i}]"), what, "remove it");
        }
        if asks_for_port(word) {
            say(
                &format!(".command[{i}]"),
                "only the routed process gets a port".into(),
                &format!("leave `$PORT` out; what takes requests is platform.{section}.command"),
            );
        }
    }
    if process.replicas == 0 || process.replicas > 1000 {
        let what = format!("{} replicas are not possible", process.replicas);
        say(".replicas", what, "give 1 to 1000, or leave the process out");
    }
    found
}

fn asks_for_port(word: &str) -> bool {
    let longer = |rest: &str| rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_');
    word.contains("${PORT}") || word.split("$PORT").skip(1).any(|rest| !longer(rest))
}
