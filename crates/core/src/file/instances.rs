//! What every platform is told of its instances, and what must hold of it.

use std::collections::BTreeMap;

use super::Platform;
use super::tree::short;
use super::validate::Mistake;
use crate::units::{Cores, Size};

/// Set by cutover for each instance; a file that sets them too would be overruled silently.
const RESERVED_ENV: [&str; 4] = ["PORT", "CUTOVER_SERVICE", "CUTOVER_REVISION", "CUTOVER_INSTANCE"];

/// What is the same in the section of every platform.
struct Instances<'a> {
    section: &'static str,
    replicas: u32,
    env: &'a BTreeMap<String, String>,
    secrets: &'a [String],
    memory: Option<Size>,
    cpu: Option<Cores>,
    pids: Option<u32>,
    log_size: Size,
    /// The words of its programs, by key.
    words: Vec<(&'static str, &'a [String])>,
}

impl<'a> Instances<'a> {
    fn of(platform: &'a Platform) -> Instances<'a> {
        match platform {
            Platform::Local(local) => Instances {
                section: "local",
                replicas: local.replicas,
                env: &local.env,
                secrets: &local.secrets,
                memory: local.memory,
                cpu: local.cpu,
                pids: local.pids,
                log_size: local.log_size,
                words: vec![("command", &local.command)],
            },
            Platform::Docker(docker) => Instances {
                section: "docker",
                replicas: docker.replicas,
                env: &docker.env,
                secrets: &docker.secrets,
                memory: docker.memory,
                cpu: docker.cpu,
                pids: docker.pids,
                log_size: docker.log_size,
                words: vec![("command", &docker.command), ("entrypoint", &docker.entrypoint)],
            },
        }
    }
}

pub(super) fn mistakes(platform: &Platform) -> Vec<Mistake> {
    let of = Instances::of(platform);
    let mut found = limit_mistakes(&of);
    found.extend(environment_mistakes(&of));
    found
}

fn limit_mistakes(of: &Instances<'_>) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: String, what: String, hint: &str| {
        found.push(Mistake { path: format!("platform.{}.{key}", of.section), what, hint: hint.into() });
    };
    if of.replicas == 0 || of.replicas > 1000 {
        say("replicas".into(), format!("{} replicas are not possible", of.replicas), "give 1 to 1000");
    }
    if of.memory.is_some_and(|memory| memory.bytes() < 1 << 20) {
        let given = of.memory.unwrap_or_default();
        say(
            "memory".into(),
            format!("no process lives within {given} bytes of memory"),
            "give it with its unit, such as `memory: 512Mi`",
        );
    }
    if of.cpu.is_some_and(|cpu| cpu.milli() < 10) {
        let given = of.cpu.unwrap_or_default();
        say("cpu".into(), format!("{given} cores are too few to be given"), "give at least 0.01");
    }
    if of.pids == Some(0) {
        say("pids".into(), "0 processes are not possible".into(), "give at least 1");
    }
    if of.log_size.bytes() < 64 << 10 {
        say(
            "log_size".into(),
            format!("a log of {} is too small to help", of.log_size),
            "give at least 64Ki",
        );
    }
    found
}

fn environment_mistakes(of: &Instances<'_>) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |path: String, what: String, hint: &str| {
        found.push(Mistake { path: format!("platform.{}.{path}", of.section), what, hint: hint.into() });
    };
    let named = of.env.keys().map(|key| (format!("env.{key}"), key));
    let secret = of.secrets.iter().enumerate().map(|(i, key)| (format!("secrets[{i}]"), key));
    for (place, key) in named.chain(secret) {
        let quoted = short(key);
        if key.is_empty() || key.contains(['=', '\0']) {
            let what = format!("\"{quoted}\" cannot name an environment variable");
            say(place.clone(), what, "leave out = and NUL, and give it a name");
        }
        if RESERVED_ENV.contains(&key.as_str()) {
            let what = format!("`{quoted}` is set by cutover for each instance");
            say(place, what, "leave it out and read it in the service");
        }
    }
    for (i, secret) in of.secrets.iter().enumerate() {
        let (place, quoted) = (format!("secrets[{i}]"), short(secret));
        if of.env.contains_key(secret) {
            say(place, format!("`{quoted}` stands in env and in secrets"), "keep it in secrets alone");
        } else if of.secrets[..i].contains(secret) {
            say(place, format!("`{quoted}` stands here twice"), "remove one of them");
        }
    }
    let values = of.env.iter().map(|(key, value)| (format!("env.{key}"), value));
    let arguments = of.words.iter().flat_map(|(key, words)| {
        words.iter().enumerate().map(move |(i, text)| (format!("{key}[{i}]"), text))
    });
    for (place, text) in values.chain(arguments) {
        if text.contains('\0') {
            say(place, "a NUL character cannot be passed to a program".into(), "remove it");
        }
    }
    found
}
