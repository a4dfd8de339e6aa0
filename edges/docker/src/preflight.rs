//! Whether a candidate fits beside what runs: the engine, names, networks, folders, disk, memory.

use std::path::Path;

use bollard::errors::Error;
use bollard::query_parameters::InspectNetworkOptions;
use cutover_core::{Fault, ProcessName, RevisionId, file};
use cutover_keep::{disk, memory};
use cutover_ports::RevisionSpec;

use crate::body;
use crate::container::Container;
use crate::containers::Found;
use crate::names::Place;
use crate::platform::Shared;
use crate::revisions::docker;

/// Looks at everything that would keep the candidate from starting. Returns a line for people.
pub(crate) async fn look(
    shared: &Shared,
    spec: &RevisionSpec,
    candidate: &RevisionId,
) -> Result<String, Fault> {
    let docker = docker(spec)?;
    let engine = &shared.containers.engine;
    let info = engine.docker().await?.info().await;
    let info = info.map_err(|error| engine.fault("ask the engine how it is", &error))?;
    let elsewhere = shared.options.elsewhere;
    let found = shared.containers.of(&spec.service).await?;
    let places = places(spec, docker, candidate);
    names(shared, spec, &places).await?;
    let runs = |place: &Place| found.iter().any(|one| one.runs() && one.labels.place == *place);
    let more = places.iter().filter(|place| !runs(place)).count();
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    // To go back to what still runs takes nothing.
    if more > 0 {
        to_start(shared, spec, docker).await?;
    }
    if let Some(root) = info.docker_root_dir.as_ref().filter(|_| !elsewhere && more > 0) {
        room(shared, Path::new(root), u64::from(more).saturating_mul(docker.log_size.bytes()))?;
    }
    let version = info.server_version.unwrap_or_else(|| "of unknown version".into());
    let fit = if elsewhere {
        format!("{more} containers, memory not looked at")
    } else {
        fits(docker, more, &found)?
    };
    Ok(format!("{fit}; engine {version}"))
}

/// Looks at what containers need that are to be started.
async fn to_start(shared: &Shared, spec: &RevisionSpec, docker: &file::DockerPlatform) -> Result<(), Fault> {
    let folders = body::folders(docker, &spec.base);
    if let Some(missing) = folders.iter().find(|folder| !shared.options.elsewhere && !folder.exists()) {
        return Err(Fault::configuration(format!("mount {}: it is not there", missing.display())).hint(
            "Make it, or correct platform.docker.volumes; the engine would make an empty folder of root's.",
        ));
    }
    networks(shared, docker).await
}

/// Returns where the candidate's containers will be.
fn places(spec: &RevisionSpec, docker: &file::DockerPlatform, candidate: &RevisionId) -> Vec<Place> {
    let of = |beside: Option<&ProcessName>, count: u32| -> Vec<Place> {
        (1..=count)
            .map(|number| Place { revision: candidate.clone(), beside: beside.cloned(), number })
            .collect()
    };
    let mut places = of(None, docker.replicas);
    places.extend(spec.processes.iter().flat_map(|(name, process)| of(Some(name), process.replicas)));
    places
}

async fn networks(shared: &Shared, docker: &file::DockerPlatform) -> Result<(), Fault> {
    let engine = &shared.containers.engine;
    for network in &docker.networks {
        match engine.docker().await?.inspect_network(network, None::<InspectNetworkOptions>).await {
            Ok(_) => {}
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
                return Err(Fault::configuration(format!(
                    "join network {network}: the engine has none of that name"
                ))
                .hint(format!("Make it: docker network create {network}")));
            }
            Err(error) => return Err(engine.fault(format!("look at network {network}"), &error)),
        }
    }
    Ok(())
}

async fn names(shared: &Shared, spec: &RevisionSpec, places: &[Place]) -> Result<(), Fault> {
    for place in places {
        let name = place.container(&spec.service);
        if let Found::Foreign = shared.containers.find(&name).await? {
            return Err(crate::settle::foreign(&name));
        }
    }
    Ok(())
}

fn room(shared: &Shared, root: &Path, logs: u64) -> Result<(), Fault> {
    // Where the engine has a machine of its own, its folder is not ours to look at.
    if !root.exists() {
        return Ok(());
    }
    let (free, reserve) = (disk::free_bytes(root)?, shared.options.reserve_bytes);
    if free >= logs.saturating_add(reserve) {
        return Ok(());
    }
    Err(Fault::platform(format!(
        "find disk space in {}, where the engine keeps its data: {} needed for logs and {} kept free, {} available",
        root.display(),
        disk::human(logs),
        disk::human(reserve),
        disk::human(free)
    ))
    .hint("Free some: docker system df shows what takes it, docker image prune removes images nobody names."))
}

fn fits(docker: &file::DockerPlatform, more: u32, found: &[Container]) -> Result<String, Fault> {
    if more == 0 && !found.is_empty() {
        return Ok("its containers run already, warm".into());
    }
    let many = format!("{more} container{}", if more == 1 { "" } else { "s" });
    let available = memory::available()?;
    let Some(each) = docker.memory else {
        return Ok(format!("{many}, memory not declared; {} available", disk::human(available)));
    };
    let needed = each.bytes().saturating_mul(u64::from(more));
    let need = if more == 1 { "needs" } else { "need" };
    let (needed_text, available_text) = (disk::human(needed), disk::human(available));
    if needed > available {
        let what = format!("find memory: {many} {need} {needed_text}, {available_text} available");
        return Err(Fault::platform(what)
            .hint("Both revisions run at once during a release; free memory, or lower replicas."));
    }
    Ok(format!("{many} {need} {needed_text}, {available_text} available"))
}
