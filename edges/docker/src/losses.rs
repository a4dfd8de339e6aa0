//! What this platform cannot do without a gap for a revision, in sentences for the plan.

use bollard::models::SystemInfo;
use cutover_core::{Fault, file};

use crate::Engine;

/// Names the losses of containers of the section in this engine.
pub(crate) async fn of(engine: &Engine, docker: &file::DockerPlatform) -> Result<Vec<String>, Fault> {
    let info = engine.docker().await?.info().await;
    let info = info.map_err(|error| engine.fault("ask the engine how it is", &error))?;
    let mut losses = limits(docker, &info);
    if info.live_restore_enabled == Some(false) {
        losses.push(
            "a restart or an upgrade of the engine stops all containers for a moment: \"live-restore\" is off in its daemon.json"
                .into(),
        );
    }
    let shared: Vec<&str> = docker
        .volumes
        .iter()
        .filter(|volume| !volume.ends_with(":ro"))
        .filter_map(|volume| volume.split(':').next())
        .collect();
    if !shared.is_empty() {
        losses.push(format!(
            "both revisions write to {} at once while they run beside each other; taking the candidate back does not take back what it wrote",
            shared.join(", ")
        ));
    }
    Ok(losses)
}

fn limits(docker: &file::DockerPlatform, info: &SystemInfo) -> Vec<String> {
    let asked = [
        ("memory", docker.memory.map(|memory| memory.to_string()), info.memory_limit),
        ("cpu", docker.cpu.map(|cpu| cpu.to_string()), info.cpu_cfs_quota),
        ("pids", docker.pids.map(|pids| pids.to_string()), info.pids_limit),
    ];
    let mut losses = Vec::new();
    let mut not = Vec::new();
    for (name, value, can) in asked {
        match (value, can) {
            (Some(value), Some(false)) => not.push(format!("{name}: {value}")),
            (Some(value), _) if name == "memory" => losses
                .push(format!("an instance that goes beyond {value} of memory is killed and started again")),
            _ => {}
        }
    }
    if !not.is_empty() {
        losses.push(format!(
            "not limited on this machine: {}; an instance that takes more takes it from its neighbours (the engine cannot, by its kernel)",
            not.join(", ")
        ));
    }
    losses
}
