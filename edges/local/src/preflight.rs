//! Whether a candidate fits beside what runs: memory, disk, descriptors, ports, user, program.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cutover_core::{Fault, RevisionId, file};
use cutover_ports::RevisionSpec;
use rustix::process::{Resource, getrlimit};

use crate::disk::human;
use crate::launch;
use crate::process;
use crate::store::{self, Store};
use crate::tree::Tree;
use crate::user::Runner;

/// Descriptors that the server needs besides those per instance.
const SPARE_DESCRIPTORS: u64 = 64;
const DESCRIPTORS_PER_INSTANCE: u64 = 8;

/// What runs of the service now.
pub(crate) struct Running {
    /// Routed instances of the candidate, which need nothing more.
    pub(crate) of_candidate: u32,
    /// The same of what it runs beside them.
    pub(crate) beside: u32,
    /// The first processes of the service's instances with their ids, to measure.
    pub(crate) processes: Vec<(cutover_core::InstanceId, crate::record::ProcessRecord)>,
}

/// Looks at everything that would keep the candidate from starting. Returns a line for people.
pub(crate) fn look(
    store: &Store,
    spec: &RevisionSpec,
    candidate: &RevisionId,
    running: &Running,
) -> Result<String, Fault> {
    let local = store::local(spec)?;
    let stored = store.manifest(candidate)?;
    // What is stored runs from its copy, whatever became of the artifact since.
    let (workdir, artifact) = match &stored {
        Some(manifest) => (store.workdir(candidate, manifest), None),
        None => (spec.base.clone(), store.artifact(spec)?),
    };
    let commands = spec.processes.values().map(|process| &process.command);
    for command in [&local.command].into_iter().chain(commands) {
        program(local, command, spec, &workdir, stored.is_some())?;
    }
    entry(local, if artifact.is_some() { store.folder() } else { &workdir })?;
    let copy_bytes = artifact.as_ref().map_or(0, Tree::bytes);
    let routed = local.replicas.saturating_sub(running.of_candidate);
    let beside: u32 = spec.processes.values().map(|process| process.replicas).sum();
    let more = routed.saturating_add(beside.saturating_sub(running.beside));
    store.room_for(copy_bytes.saturating_add(u64::from(more).saturating_mul(local.log_size.bytes())))?;
    descriptors(more)?;
    ports(routed)?;
    memory(local, more, running)
}

fn program(
    local: &file::LocalPlatform,
    command: &[String],
    spec: &RevisionSpec,
    workdir: &Path,
    stored: bool,
) -> Result<(), Fault> {
    let runner = local.user.as_deref().map(Runner::find).transpose()?;
    let program =
        command.first().ok_or_else(|| Fault::configuration("find the program: its command is empty"))?;
    if program.contains("$PORT") || program.contains("${PORT}") {
        return Ok(());
    }
    let folder = match &local.artifact {
        Some(artifact) if !stored => {
            let artifact = spec.base.join(artifact);
            if artifact.is_dir() { artifact } else { artifact.parent().unwrap_or(&spec.base).to_path_buf() }
        }
        _ => workdir.to_path_buf(),
    };
    let path = launch::find_program(program, &folder, local.env.get("PATH").map(String::as_str)).ok_or_else(
        || {
            let place = if program.contains('/') { folder.display().to_string() } else { "PATH".into() };
            Fault::configuration(format!("find program {program}: not in {place}"))
                .hint("A program of the artifact is written with its folder: ./name.")
        },
    )?;
    // The copy of a file holds this file alone: a neighbour would be missing there.
    if let (Some(artifact), false) = (&local.artifact, stored)
        && program.contains('/')
        && !Path::new(program).is_absolute()
        && spec.base.join(artifact).is_file()
        && path.canonicalize().ok() != spec.base.join(artifact).canonicalize().ok()
    {
        return Err(Fault::configuration(format!(
            "find program {program}: it is not part of artifact {artifact}"
        ))
        .hint("Name the folder that holds all the service needs as platform.local.artifact."));
    }
    let metadata = fs::metadata(&path).map_err(|error| crate::disk::fault("read program", &path, &error))?;
    let may = runner.as_ref().map_or(metadata.mode() & 0o111 != 0, |runner| runner.may_execute(&metadata));
    if !may {
        let who = runner.map(|runner| format!(" by user \"{}\"", runner.name)).unwrap_or_default();
        return Err(Fault::configuration(format!("run program {}: not executable{who}", path.display()))
            .hint(format!("chmod +x {}", path.display())));
    }
    Ok(())
}

