//! Containers of a Docker engine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tree::short;
use super::validate::Mistake;
use super::{LostHost, StopSignal, defaults};
use crate::units::{Cores, Size, Span};

/// The port that instances are told where neither the release file nor the image names one.
pub const DOCKER_PORT: u16 = 8080;

/// Containers of a Docker engine, or of podman's socket, on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DockerPlatform {
    /// The image to run, such as `registry.example/shop:1.4`. It is resolved to what it is now, so a tag that moves later
    /// changes nothing of a revision. Either this or `build`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Builds the image from a Dockerfile. Either this or `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<DockerBuild>,
    /// When the registry is asked for `image`.
    #[serde(default)]
    pub pull: DockerPull,
    /// Replaces the CMD of the image, with no shell between. `$PORT` in a word becomes the container's port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the ENTRYPOINT of the image, and drops its CMD.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The port that the service listens on in its container. Without it the one that the image EXPOSEs, if that is a single
    /// one, else 8080. Instances find it in `PORT` too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How the proxy reaches the container.
    #[serde(default)]
    pub reach: DockerReach,
    /// How many instances carry all traffic.
    #[serde(default = "defaults::replicas")]
    pub replicas: u32,
    /// Environment variables beside those of the image. Part of the revision: a change makes a new one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of environment variables whose values are taken from the environment of `cutover deploy` and kept sealed. In
    /// the container they are variables: whoever may ask the engine sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// The user that the container runs as, by name or number, such as `1000:1000`; without it the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Volumes as `NAME:/path`, folders as `./folder:/path`, both with `:ro` where nothing may be written. Both revisions of a
    /// release have them at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Networks of the engine that the container joins; they must be there. Without it the engine's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// The signal that asks an instance to stop; without it the image's STOPSIGNAL, else `TERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<StopSignal>,
    /// How long an instance may take to stop after that signal before it is killed.
    #[serde(default = "defaults::stop_grace")]
    pub stop_grace: Span,
    /// What one instance needs: looked for before the candidate starts beside stable. Also the most that it gets, swap
    /// included: beyond it the kernel kills it. Without it nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// The most processor time that one instance gets; `0.5` is half a core. Without it as much as there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cores>,
    /// The most processes and threads that one instance may have. Without it as many as the engine lets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// The most that the log of one instance keeps on disk; the oldest lines go first.
    #[serde(default = "defaults::log_size")]
    pub log_size: Size,
    /// The hosts that each run all of it, as `ssh://USER@HOST` or `unix:///path/of/docker.sock`; `replicas` are those of each.
    /// Without it the engine of this machine. See docs/hosts.md for `?name=`, `?state=`, `?docker=` and `?listen=`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// What becomes of a release under way when one of its hosts is lost.
    #[serde(default, skip_serializing_if = "LostHost::is_default")]
    pub lost_host: LostHost,
}

/// How an image is built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DockerBuild {
    /// The folder that is sent to the engine, relative to the release file; `.dockerignore` in it is honoured.
    #[serde(default = "here")]
    pub context: String,
    /// The Dockerfile, relative to the context; it may lie outside of it.
    #[serde(default = "dockerfile")]
    pub dockerfile: String,
    /// The stage to build; without it the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Values of the Dockerfile's ARGs. They can be read in the image's history.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Names of environment variables of `cutover deploy` that `RUN --mount=type=secret,id=NAME` may read. They are in no layer
    /// and no history, and a change of a value alone does not build anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Where the built image is pushed to, without a tag, such as `registry.example/shop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<String>,
}

fn here() -> String {
    ".".into()
}

fn dockerfile() -> String {
    "Dockerfile".into()
}

/// When the registry is asked for an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DockerPull {
    /// If the engine does not have it.
    #[default]
    Missing,
    /// For each release, so that a tag that moved is a new revision.
    Always,
    /// Not at all: an image that the engine does not have is a fault.
    Never,
}

/// How the proxy reaches a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DockerReach {
    /// On a free port of 127.0.0.1 that the engine forwards.
    #[default]
    Published,
    /// On the container's own address, in the first of its `networks`; only on a host that reaches it.
    Address,
}

impl DockerPlatform {
    /// Returns the names of the environment variables whose values are wanted: of instances, and of the build; each once.
    pub fn all_secrets(&self) -> Vec<&str> {
        let build = self.build.iter().flat_map(|build| &build.secrets);
        let mut names: Vec<&str> = self.secrets.iter().chain(build).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

pub(super) fn mistakes(docker: &DockerPlatform) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: String, what: String, hint: &str| {
        found.push(Mistake { path: format!("platform.docker{key}"), what, hint: hint.into() });
    };
    match (&docker.image, &docker.build) {
        (None, None) => say(
            String::new(),
            "neither `image` nor `build` says what runs".into(),
            "add `image: registry.example/shop:1.4`, or `build: {}` for the Dockerfile beside this file",
        ),
        (Some(_), Some(_)) => {
            let what = "`image` and `build` both say what runs".into();
            say(".image".into(), what, "keep one of them; where a built image is pushed to is `build.push`");
        }
        (Some(image), None) if !is_reference(image) => say(
            ".image".into(),
            format!("`{}` is not an image", short(image)),
            "write it as for `docker pull`: lower case, such as `registry.example/shop:1.4`",
        ),
        _ => {}
    }
    if docker.port == Some(0) {
        say(".port".into(), "port 0 is no port".into(), "give the port that the service listens on");
    }
    if docker.user.as_deref().is_some_and(|user| user.is_empty() || user.contains(char::is_whitespace)) {
        say(".user".into(), "this names no user".into(), "such as `user: app` or `user: \"1000:1000\"`");
    }
    found.extend(words(docker));
    found.extend(docker.build.iter().flat_map(build_mistakes));
    found.extend(volume_mistakes(&docker.volumes));
    found.extend(network_mistakes(&docker.networks));
    found.extend(super::hosts::mistakes(docker));
    found
}

fn words(docker: &DockerPlatform) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (key, words) in [("command", &docker.command), ("entrypoint", &docker.entrypoint)] {
        if words.first().is_some_and(String::is_empty) {
            found.push(Mistake {
                path: format!("platform.docker.{key}[0]"),
                what: "the program is empty".into(),
                hint: format!("name the program, or leave `{key}` out for that of the image"),
            });
        }
    }
    found
}

