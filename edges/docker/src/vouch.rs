//! Whether an instance itself listens on its address, and what its image's own health check says.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use bollard::models::HealthStatusEnum;
use cutover_core::{After, Blame, Fault};
use cutover_keep::sockets::{self, Listener};

use crate::container::Container;

/// Where the engine answers names inside a container of a network.
const OWN_DNS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// Says whether a request to the container's address can only reach the container, which listens. The engine forwards the
/// port that it published to no other.
pub(crate) fn vouch(one: &Container, elsewhere: bool) -> Result<(), Fault> {
    let id = &one.labels.instance;
    let retry = |what: String| Fault::new(Blame::Candidate, After::Retry, what);
    if one.is_paused() {
        return Err(retry(format!("instance {id} is paused"))
            .hint(format!("Somebody paused its container; go on with: docker unpause {}", short(&one.id))));
    }
    if !one.runs() {
        return Err(retry(format!("instance {id} does not run: {}", one.why())));
    }
    let Some(port) = one.labels.port else {
        let what = format!("see who listens for {id}: no request goes to it");
        return Err(Fault::cutover(what).fatal());
    };
    match one.health() {
        Some((HealthStatusEnum::STARTING, _)) => {
            return Err(retry(format!("instance {id}: the health check of its image has not passed yet")));
        }
        Some((HealthStatusEnum::UNHEALTHY, last)) => {
            let last = if last.is_empty() { "it says nothing" } else { &last };
            return Err(retry(format!("instance {id}: the health check of its image fails: {last}")));
        }
        _ => {}
    }
    // An engine in a machine of its own, or on another host, shows no process that could be looked at.
    let Some(listeners) = one.pid().filter(|_| !elsewhere).and_then(listeners) else { return Ok(()) };
    heard(one, port, &listeners)
}

fn heard(one: &Container, port: u16, listeners: &[Listener]) -> Result<(), Fault> {
    let reached =
        |address: IpAddr| address.is_unspecified() || Some(address.to_canonical()) == one.own_address();
    if listeners.iter().any(|listener| listener.port == port && reached(listener.address)) {
        return Ok(());
    }
    let id = &one.labels.instance;
    let elsewhere: BTreeSet<String> = listeners
        .iter()
        .filter(|listener| listener.address != OWN_DNS)
        .map(|listener| match listener.port == port {
            true => format!("{}:{port}", listener.address),
            false => listener.port.to_string(),
        })
        .collect();
    let retry = |what: String| Fault::new(Blame::Candidate, After::Retry, what);
    // It may still be starting: a later look can find it.
    if elsewhere.is_empty() {
        return Err(retry(format!("instance {id} listens on no port, {port} was expected")));
    }
    let elsewhere = elsewhere.into_iter().collect::<Vec<_>>().join(", ");
    Err(retry(format!("instance {id} listens on {elsewhere} in its container instead of 0.0.0.0:{port}")).hint(
        "Let it listen on all addresses at the port in its variable PORT, or say its port: platform.docker.port",
    ))
}

/// Returns who listens in the network of this process; none where this user may not look.
fn listeners(pid: u32) -> Option<Vec<Listener>> {
    let first = fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    let second = fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default();
    Some(sockets::parse_table(&first).into_iter().chain(sockets::parse_table(&second)).collect())
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
