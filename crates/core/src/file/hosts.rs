//! The hosts of a service: engines that each run all of it, behind a proxy of their own.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::docker::DockerPlatform;
use super::tree::short;
use super::validate::Mistake;
use super::{ReleaseFile, Strategy, Through};

/// Where the engine of a host listens if nothing else is said.
const ENGINE: &str = "/var/run/docker.sock";
/// The state folder of the proxy of another host if nothing else is said.
pub const HOST_STATE: &str = "/var/lib/cutover";
/// A proxy per host is asked by every change of weights: beyond that it is a cluster's work.
const MOST: usize = 32;

/// One host, as `hosts` names it: `unix:///run/docker.sock` or `ssh://USER@HOST:PORT`, with `?KEY=VALUE&…` behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Host {
    /// What it is called in texts and in the names of its instances: `name`, else its host name, else `here`.
    pub name: String,
    /// How it is reached; none on this machine.
    pub ssh: Option<Destination>,
    /// The engine's socket on that host: `docker`, or the path of a `unix://`.
    pub engine: String,
    /// The state folder of its proxy on that host: `state`. Without it the server's own on this machine, else
    /// [`HOST_STATE`].
    pub state: Option<String>,
    /// The address at which its proxy listens in place of the one of each route: `listen`.
    pub listen: Option<IpAddr>,
}

/// Where `ssh` connects to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Destination {
    /// The user; without it that of ssh's own configuration.
    pub user: Option<String>,
    /// The host name or address, or a name of ssh's own configuration.
    pub host: String,
    /// The port; without it that of ssh's own configuration.
    pub port: Option<u16>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user}@{}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// What becomes of a release under way when one of its hosts is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LostHost {
    /// Not decided yet, it goes back on all of them.
    #[default]
    Abort,
    /// It waits where it is until the host is back or its deadline is over. The lost host goes back by itself meanwhile, and
    /// tells so when it is back.
    Wait,
}

impl LostHost {
    /// Tells whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == LostHost::default()
    }

    /// Returns the rule as a sentence for the plan.
    pub fn rule(self) -> &'static str {
        let (abort, wait) = (
            "a host that is lost before the release is decided takes it back on all hosts; one that is lost after waits for its \
             rest, and alerts",
            "while a host is lost the release waits, until its deadline; that host goes back by itself, and takes all back when \
             it is there again",
        );
        match self {
            LostHost::Abort => abort,
            LostHost::Wait => wait,
        }
    }
}

impl Host {
    /// Reads a host as the release file writes it.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn read(text: &str) -> Result<Host, (String, &'static str)> {
        const HINT: &str =
            "write unix:///var/run/docker.sock, or ssh://USER@HOST, and ?KEY=VALUE behind it where needed";
        let wrong = |what: &str| Err((format!("`{}` is no host: {what}", short(text)), HINT));
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return wrong("it has blanks");
        }
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let (ssh, engine, own) = if let Some(path) = place.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return wrong("its socket is no absolute path");
            }
            (None, path.to_owned(), "here".to_owned())
        } else if let Some(to) = place.strip_prefix("ssh://") {
            let Some(to) = destination(to) else { return wrong("ssh needs USER@HOST or USER@HOST:PORT") };
            let own = to.host.clone();
            (Some(to), ENGINE.to_owned(), own)
        } else {
            return wrong("it begins neither with unix:// nor with ssh://");
        };
        let mut host = Host { name: own, ssh, engine, state: None, listen: None };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "name" => host.name = value.into(),
                "docker" if host.ssh.is_some() && is_path(value) => host.engine = value.into(),
                "state" if is_path(value) => host.state = Some(value.into()),
                "listen" => match value.parse() {
                    Ok(address) => host.listen = Some(address),
                    Err(_) => return wrong("`listen` is no address"),
                },
                "docker" | "state" => return wrong("`docker` (of ssh://) and `state` are absolute paths"),
                _ => return wrong("behind ? there may be name, state, listen, and docker"),
            }
        }
        if !is_name(&host.name) {
            return wrong("its name is no word of letters, digits, dots and dashes");
        }
        Ok(host)
    }
}

