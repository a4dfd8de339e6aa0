//! What makes a revision another one.

use std::collections::BTreeMap;
use std::path::Path;

use cutover_core::{Cores, Fault, ProcessName, ServiceName, Size, file};
use cutover_ports::RevisionSpec;
use serde::Serialize;

use crate::image::Pinned;

/// Everything but the secrets' values. Limits are part of it: they decide whether an instance lives, so a new one is checked
/// beside the old one, and taken back with it. How an image is pulled or pushed and how much log is kept are not.
#[derive(Serialize)]
struct Content<'a> {
    kind: &'static str,
    service: &'a ServiceName,
    image: &'a str,
    command: &'a [String],
    entrypoint: &'a [String],
    port: Option<u16>,
    reach: file::DockerReach,
    env: &'a BTreeMap<String, String>,
    settings: &'a str,
    secrets: Vec<&'a String>,
    user: &'a Option<String>,
    volumes: &'a [String],
    /// Where volumes with a relative path begin.
    base: Option<&'a Path>,
    networks: &'a [String],
    stop_signal: Option<file::StopSignal>,
    stop_grace_ms: u64,
    memory: Option<Size>,
    cpu: Option<Cores>,
    pids: Option<u32>,
    processes: BTreeMap<&'a ProcessName, ProcessContent<'a>>,
}

/// What makes a process beside the routed one another one. Whether revisions of it may overlap is the release's matter.
#[derive(Serialize)]
struct ProcessContent<'a> {
    command: &'a [String],
    stop_grace_ms: u64,
}

/// Returns what the revision is named by, as text.
pub(crate) fn of(
    spec: &RevisionSpec,
    docker: &file::DockerPlatform,
    pinned: &Pinned,
) -> Result<String, Fault> {
    if !spec.base.is_absolute() {
        // The next server may start in another folder.
        let what = format!("name a revision of {}: the folder is not absolute", spec.base.display());
        return Err(Fault::cutover(what).fatal());
    }
    let processes = spec.processes.iter().map(|(name, process)| {
        let stop_grace_ms = process.stop_grace.unwrap_or(docker.stop_grace).ms();
        (name, ProcessContent { command: &process.command, stop_grace_ms })
    });
    let mut secrets: Vec<&String> = docker.secrets.iter().collect();
    secrets.sort();
    let relative = docker.volumes.iter().any(|volume| volume.starts_with('.'));
    let content = Content {
        kind: "cutover docker revision 1",
        service: &spec.service,
        image: pinned.content(),
        command: &docker.command,
        entrypoint: &docker.entrypoint,
        port: docker.port,
        reach: docker.reach,
        env: &docker.env,
        settings: &spec.settings,
        secrets,
        user: &docker.user,
        volumes: &docker.volumes,
        base: relative.then_some(spec.base.as_path()),
        networks: &docker.networks,
        stop_signal: docker.stop_signal,
        stop_grace_ms: docker.stop_grace.ms(),
        memory: docker.memory,
        cpu: docker.cpu,
        pids: docker.pids,
        processes: processes.collect(),
    };
    serde_json::to_string(&content)
        .map_err(|error| Fault::cutover(format!("describe a revision: {error}")).fatal())
}
