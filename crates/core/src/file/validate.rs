//! What must hold between the keys of a release file beyond their types.

use super::tree::short;
use super::{CanaryBake, Check, LocalPlatform, Platform, ProxyRoute, ReleaseFile, Route, Strategy, Through};
use crate::units::{Span, Weight};

/// A mistake and the path of the key it is about.
pub(super) struct Mistake {
    pub(super) path: String,
    pub(super) what: String,
    pub(super) hint: String,
}

pub(super) fn mistakes(file: &ReleaseFile) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |path: &str, what: String, hint: &str| {
        found.push(Mistake { path: path.into(), what, hint: hint.into() });
    };
    let name = file.service.as_str();
    if !is_name(name) {
        say(
            "service",
            format!("the service name \"{}\" is not usable", short(name)),
            "use 1 to 40 lower-case letters, digits and dashes, such as `shop-api`",
        );
    }
    if file.route.is_empty() {
        say("route", "the list of routes is empty".into(), "add `- proxy: {listen: \"127.0.0.1:8080\"}`");
    }
    for (i, Route::Proxy(proxy)) in file.route.iter().enumerate() {
        if proxy.host.as_deref().is_some_and(|host| !is_host(host)) {
            say(
                &format!("route[{i}].proxy.host"),
                "the host is not a host name".into(),
                "write it without scheme, port or path, such as `shop.example.com`",
            );
        }
        if proxy.listen.port() == 0 {
            say(
                &format!("route[{i}].proxy.listen"),
                "port 0 would be another one each time".into(),
                "give the port that your users call, such as \"127.0.0.1:8080\"",
            );
        }
        if file.route[..i].contains(&file.route[i]) {
            say(&format!("route[{i}]"), "this route stands here twice".into(), "remove one of them");
        }
    }
    if file.guard.success == Weight::ZERO {
        say("guard.success", "a success of 0% guards nothing".into(), "give the least share, such as 99%");
    }
    if file.guard.min_requests == 0 {
        say(
            "guard.min_requests",
            "a guard without requests would pass on no data".into(),
            "give at least 1; 20 is the default",
        );
    }
    for (i, point) in file.approve.iter().enumerate() {
        if file.approve[..i].contains(point) {
            say(
                &format!("approve[{i}]"),
                format!("`{}` stands here twice", point.name()),
                "remove one of them",
            );
        }
    }
    let loads = file.checks.load.iter().map(|test| test.span).fold(Span::default(), Span::plus);
    if file.deadline <= loads {
        say(
            "checks.load",
            format!("the deadline of {} leaves no time beside load tests of {loads} together", file.deadline),
            "give the whole release longer than its load tests",
        );
    }
    if let Strategy::Canary(canary) = &file.strategy
        && canary.bake == CanaryBake::Auto
        && !file.guard.compare
    {
        say(
            "guard.compare",
            "`bake: auto` waits for a proof by comparison, and `compare: false` turns it off".into(),
            "leave `compare` out, or give the bake a time such as `bake: 5m`",
        );
    }
    let bakes = file.strategy.bakes(file.platform.replicas()).plus(file.bake);
    if file.deadline <= bakes {
        say(
            "bake",
            format!("the deadline of {} leaves no time beside bakes of {bakes} together", file.deadline),
            "give the whole release longer than its bakes",
        );
    }
    for (i, command) in file.gate.iter().enumerate() {
        if command.trim().is_empty() || command.contains('\0') {
            say(
                &format!("gate[{i}]"),
                "the command is empty, or has a NUL character".into(),
                "give a shell command that exits 0 when the release may begin, such as `cargo test`",
            );
        }
    }
    if file.checks.within == Span::default() {
        say(
            "checks.within",
            "an instance needs some time to start".into(),
            "give it a while, such as `within: 60s`",
        );
    }
    match &file.platform {
        Platform::Local(local) => found.extend(local_mistakes(local)),
        Platform::Docker(docker) => {
            found.extend(super::docker::mistakes(docker));
            found.extend(super::hosts::misfits(file, docker));
        }
    }
    found.extend(super::instances::mistakes(&file.platform));
    found.extend(file.strategy.mistakes(file.platform.replicas()));
    let routes = file.route.iter().enumerate();
    found.extend(routes.flat_map(|(i, Route::Proxy(proxy))| asset_mistakes(i, proxy)));
    found.extend(super::protocols::mistakes(&file.route));
    found.extend(super::passing::mistakes(&file.route));
    found.extend(super::tls::mistakes(&file.route));
    found.extend(super::targets::mistakes(&file.route));
    found.extend(super::limits::mistakes(&file.route));
    found.extend(super::access_log::mistakes(&file.route));
    found.extend(super::metrics::mistakes(file));
    found.extend(super::routing::mistakes(&file.route));
    found.extend(super::processes::mistakes(&file.processes, file.platform.name()));
    found.extend(super::load::mistakes(&file.checks.load));
    found.extend(file.checks.health.iter().enumerate().flat_map(|(i, check)| check_mistakes(i, check)));
    found.extend(super::live::mistakes(&file.checks.live));
    found.extend(super::smoke::mistakes(&file.checks.smoke));
    found
}