fn destination(text: &str) -> Option<Destination> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user.to_owned()), rest),
        None => (None, text),
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
        None => (rest, None),
    };
    // A leading dash would be an option of ssh.
    let word = |text: &str| is_name(text);
    (word(host) && user.as_deref().is_none_or(word)).then(|| Destination { user, host: host.into(), port })
}

fn is_path(text: &str) -> bool {
    // A colon would end the socket's path in an argument of ssh.
    text.starts_with('/') && !text.contains(':')
}

fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= 100 && text.chars().all(plain)
}

impl DockerPlatform {
    /// Returns its hosts; none where it runs on the engine of this machine alone.
    pub fn hosts(&self) -> Vec<Host> {
        self.hosts.iter().filter_map(|text| Host::read(text).ok()).collect()
    }

    /// Returns how many hosts run it.
    pub(super) fn each(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX).max(1)
    }
}

pub(super) fn mistakes(docker: &DockerPlatform) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let path = |i: usize| format!("platform.docker.hosts[{i}]");
    for (i, text) in docker.hosts.iter().enumerate() {
        match Host::read(text) {
            Err((what, hint)) => found.push(Mistake { path: path(i), what, hint: hint.into() }),
            Ok(host) if names.contains(&host.name) => found.push(Mistake {
                path: path(i),
                what: format!("two hosts are called {}", host.name),
                hint: "give one of them another name: ?name=b".into(),
            }),
            Ok(host) => names.push(host.name),
        }
    }
    if docker.hosts.len() > MOST {
        let what = format!("{} hosts are more than {MOST}", docker.hosts.len());
        found.push(Mistake {
            path: path(MOST),
            what,
            hint: "release to parts of them one after another".into(),
        });
    }
    if !docker.lost_host.is_default() && docker.hosts.is_empty() {
        found.push(Mistake {
            path: "platform.docker.lost_host".into(),
            what: "there are no `hosts` to lose".into(),
            hint: "leave it out, or name the hosts".into(),
        });
    }
    found
}

/// Finds what is not there yet over several hosts.
pub(super) fn misfits(file: &ReleaseFile, docker: &DockerPlatform) -> Vec<Mistake> {
    let mut found = Vec::new();
    if docker.hosts.is_empty() {
        return found;
    }
    if matches!(file.strategy, Strategy::Rolling(_)) {
        found.push(Mistake {
            path: "strategy.rolling".into(),
            what:
                "several hosts cannot be released in batches: a batch would leave hosts without an instance"
                    .into(),
            hint: "use `blue_green: {}` or `canary`, which run both revisions on each host".into(),
        });
    }
    for (i, check) in file.checks.health.iter().enumerate() {
        if check.through == Through::Route {
            found.push(Mistake {
                path: format!("checks.health[{i}].through"),
                what: "the routes of several hosts cannot be asked from here".into(),
                hint: "leave it out: the instances of all hosts are asked themselves".into(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_with_what_stands_behind_them() {
        let host = Host::read("ssh://deploy@b.example:2222?state=/srv/c&docker=/run/d.sock&listen=10.0.0.2")
            .unwrap();
        let ssh = host.ssh.clone().unwrap();
        assert_eq!((ssh.to_string().as_str(), ssh.port), ("deploy@b.example", Some(2222)));
        assert_eq!(
            (host.name.as_str(), host.engine.as_str(), host.state.as_deref()),
            ("b.example", "/run/d.sock", Some("/srv/c"))
        );
        assert_eq!(host.listen, Some([10, 0, 0, 2].into()));
        let host = Host::read("unix:///var/run/docker.sock").unwrap();
        assert_eq!((host.name.as_str(), host.ssh, host.state), ("here", None, None));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            "b.example",
            "tcp://b:2375",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://a@b:0",
            "ssh://a b",
            "unix://x",
            "ssh://a@-b",
            "ssh://b?state=x",
            "ssh://b?listen=b",
            "ssh://b?user=a",
            "ssh://b?name=a/b",
            "unix:///x?docker=/y",
            "ssh://b?docker=/a:b",
        ] {
            assert!(Host::read(bad).is_err(), "{bad}");
        }
    }
}
