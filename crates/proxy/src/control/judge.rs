//! The judges of the releases that are under way, and of the last one of each service.

use std::sync::Arc;

use cutover_judge::{History, Verdict};

use super::trip::Cause;
use super::{Control, ServiceLive};
use crate::count::Arm;
use crate::error::{ErrorKind, ProxyError};
use crate::gate::Gate;
use crate::judging::{JudgeQuestion, Judged, Judging};
use crate::protocol::EventKind;
use crate::table::{CandidateLease, ServiceTable};

/// Stable's requests since the last shift from which on its own failures are looked at.
const STABLE_FROM: u64 = 20;

impl Control {
    /// Makes the gate of a service's candidate, where its requests are judged.
    pub(super) fn gate(&self, name: &str, service: &ServiceTable) -> Option<Arc<Gate>> {
        let candidate = service.candidate.as_ref()?;
        let desk = self.judging(name, service, candidate).map(|judging| {
            let track = service.track(&candidate.revision);
            let targets = track.map(|track| track.targets.iter().map(|target| target.address).collect());
            let weight = track.map_or(0, |track| track.weight_bp);
            judging.open(weight, targets.unwrap_or_default(), self.threads.len())
        });
        let gate = Arc::new(Gate::new(&candidate.release, candidate.guard.clone(), desk, self.wake.clone()));
        if let Some(desk) = &gate.desk {
            desk.judging.attach(&gate);
        }
        Some(gate)
    }

    fn judging(
        &self,
        name: &str,
        service: &ServiceTable,
        candidate: &CandidateLease,
    ) -> Option<Arc<Judging>> {
        let known = self.state.borrow().live.get(name).and_then(|live| live.judging.clone());
        if let Some(known) = known.filter(|known| known.release == candidate.release) {
            return Some(known);
        }
        let terms = candidate.judge.as_ref()?;
        match Judging::new(&candidate.release, terms, self.history(name, service)) {
            Ok(judging) => {
                let mut state = self.state.borrow_mut();
                state.live.entry(name.to_owned()).or_default().judging = Some(judging.clone());
                Some(judging)
            }
            Err(why) => {
                // Refused by `validate` already; a table on disk may be of another version.
                tracing::error!(service = name, why, "the candidate cannot be judged");
                None
            }
        }
    }

    /// Returns what is known of the revisions that serve beside the candidate.
    fn history(&self, name: &str, service: &ServiceTable) -> History {
        let mut history = History::default();
        let written = self.written.borrow();
        let known = if written.arms.is_empty() { self.counted_before() } else { written.clone() };
        let candidate = service.candidate.as_ref().map(|candidate| candidate.revision.as_str());
        for (_, arm) in known.arms.iter().filter(|(of, arm)| {
            of == name
                && arm.arm == Arm::Stable
                && Some(arm.revision.as_str()) != candidate
                && service.track(&arm.revision).is_some()
        }) {
            arm.counts.add_to(&mut history);
        }
        history
    }

    /// Goes on with the judges that earlier workers wrote down. Returns whether the threads need to be told.
    pub(super) fn adopt_judges(&self) -> bool {
        let mut adopted = false;
        for (name, kept) in self.counted_before().judges {
            let service = self.state.borrow().stored.table.services.get(&name).cloned();
            let Some(service) = service else { continue };
            let terms = service.candidate.as_ref().and_then(|candidate| candidate.judge.clone());
            let Some(judging) = Judging::resume(&kept, &terms.unwrap_or_default()) else { continue };
            let judged = {
                let mut state = self.state.borrow_mut();
                let live = state.live.entry(name.clone()).or_default();
                let judged = live.gate.as_ref().is_some_and(|gate| gate.release == judging.release);
                if judged || live.gate.is_none() {
                    live.judging = Some(judging);
                }
                judged
            };
            if judged {
                let gate = self.gate(&name, &service);
                self.state.borrow_mut().live.entry(name).or_default().gate = gate;
                adopted = true;
            }
        }
        adopted
    }

    /// Lets the judges look after their epochs.
    pub(super) fn tick_judges(&self) {
        let judgings: Vec<_> = {
            let state = self.state.borrow();
            let judged = |(name, live): (&String, &ServiceLive)| {
                Some((name.clone(), live.gate.as_ref()?.desk.as_ref()?.judging.clone()))
            };
            state.live.iter().filter_map(judged).collect()
        };
        for (name, judging) in judgings {
            judging.tick();
            for why in judging.notices() {
                tracing::warn!(service = name, why, "the judge tells");
                self.note(Some(&name), EventKind::Alert, why, None);
            }
        }
    }

    /// Returns why a gate closed, if it did by itself.
    pub(super) fn cause(gate: &Gate) -> Option<Cause> {
        let numbers = gate.numbers();
        let judging = gate.desk.as_ref().map(|desk| &desk.judging);
        // What is proven comes before a threshold that broke beside it.
        if let Some(because) = judging.and_then(|judging| judging.because()) {
            return Some(Cause { shared: because.shared, ..Cause::new(EventKind::Trip, because.why) });
        }
        let why = numbers.why.clone()?;
        let stable = judging.map(|judging| judging.stable_since_shift()).unwrap_or_default();
        let shared = stable.requests >= STABLE_FROM && gate.breaks(stable.requests, stable.errors);
        let why = if shared {
            format!(
                "{why}; stable fails as well ({} of {} requests): look for what both depend on, the release is not to blame",
                stable.errors, stable.requests
            )
        } else {
            why
        };
        Some(Cause { shared, guard: Some(numbers), ..Cause::new(EventKind::Trip, why) })
    }

    /// Answers a question about a release's candidate.
    pub(crate) async fn judged(
        &self,
        name: &str,
        release: &str,
        question: &JudgeQuestion,
    ) -> Result<Judged, ProxyError> {
        let judging = self.state.borrow().live.get(name).and_then(|live| live.judging.clone());
        match judging.filter(|judging| judging.release == release) {
            Some(judging) => {
                let judged = judging.answer(question);
                if matches!(judged.verdict, Verdict::Pass(_)) {
                    // What goes on by it must find it again: the worker may die at once.
                    self.keep_counted().await;
                }
                Ok(judged)
            }
            None => {
                let text = format!("nobody judges the release \"{release}\" of service \"{name}\" here");
                Err(ProxyError::new(ErrorKind::UnknownRelease, text))
            }
        }
    }
}
