//! What a container is made from.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use cutover_core::{Fault, Fence, InstanceId, file};
use cutover_keep::{Values, disk, words};
use cutover_ports::Secret;
use sha2::{Digest, Sha256};

use crate::names::{Labels, Place};
use crate::revisions::Manifest;

/// Whose container it will be.
pub(crate) struct For<'a> {
    pub(crate) owner: &'a str,
    pub(crate) place: &'a Place,
    pub(crate) instance: InstanceId,
    pub(crate) fence: Fence,
    /// The loopback port that it is published on, where it is.
    pub(crate) published: Option<u16>,
}

/// Returns what the engine makes the container from.
pub(crate) fn of(
    manifest: &Manifest,
    whose: &For<'_>,
    secrets: &Values,
) -> Result<ContainerCreateBody, Fault> {
    let (docker, beside) = (&manifest.platform, whose.place.beside.as_ref());
    let port = beside.is_none().then_some(manifest.port);
    let labels = Labels {
        owner: whose.owner.into(),
        service: manifest.service.clone(),
        place: whose.place.clone(),
        instance: whose.instance.clone(),
        spec: spec_hash(manifest)?,
        port,
    };
    let command = match port {
        Some(port) => {
            let port = port.to_string();
            manifest.command(beside)?.iter().map(|word| words::with_port(word, &port)).collect()
        }
        None => manifest.command(beside)?.to_vec(),
    };
    let published = port.zip(whose.published);
    Ok(ContainerCreateBody {
        image: Some(manifest.image.clone()),
        hostname: Some(whose.instance.to_string()),
        user: docker.user.clone(),
        env: Some(environment(manifest, whose, port, secrets)),
        cmd: (!command.is_empty()).then_some(command),
        entrypoint: (!docker.entrypoint.is_empty()).then(|| docker.entrypoint.clone()),
        // That of an image asks the routed process, which a process beside it is not.
        healthcheck: beside
            .map(|_| HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        exposed_ports: published.map(|(port, _)| vec![format!("{port}/tcp")]),
        labels: Some(labels.write(whose.fence)),
        stop_signal: docker.stop_signal.map(|signal| signal_name(signal).into()),
        stop_timeout: Some(seconds(manifest.stop_grace(beside).ms())),
        host_config: Some(host(manifest, published)),
        networking_config: docker.networks.first().map(|name| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(name.clone(), EndpointSettings::default())])),
        }),
        ..ContainerCreateBody::default()
    })
}

/// Returns the hash of what containers of a revision are made from, so far as the revision's name does not say it.
pub(crate) fn spec_hash(manifest: &Manifest) -> Result<String, Fault> {
    let text =
        serde_json::to_string(&(&manifest.image, manifest.port, &manifest.platform, &manifest.processes))
            .map_err(|error| Fault::cutover(format!("describe a container: {error}")).fatal())?;
    Ok(disk::hex(&Sha256::digest(text))[..16].into())
}

/// Returns whole seconds, at least one: the engine knows no less, and takes zero for a kill.
pub(crate) fn seconds(ms: u64) -> i64 {
    i64::try_from(ms.div_ceil(1000).max(1)).unwrap_or(i64::MAX)
}

fn environment(manifest: &Manifest, whose: &For<'_>, port: Option<u16>, secrets: &Values) -> Vec<String> {
    let own = [
        ("CUTOVER_SERVICE", manifest.service.to_string()),
        ("CUTOVER_REVISION", whose.place.revision.to_string()),
        ("CUTOVER_INSTANCE", whose.instance.to_string()),
    ];
    let port = port.map(|port| ("PORT", port.to_string()));
    let own = own.into_iter().chain(port).map(|(key, value)| format!("{key}={value}"));
    let plain = manifest.platform.env.iter().map(|(key, value)| format!("{key}={value}"));
    let secret = |(key, value): (&String, &Secret)| format!("{key}={}", value.expose());
    plain.chain(secrets.iter().map(secret)).chain(own).collect()
}

fn host(manifest: &Manifest, published: Option<(u16, u16)>) -> HostConfig {
    let docker = &manifest.platform;
    let memory = docker.memory.map(|memory| i64::try_from(memory.bytes()).unwrap_or(i64::MAX));
    // Two files of half the size each.
    let half = (docker.log_size.bytes() / 2).to_string();
    HostConfig {
        memory,
        // The same with swap as without: none of it.
        memory_swap: memory,
        nano_cpus: docker.cpu.map(|cpu| i64::from(cpu.milli()) * 1_000_000),
        pids_limit: docker.pids.map(i64::from),
        mounts: Some(docker.volumes.iter().filter_map(|text| mount(text, &manifest.base)).collect()),
        network_mode: docker.networks.first().cloned(),
        port_bindings: published.map(|(port, host)| {
            let binding =
                PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(host.to_string()) };
            HashMap::from([(format!("{port}/tcp"), Some(vec![binding]))])
        }),
        // Also after a reboot, and with no server to do it.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([("max-size".into(), half), ("max-file".into(), "2".into())])),
        }),
        security_opt: Some(vec!["no-new-privileges".into()]),
        ..HostConfig::default()
    }
}

fn mount(text: &str, base: &Path) -> Option<Mount> {
    let mut parts = text.split(':');
    let (from, to, mode) = (parts.next()?, parts.next()?, parts.next());
    let path = from.starts_with(['/', '.']);
    let source = if path { base.join(from).to_string_lossy().into_owned() } else { from.into() };
    Some(Mount {
        source: Some(source),
        target: Some(to.into()),
        typ: Some(if path { MountType::BIND } else { MountType::VOLUME }),
        read_only: Some(mode == Some("ro")),
        ..Mount::default()
    })
}

/// Returns the folders of this machine that containers of the section get to see.
pub(crate) fn folders(docker: &file::DockerPlatform, base: &Path) -> Vec<std::path::PathBuf> {
    let sources = docker.volumes.iter().filter_map(|text| text.split(':').next());
    sources.filter(|from| from.starts_with(['/', '.'])).map(|from| base.join(from)).collect()
}

fn signal_name(signal: file::StopSignal) -> &'static str {
    match signal {
        file::StopSignal::Term => "SIGTERM",
        file::StopSignal::Int => "SIGINT",
        file::StopSignal::Quit => "SIGQUIT",
        file::StopSignal::Hup => "SIGHUP",
        file::StopSignal::Usr1 => "SIGUSR1",
        file::StopSignal::Usr2 => "SIGUSR2",
        file::StopSignal::Winch => "SIGWINCH",
    }
}