fn asset_mistakes(i: usize, proxy: &ProxyRoute) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (j, prefix) in proxy.assets.iter().enumerate() {
        let mut say = |what: String, hint: &str| {
            found.push(Mistake { path: format!("route[{i}].proxy.assets[{j}]"), what, hint: hint.into() });
        };
        let plain = prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"%?#\\".contains(&byte));
        let folders = prefix.split('/').skip(1).all(|name| name != "." && name != "..");
        if prefix == "/" {
            // Each 404 of the whole service would be asked of every revision.
            say("assets below `/` would be every path".into(), "name their folder, such as `/assets/`");
        } else if !prefix.starts_with('/') || !prefix.ends_with('/') || !plain || !folders {
            say(
                format!("`{prefix}` is not a path prefix of assets"),
                "write it as it is asked for, from / to /, such as `/assets/`",
            );
        } else if proxy.assets[..j].contains(prefix) {
            say(format!("`{prefix}` stands here twice"), "remove one of them");
        }
    }
    found
}

fn local_mistakes(local: &LocalPlatform) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: &str, what: &str, hint: &str| {
        found.push(Mistake { path: format!("platform.local.{key}"), what: what.into(), hint: hint.into() });
    };
    if local.command.first().is_none_or(String::is_empty) {
        say("command", "the command is empty", "name the program and its arguments: `command: [./shop]`");
    }
    if local.artifact.as_deref() == Some("") {
        say("artifact", "the artifact is empty", "name a file or folder, or leave the key out");
    }
    found
}

fn check_mistakes(i: usize, check: &Check) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut say = |key: &str, what: String, hint: &str| {
        found.push(Mistake { path: format!("checks.health[{i}]{key}"), what, hint: hint.into() });
    };
    let kinds = [check.path.is_some(), check.tcp, check.grpc.is_some(), check.run.is_some()];
    let kinds = kinds.into_iter().filter(|kind| *kind).count();
    if kinds != 1 {
        say(
            "",
            "a health check is exactly one of `path`, `tcp: true`, `grpc` and `run`".into(),
            "such as `- path: /health`",
        );
    }
    if check.path.as_deref().is_some_and(|path| !path.starts_with('/') || path.contains(char::is_whitespace))
    {
        say(".path", "the path must begin with / and have no spaces".into(), "such as `path: /health`");
    }
    if check.path.is_none() && check.expect != super::Expect::default() {
        say(
            ".expect",
            "only a check with `path` has an answer to expect".into(),
            "remove `expect`, or use `path`",
        );
    }
    if check
        .grpc
        .as_deref()
        .is_some_and(|name| name.len() > 200 || name.contains(|c: char| !c.is_ascii_graphic()))
    {
        say(
            ".grpc",
            "this cannot name a service of gRPC".into(),
            "such as `grpc: shop.Catalog`, or `grpc: \"\"`",
        );
    }
    if check.through == Through::Route && (check.tcp || check.run.is_some()) {
        say(
            ".through",
            "only requests go through the route".into(),
            "use `path` or `grpc`, or ask the instance itself",
        );
    }
    if check.successes == 0 || check.successes > 1000 {
        say(".successes", format!("{} successes are not possible", check.successes), "give 1 to 1000");
    }
    if check.timeout == Span::default() || check.interval == Span::default() {
        say("", "timeout and interval need some time".into(), "such as `timeout: 2s, interval: 1s`");
    }
    found
}

/// Tells whether a service or an environment can be called this.
pub(super) fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=40).contains(&name.len()) && name.chars().all(word) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        })
}
