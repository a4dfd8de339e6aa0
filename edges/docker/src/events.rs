//! Follows what the engine tells of our containers: what ended and why, and that there is something to look at.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use cutover_core::Fault;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::container;
use crate::names::OWNER;
use crate::platform::Shared;

/// Pause before an engine that does not talk is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Those after which another look would show something else. Health checks are told of all the time, and are none of them.
const EVENTS: [&str; 10] =
    ["create", "start", "die", "oom", "kill", "stop", "pause", "unpause", "rename", "destroy"];

/// Follows the engine's events until the platform closes.
pub(crate) async fn follow(shared: Arc<Shared>, mut closing: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = closing.wait_for(|closes| *closes) => return,
            ended = listen_if_asked(&shared) => {
                shared.memory.following(false);
                if let Err(fault) = ended {
                    tracing::debug!(why = %fault, "no events of the engine");
                }
            }
        }
        tokio::select! {
            _ = closing.wait_for(|closes| *closes) => return,
            () = sleep(PAUSE) => {}
        }
    }
}

/// A machine without containers may have no engine either: it is left alone.
async fn listen_if_asked(shared: &Shared) -> Result<(), Fault> {
    while shared.wishes.names().is_empty() {
        shared.wishes.asked.notified().await;
    }
    listen(shared).await
}

async fn listen(shared: &Shared) -> Result<(), Fault> {
    let engine = &shared.containers.engine;
    let owner = format!("{OWNER}={}", shared.containers.owner);
    let filters: HashMap<&str, Vec<&str>> = HashMap::from([
        ("type", vec!["container"]),
        ("label", vec![owner.as_str()]),
        ("event", EVENTS.to_vec()),
    ]);
    let options = EventsOptionsBuilder::new().filters(&filters).build();
    // Whether the stream is open shows only with its first event: until then a look is never spared.
    let mut events = engine.docker().await?.events(Some(options));
    while let Some(event) = events.next().await {
        let event = event.map_err(|error| engine.fault("follow the engine's events", &error))?;
        note(shared, event).await;
        shared.memory.following(true);
    }
    Ok(())
}

async fn note(shared: &Shared, event: EventMessage) {
    let Some(actor) = event.actor else { return };
    let Some(id) = actor.id else { return };
    match event.action.as_deref() {
        Some("oom") => shared.memory.out_of_memory(&id),
        Some("die") => {
            let attributes = actor.attributes.unwrap_or_default();
            let code = attributes.get("exitCode").and_then(|code| code.parse().ok()).unwrap_or(0);
            let killed = shared.memory.take_out_of_memory(&id);
            let memory = match killed {
                true => shared.containers.look(&id).await.ok().flatten().and_then(|one| one.memory),
                false => None,
            };
            let why = shared.memory.take_reason(&id);
            shared.memory.ended(&id, why.unwrap_or_else(|| container::ending(code, killed, memory)));
        }
        Some("destroy") => shared.memory.forget(&id),
        _ => {}
    }
}
