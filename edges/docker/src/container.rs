//! One container as the engine shows it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, HealthStatusEnum,
};
use cutover_keep::{disk, words};
use cutover_ports::InstanceState;

use crate::moment;
use crate::names::Labels;

/// So many restarts, the last after a short life, are a crash loop.
const CRASHES: u32 = 5;
/// The engine itself takes a container for steady that ran so long: it forgets its pauses.
const STEADY_S: i64 = 10;

/// A container of ours.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    /// The engine's id of it.
    pub(crate) id: String,
    pub(crate) labels: Labels,
    pub(crate) restarts: u32,
    pub(crate) memory: Option<u64>,
    state: ContainerState,
    published: Option<u16>,
    own: Option<IpAddr>,
}

impl Container {
    /// Reads what the engine shows; none where somebody else made it.
    pub(crate) fn read(seen: ContainerInspectResponse) -> Option<Container> {
        let config = seen.config?;
        let labels = Labels::read(&config.labels.unwrap_or_default())?;
        // Labels go into an image that a container is committed to, and on to what is run from it; its host name does not.
        if config.hostname.as_deref() != Some(labels.instance.as_str()) {
            return None;
        }
        let host = seen.host_config.unwrap_or_default();
        // What was asked for, which is also known while it does not run.
        let bindings = host.port_bindings.unwrap_or_default();
        let binding = bindings.into_values().flatten().flatten().next();
        let networks = seen.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let first = host.network_mode.as_ref().and_then(|name| networks.get(name));
        let first = first.or_else(|| networks.values().next());
        Some(Container {
            id: seen.id?,
            labels,
            restarts: seen.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            memory: host.memory.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0),
            state: seen.state.unwrap_or_default(),
            published: binding.and_then(|binding| binding.host_port?.parse().ok()),
            own: first.and_then(|network| network.ip_address.as_ref()?.parse().ok()),
        })
    }

    /// Returns where the proxy reaches it; without an address of its own a place that is none. Only what is
    /// [running](Self::instance_state) is reached.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let port = self.labels.port?;
        Some(match self.published {
            Some(host) => SocketAddr::from((Ipv4Addr::LOCALHOST, host)),
            None => SocketAddr::from((self.own.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port)),
        })
    }

    /// Returns its own address in the first of its networks, while it runs.
    pub(crate) fn own_address(&self) -> Option<IpAddr> {
        self.own
    }

    /// Returns the loopback port that it is published on, also while it does not run.
    pub(crate) fn published(&self) -> Option<u16> {
        self.published
    }

    /// Returns its first process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0)
    }

    fn status(&self) -> Status {
        self.state.status.unwrap_or(Status::EMPTY)
    }

    /// Tells whether it was made and never started, and nothing says that it could not be.
    pub(crate) fn is_new(&self) -> bool {
        self.status() == Status::CREATED && self.error().is_empty()
    }

    /// Tells whether its processes run.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.status(), Status::RUNNING | Status::PAUSED)
    }

    /// Tells whether it is reached by its own address, and has none: whatever listens on this host's port would get its
    /// requests.
    fn is_cut_off(&self) -> bool {
        self.labels.port.is_some() && self.published.is_none() && self.own.is_none()
    }

    /// Tells whether somebody paused it.
    pub(crate) fn is_paused(&self) -> bool {
        self.status() == Status::PAUSED
    }

    /// Tells whether it does not run, and the engine will not start it by itself.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self.status(), Status::CREATED | Status::EXITED)
    }

    /// Tells whether the engine is throwing it away.
    pub(crate) fn is_going(&self) -> bool {
        matches!(self.status(), Status::REMOVING | Status::DEAD)
    }

    /// Returns how it is, given that it is wanted.
    pub(crate) fn instance_state(&self) -> InstanceState {
        match self.status() {
            Status::RUNNING | Status::PAUSED if self.is_cut_off() => InstanceState::Restarting,
            Status::RUNNING | Status::PAUSED => InstanceState::Running,
            Status::REMOVING | Status::DEAD | Status::STOPPING => InstanceState::Stopping,
            _ if self.restarts >= CRASHES && self.life_s().is_none_or(|life| life < STEADY_S) => {
                InstanceState::CrashLoop
            }
            _ => InstanceState::Restarting,
        }
    }

    /// Returns why it does not run; empty while it does.
    pub(crate) fn why(&self) -> String {
        match self.status() {
            Status::RUNNING | Status::PAUSED if self.is_cut_off() => {
                "it runs, and has no address in its first network: docker network connect gives it one".into()
            }
            Status::RUNNING | Status::PAUSED => String::new(),
            _ if !self.error().is_empty() => format!("it could not be started: {}", self.error()),
            _ => ending(self.state.exit_code.unwrap_or(0), self.state.oom_killed == Some(true), self.memory),
        }
    }

    /// Returns what its image's own health check says; none where it has none.
    pub(crate) fn health(&self) -> Option<(HealthStatusEnum, String)> {
        let health = self.state.health.as_ref()?;
        let status = health.status.filter(|status| {
            matches!(
                status,
                HealthStatusEnum::STARTING | HealthStatusEnum::HEALTHY | HealthStatusEnum::UNHEALTHY
            )
        })?;
        let last = health.log.as_ref().and_then(|log| log.last()?.output.clone()).unwrap_or_default();
        Some((status, last.lines().last().unwrap_or_default().trim().to_string()))
    }

    fn error(&self) -> &str {
        self.state.error.as_deref().unwrap_or_default().trim()
    }

    fn life_s(&self) -> Option<i64> {
        let at = |text: &Option<String>| moment::seconds(text.as_deref()?);
        Some(at(&self.state.finished_at)? - at(&self.state.started_at)?)
    }
}

/// Says how a container ended.
pub(crate) fn ending(code: i64, out_of_memory: bool, memory: Option<u64>) -> String {
    match (out_of_memory, memory) {
        (true, Some(limit)) => {
            let limit = disk::human(limit);
            return format!("out of memory: it went beyond its limit of {limit} (platform.docker.memory)");
        }
        (true, None) => return "out of memory: this machine had none left".into(),
        (false, _) => {}
    }
    match code {
        125 => "exit status 125: the engine could not run it".into(),
        126 => "exit status 126: its program may not be executed".into(),
        127 => "exit status 127: its program was not found in the image".into(),
        129..=159 => words::killed_by(i32::try_from(code - 128).unwrap_or(0)),
        _ => format!("exit status {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_said_in_words() {
        assert_eq!(ending(3, false, None), "exit status 3");
        assert_eq!(ending(137, false, Some(1)), "killed by signal 9 (KILL)");
        assert_eq!(
            ending(137, true, Some(64 << 20)),
            "out of memory: it went beyond its limit of 64Mi (platform.docker.memory)"
        );
        assert_eq!(ending(137, true, None), "out of memory: this machine had none left");
        assert!(ending(127, false, None).contains("not found"));
    }
}
