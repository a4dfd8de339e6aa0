//! Events: numbered, kept on disk until acknowledged.

use super::Control;
use super::trip::Cause;
use crate::error::ProxyError;
use crate::protocol::{Event, EventKind, GuardNumbers};
use crate::store::wall_ms;

impl Control {
    /// Keeps a failed write visible: what is in force is not what a restart would find.
    pub(super) fn remark(&self, written: Result<(), ProxyError>) {
        if let Err(error) = written {
            tracing::error!(%error, "a change is in force but not on disk");
            let mut state = self.state.borrow_mut();
            if state.damage.len() < 100 {
                state.damage.push(error.wire_message());
            }
        }
    }

    pub(super) fn note(
        &self,
        service: Option<&str>,
        kind: EventKind,
        why: String,
        guard: Option<GuardNumbers>,
    ) {
        let candidate = service.and_then(|name| {
            let state = self.state.borrow();
            let service = state.stored.table.services.get(name)?;
            service.candidate.clone().map(|candidate| (candidate, service.generation))
        });
        self.append(Event {
            number: 0,
            wall_ms: wall_ms(),
            kind,
            service: service.map(str::to_owned),
            release: candidate.as_ref().map(|(candidate, _)| candidate.release.clone()),
            revision: candidate.as_ref().map(|(candidate, _)| candidate.revision.clone()),
            generation: candidate.map(|(_, generation)| generation),
            why,
            guard,
            shared: false,
        });
    }

    pub(super) fn note_candidate(
        &self,
        service: &str,
        release: &str,
        revision: &str,
        generation: u64,
        cause: Cause,
    ) {
        self.append(Event {
            number: 0,
            wall_ms: wall_ms(),
            kind: cause.kind,
            service: Some(service.to_owned()),
            release: Some(release.to_owned()),
            revision: Some(revision.to_owned()),
            generation: Some(generation),
            why: cause.why,
            guard: cause.guard,
            shared: cause.shared,
        });
    }

    fn append(&self, event: Event) {
        let (number, saved) = {
            let mut state = self.state.borrow_mut();
            let number = state.log.push(event).number;
            (number, self.store.save_events(&state.log))
        };
        self.remark(saved);
        self.events_seen.send_replace(number);
    }

    /// Forgets events up to a number.
    pub(crate) async fn acknowledge(&self, up_to: u64) -> Result<(), ProxyError> {
        let _changing = self.changing.lock().await;
        let (mut log, mut stored) = {
            let state = self.state.borrow();
            (state.log.clone(), state.stored.clone())
        };
        let damage_known =
            log.events.iter().any(|event| event.kind == EventKind::Damage && event.number <= up_to);
        log.events.retain(|event| event.number > up_to);
        self.store.save_events(&log)?;
        self.state.borrow_mut().log = log;
        if damage_known {
            stored.damaged = false;
            self.store.save(&stored)?;
            {
                let mut state = self.state.borrow_mut();
                state.stored = stored;
                state.damage.clear();
            }
            self.swap().await?;
        }
        Ok(())
    }
}