fn entry(local: &file::LocalPlatform, workdir: &Path) -> Result<(), Fault> {
    let Some(runner) = local.user.as_deref().map(Runner::find).transpose()? else { return Ok(()) };
    let Some(shut) = runner.shut_out(workdir) else { return Ok(()) };
    let what = format!("run as user \"{}\": it may not enter {}", runner.name, shut.display());
    Err(Fault::configuration(what).hint("Open the folder to it, or keep the state elsewhere: --state DIR."))
}

fn descriptors(instances: u32) -> Result<(), Fault> {
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    getrlimit(Resource::Nofile).current.map_or(Ok(()), |limit| descriptors_within(limit, open, instances))
}

fn descriptors_within(limit: u64, open: u64, instances: u32) -> Result<(), Fault> {
    let needed = open + u64::from(instances) * DESCRIPTORS_PER_INSTANCE + SPARE_DESCRIPTORS;
    if needed <= limit {
        return Ok(());
    }
    Err(Fault::platform(format!(
        "find room for open files: {needed} needed ({open} open now), the limit is {limit}"
    ))
    .hint("Raise the limit for cutover server: ulimit -n, or LimitNOFILE= in its unit."))
}

fn ports(instances: u32) -> Result<(), Fault> {
    let mut held = Vec::new();
    for _ in 0..instances {
        match std::net::TcpListener::bind(("127.0.0.1", 0)) {
            Ok(socket) => held.push(socket),
            Err(error) => {
                let what = format!("find {instances} free loopback ports: only {} are: {error}", held.len());
                return Err(
                    Fault::platform(what).hint("Close connections, or widen net.ipv4.ip_local_port_range.")
                );
            }
        }
    }
    Ok(())
}

fn memory(local: &file::LocalPlatform, instances: u32, running: &Running) -> Result<String, Fault> {
    if instances == 0 {
        return Ok("its instances run already, warm".into());
    }
    let available = cutover_keep::memory::available()?;
    let many = |count: u32| format!("{count} instance{}", if count == 1 { "" } else { "s" });
    let (each, how) = match local.memory {
        Some(size) => (size.bytes(), ""),
        None => (running.processes.iter().map(resident_bytes).max().unwrap_or(0), " (by what runs now)"),
    };
    if each == 0 {
        return Ok(format!("{}, memory not declared; {} available", many(instances), human(available)));
    }
    let needed = each.saturating_mul(u64::from(instances));
    let need = if instances == 1 { "needs" } else { "need" };
    if needed > available {
        let what = format!(
            "find memory: {} {need} {}{how}, {} available",
            many(instances),
            human(needed),
            human(available)
        );
        return Err(Fault::platform(what)
            .hint("Both revisions run at once during a release; free memory, or lower replicas."));
    }
    Ok(format!("{} {need} {}{how}, {} available", many(instances), human(needed), human(available)))
}

fn resident_bytes((id, leader): &(cutover_core::InstanceId, crate::record::ProcessRecord)) -> u64 {
    let pages: u64 = process::members(id, Some(leader)).iter().map(|seen| seen.resident_pages).sum();
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_low_a_limit_of_open_files_is_told_with_numbers() {
        assert_eq!(descriptors_within(1024, 30, 4), Ok(()));
        let fault = descriptors_within(100, 30, 4).unwrap_err();
        assert_eq!(fault.what, "find room for open files: 126 needed (30 open now), the limit is 100");
    }
}
