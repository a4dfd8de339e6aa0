//! Compose files: one of their services, and those that run from the same image beside it.

mod choose;
mod deploy;
mod environment;
pub(crate) mod fields;
mod health;
mod mounts;
mod ports;
mod runs;
mod traefik;
mod workers;

pub(crate) use environment::{is_name as is_variable, is_reserved};
pub(crate) use runs::is_image;
pub(crate) use traefik::{is_host, is_prefix};
pub(crate) use workers::process_name;

use cutover_core::file::FileErrors;
use cutover_core::file::write::service_name;

use crate::cursor::Cursor;
use crate::import::Work;

/// What all parts of a compose file are read with.
pub(crate) struct Compose<'a> {
    pub(crate) root: Cursor<'a>,
    pub(crate) service: Cursor<'a>,
    /// The prefix of the networks and volumes that compose makes.
    pub(crate) project: String,
    /// Whether services of the file stay with compose.
    pub(crate) stays: bool,
}

pub(crate) fn import(work: &mut Work<'_>, root: &Cursor<'_>) -> Result<(), FileErrors> {
    let services = root.get("services").unwrap_or_else(|| root.clone());
    if !services.is_map() || services.entries().is_empty() {
        let what = format!("services with their keys are expected here, not {}", services.node.noun());
        return Err(work.file.error(services.place, what, "such as `services: {web: {image: shop:1.4}}`"));
    }
    let service = choose::choose(work, &services)?;
    let project = project(work, root);
    let name = service.key().to_string();
    let full = if project == name { name.clone() } else { format!("{project}-{name}") };
    work.draft.service = service_name(&full).unwrap_or_else(|| "app".into());
    let mut compose = Compose { root: root.clone(), service, project, stays: false };
    runs::import(work, &compose.service)?;
    environment::import(work, &compose.service);
    let beside = workers::import(work, &compose, &services);
    compose.stays = services.entries().len() > beside + 1;
    let probe = health::probe(work, &compose.service);
    let wanted = traefik::import(work, &compose.service);
    ports::import(work, &compose.service, &wanted, probe.as_ref());
    health::import(work, &compose.service, probe);
    deploy::import(work, &compose.service);
    mounts::volumes(work, &compose);
    mounts::networks(work, &compose);
    depends(work, &compose.service);
    hand_over(work, &name);
    work.ledger.settle(&compose.service);
    Ok(())
}

/// The project's name, as compose makes it.
fn project(work: &mut Work<'_>, root: &Cursor<'_>) -> String {
    let written = root.get("name").and_then(|at| work.variables.fill(at.text()?).text.into());
    let name: String = written.unwrap_or_else(|| work.input.project.to_string());
    let word = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = name.to_lowercase().chars().filter(word).collect();
    let name = name.trim_start_matches(['-', '_']).to_string();
    if name.is_empty() { "app".into() } else { name }
}

/// What must run before is named, so that the next command can be copied.
fn depends(work: &mut Work<'_>, service: &Cursor<'_>) {
    let Some(at) = service.get("depends_on") else { return };
    let listed = at.texts().unwrap_or_default().into_iter();
    let names: Vec<&str> = listed.chain(at.entries().into_iter().map(|(name, _)| name)).collect();
    let beside = |name: &&str| work.draft.processes.contains_key(*name);
    let names: Vec<&str> = names.into_iter().filter(|name| !beside(name)).collect();
    if at.children().is_empty() {
        return;
    }
    if names.is_empty() {
        return work.ledger.differs(&at, "what it names is a process of the same release", "");
    }
    let next = format!("start it with compose: docker compose up -d {}", names.join(" "));
    let what = "nothing is started first: what the service needs must run before `cutover deploy`";
    work.ledger.differs(&at, what, next.clone());
    work.next.push(format!("docker compose up -d {}", names.join(" ")));
}

/// The old containers hold the port until they are stopped.
fn hand_over(work: &mut Work<'_>, name: &str) {
    let held =
        work.draft.routes.iter().any(|route| route.listen.starts_with("0.0.0.0") || route.host.is_none());
    if held {
        let beside: Vec<&str> = work.draft.processes.keys().map(String::as_str).collect();
        let names = [name].into_iter().chain(beside).collect::<Vec<_>>().join(" ");
        work.draft.heading.push(format!(
            "The first release cannot be without a pause: `docker compose stop {names}` frees the port."
        ));
    }
}