fn build_mistakes(build: &DockerBuild) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: String, what: String, hint: &str| {
        found.push(Mistake { path: format!("platform.docker.build.{key}"), what, hint: hint.into() });
    };
    for (key, text) in [("context", &build.context), ("dockerfile", &build.dockerfile)] {
        if text.is_empty() || text.contains('\0') {
            say(
                key.into(),
                format!("the {key} is empty, or has a NUL character"),
                "name it, or leave it out",
            );
        }
    }
    if let Some(push) = &build.push
        && (!is_reference(push) || push.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])))
    {
        say(
            "push".into(),
            format!("`{}` is not the name of an image without a tag", short(push)),
            "such as `registry.example/shop`: the tag is the revision",
        );
    }
    for (i, name) in build.secrets.iter().enumerate() {
        if name.is_empty() || name.contains(['=', '\0', ',']) || name.contains(char::is_whitespace) {
            let what = format!("\"{}\" cannot name a secret of a build", short(name));
            say(format!("secrets[{i}]"), what, "give the name of an environment variable");
        } else if build.args.contains_key(name) {
            let what = format!("`{}` stands in args and in secrets", short(name));
            say(format!("secrets[{i}]"), what, "keep it in secrets alone: args can be read in the image");
        }
    }
    found
}

fn volume_mistakes(volumes: &[String]) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (i, text) in volumes.iter().enumerate() {
        let parts: Vec<&str> = text.split(':').collect();
        let fits = match parts.as_slice() {
            [from, to] | [from, to, "ro" | "rw"] => is_source(from) && to.starts_with('/') && to.len() > 1,
            _ => false,
        };
        let target = parts.get(1).copied();
        let twice = || volumes[..i].iter().any(|other| other.split(':').nth(1) == target);
        let (what, hint) = if !fits {
            let hint =
                "write `NAME:/path` or `./folder:/path`, and `:ro` behind it where nothing may be written";
            (format!("`{}` is not a volume", short(text)), hint)
        } else if twice() {
            (format!("`{}` is mounted twice", target.unwrap_or_default()), "remove one of them")
        } else {
            continue;
        };
        found.push(Mistake { path: format!("platform.docker.volumes[{i}]"), what, hint: hint.into() });
    }
    found
}

fn network_mistakes(networks: &[String]) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (i, name) in networks.iter().enumerate() {
        let (what, hint) = if ["host", "none"].contains(&name.as_str()) || name.contains(':') {
            // On the host's own network two revisions would want the same port.
            let what = format!("instances cannot join the network `{}`", short(name));
            (what, "name a network with addresses of its own, made by: docker network create NAME")
        } else if !is_word(name) {
            let what = format!("`{}` is not the name of a network", short(name));
            (what, "give the name that `docker network ls` shows")
        } else if networks[..i].contains(name) {
            (format!("`{name}` stands here twice"), "remove one of them")
        } else {
            continue;
        };
        found.push(Mistake { path: format!("platform.docker.networks[{i}]"), what, hint: hint.into() });
    }
    found
}

/// Tells whether the text can name an image: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, or an image's id. What the engine
/// thinks of it is the engine's matter.
fn is_reference(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    let path = text.split_once('/').map_or(text, |(_, path)| path);
    let path = path.split(['@', ':']).next().unwrap_or_default();
    !text.is_empty()
        && text.len() <= 500
        && text.chars().all(plain)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !path.is_empty()
        && !path.starts_with('/')
        && !path.ends_with('/')
        && !path.contains(|c: char| c.is_ascii_uppercase())
}

fn is_source(from: &str) -> bool {
    let path = from.starts_with('/')
        || from == "."
        || from == ".."
        || from.starts_with("./")
        || from.starts_with("../");
    (path && !from.contains('\0')) || is_word(from)
}

fn is_word(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 128 && name.chars().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_told_from_what_is_none() {
        let digest = format!("shop@sha256:{}", "a".repeat(64));
        for good in ["shop", "shop:1.4", "localhost:5000/team/shop:v1", "ghcr.io/a/b", &digest, "sha256:00ff"]
        {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "Shop", "https://x/y", "a b", "-x", "x/", "x/:1", "x/Y:1"] {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn volumes_are_names_or_paths() {
        let say = |text: &str| volume_mistakes(&[text.into()]).len();
        for good in ["data:/var/lib", "./conf:/etc/shop:ro", "/srv/x:/x:rw", "../x:/x"] {
            assert_eq!(say(good), 0, "{good}");
        }
        for bad in ["data", "data:var", "data:/x:z", "conf/x:/x", ":/x", "data:/", "a:/b:ro:c"] {
            assert_eq!(say(bad), 1, "{bad}");
        }
        assert_eq!(volume_mistakes(&["a:/x".into(), "b:/x:ro".into()])[0].what, "`/x` is mounted twice");
    }
}
