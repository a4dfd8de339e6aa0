//! Whether whoever listens on an instance's address is the instance itself.

use std::collections::BTreeSet;

use cutover_core::{After, Blame, Fault, InstanceId};

use crate::process;
use crate::record::ProcessRecord;
use crate::sockets::{self, Listener};

/// Says whether a connection to `port` on loopback can only reach the instance's own processes.
pub(crate) fn vouch(id: &InstanceId, leader: &ProcessRecord, port: u16) -> Result<(), Fault> {
    let listeners = sockets::listeners();
    let reached = sockets::reached(&listeners, port);
    // Most services listen in their first process: that is looked at before all others are.
    let first = sockets::sockets_of(leader.pid);
    let is_leader = process::look(leader.pid).is_some_and(|seen| seen.start == leader.start);
    if is_leader && !reached.is_empty() && reached.iter().all(|listener| first.contains(&listener.inode)) {
        return Ok(());
    }
    let own = process::members(id, Some(leader));
    let sockets: BTreeSet<u64> = own.iter().flat_map(|seen| sockets::sockets_of(seen.pid)).collect();
    if reached.is_empty() {
        return Err(nobody(id, port, &listeners, &sockets));
    }
    match reached.iter().find(|listener| !sockets.contains(&listener.inode)) {
        None => Ok(()),
        Some(stranger) => {
            let what =
                format!("reach instance {id} on 127.0.0.1:{port}: {} listens there instead", name(stranger));
            Err(Fault::platform(what).hint("The instance gets another port when it is started again."))
        }
    }
}

fn nobody(id: &InstanceId, port: u16, listeners: &[Listener], sockets: &BTreeSet<u64>) -> Fault {
    let elsewhere: BTreeSet<String> = listeners
        .iter()
        .filter(|listener| sockets.contains(&listener.inode))
        .map(|listener| {
            // The right port on an address that loopback does not reach is a case of its own.
            if listener.port == port {
                format!("{}:{port}", listener.address)
            } else {
                listener.port.to_string()
            }
        })
        .collect();
    // It may still be starting: a later look can find it.
    if elsewhere.is_empty() {
        return Fault::new(
            Blame::Candidate,
            After::Retry,
            format!("instance {id} listens on no port, $PORT={port} was expected"),
        );
    }
    let elsewhere = elsewhere.into_iter().collect::<Vec<_>>().join(", ");
    Fault::new(
        Blame::Candidate,
        After::Retry,
        format!("instance {id} listens on {elsewhere} instead of $PORT={port}"),
    )
    .hint(
        "Let the service listen on the port in its environment variable PORT, on 127.0.0.1 or all addresses.",
    )
}

fn name(listener: &Listener) -> String {
    let holds = |seen: &process::Seen| sockets::sockets_of(seen.pid).contains(&listener.inode);
    match process::all().into_iter().find(holds) {
        Some(seen) => format!("process {} ({})", seen.pid, process::command_line(seen.pid)),
        None => format!("a process of user id {}", listener.uid),
    }
}
