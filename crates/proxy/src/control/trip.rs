//! What takes a candidate's traffic away: its guard, a lease that lapsed, a person.

use super::Control;
use super::fence::unknown;
use super::reach::reachable;
use crate::error::{ErrorKind, ProxyError};
use crate::protocol::{EventKind, GuardNumbers};
use crate::store::boot_ms;

/// How long after an alert a lapsed lease is looked at again.
const ALERT_AGAIN_MS: u64 = 1_000;

/// What takes a candidate's traffic away.
pub(super) struct Cause {
    pub(super) kind: EventKind,
    pub(super) why: String,
    pub(super) guard: Option<GuardNumbers>,
    /// Stable fails as well: the release is not to blame.
    pub(super) shared: bool,
}

impl Cause {
    pub(super) fn new(kind: EventKind, why: String) -> Self {
        Self { kind, why, guard: None, shared: false }
    }
}

impl Control {
    /// Takes the candidate's traffic away by hand.
    pub(crate) async fn back(&self, name: &str, why: &str) -> Result<u64, ProxyError> {
        let _changing = self.changing.lock().await;
        {
            let state = self.state.borrow();
            let service = state.stored.table.services.get(name).ok_or_else(|| unknown(name))?;
            if service.candidate.is_none() {
                let text = format!("service \"{name}\" has no candidate to go back from");
                return Err(ProxyError::new(ErrorKind::UnknownRelease, text));
            }
        }
        let cause = Cause::new(EventKind::Back, why.to_owned());
        self.trip(name, cause).await
    }

    /// Looks at every gate and lease; called often, and at once when a gate closes.
    pub(crate) async fn tick(&self) {
        self.verify().await;
        self.tick_judges();
        let now = boot_ms();
        let due: Vec<String> = {
            let state = self.state.borrow();
            let due = state.live.iter().filter(|(name, live)| {
                let closed = live.gate.as_ref().is_some_and(|gate| gate.is_due());
                let weighted = state.stored.table.services.get(*name).is_some_and(|service| {
                    let candidate =
                        service.candidate.as_ref().and_then(|lease| service.track(&lease.revision));
                    candidate.is_some_and(|track| track.weight_bp > 0)
                });
                let lapsed = live.lease_until_ms.is_some_and(|until| until <= now);
                weighted && !live.suspended && (closed || lapsed) && live.look_again_ms <= now
            });
            due.map(|(name, _)| name.clone()).collect()
        };
        for name in due {
            let _changing = self.changing.lock().await;
            self.trip_if_closed(&name).await;
            let lapsed = self.state.borrow().live.get(&name).is_some_and(|live| {
                !live.suspended
                    && live.look_again_ms <= now
                    && live.lease_until_ms.is_some_and(|until| until <= boot_ms())
            });
            if lapsed {
                let why = "the lease was not renewed in time: the server is gone or cannot reach the proxy"
                    .to_owned();
                // Its failure is an event already, and the next tick tries again.
                let _ = self.trip(&name, Cause::new(EventKind::Lapse, why)).await;
            }
        }
    }

    pub(super) async fn trip_if_closed(&self, name: &str) {
        let gate = self.state.borrow().live.get(name).and_then(|live| live.gate.clone());
        let Some(gate) = gate.filter(|gate| gate.is_due()) else { return };
        match Self::cause(&gate) {
            Some(cause) => {
                // Its failure is an event already, and the next tick tries again.
                let _ = self.trip(name, cause).await;
            }
            // Shut by a thread that had decided just before all began anew.
            None => gate.open(),
        }
    }

    /// Moves the candidate's traffic to those who can take it. The caller holds `changing`.
    pub(super) async fn trip(&self, name: &str, cause: Cause) -> Result<u64, ProxyError> {
        let service = self.state.borrow().stored.table.services.get(name).cloned();
        let service = service.ok_or_else(|| unknown(name))?;
        let Some(candidate) = service.candidate.clone() else { return Ok(service.generation) };
        if self.is_tripped(name, &candidate.release) {
            return Ok(service.generation);
        }
        let had_weight = service.tracks.iter().any(|track| track.weight_bp > 0);
        let reachable = reachable(&service).await;
        let weights = service.fallback_weights(|track| reachable.contains(&track.revision));
        let gate = self.state.borrow().live.get(name).and_then(|live| live.gate.clone());
        let Some(weights) = weights else {
            // Nobody answers but the candidate: bad answers are better than none.
            let (alerted, release) = {
                let mut state = self.state.borrow_mut();
                let live = state.live.entry(name.to_owned()).or_default();
                let alerted = live.look_again_ms > 0;
                live.look_again_ms = boot_ms() + ALERT_AGAIN_MS;
                (alerted, candidate.release.clone())
            };
            if let Some(gate) = gate {
                gate.reopen(ALERT_AGAIN_MS);
            }
            let text =
                format!("{}; but no target of another revision answers, traffic stays on it", cause.why);
            if !alerted {
                self.note(Some(name), EventKind::Alert, text.clone(), cause.guard);
            }
            return Err(ProxyError::new(ErrorKind::Invalid, format!("release \"{release}\": {text}")));
        };
        // Closed first: every thread stops claiming the candidate before anything slow happens.
        if let Some(gate) = &gate {
            gate.close();
        }
        let mut changed = service;
        for (track, weight) in changed.tracks.iter_mut().zip(weights) {
            track.weight_bp = if had_weight { weight } else { 0 };
        }
        let kept = changed.track(&candidate.revision).map_or(0, |track| track.weight_bp);
        if let Some(lease) = &mut changed.candidate {
            lease.retain_at_most(kept);
        }
        changed.generation += 1;
        let generation = changed.generation;
        {
            let mut state = self.state.borrow_mut();
            state.stored.table.services.insert(name.to_owned(), changed);
            let trips = state.stored.trips.entry(name.to_owned()).or_default();
            trips.insert(candidate.release.clone(), candidate.revision.clone());
            let live = state.live.entry(name.to_owned()).or_default();
            live.lease_until_ms = None;
            live.suspended = false;
            live.gate = None;
        }
        let swapped = self.swap().await;
        let saved = self.store.save(&self.state.borrow().stored);
        self.remark(saved);
        tracing::error!(service = name, release = %candidate.release, why = %cause.why, "candidate lost its traffic");
        self.note_candidate(name, &candidate.release, &candidate.revision, generation, cause);
        swapped?;
        self.followed().await?;
        Ok(generation)
    }
}
