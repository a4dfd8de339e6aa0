//! The wanted effects, as a function of state. A crash can lose none: the same state wants the same again.

use super::{Attempts, Machine, Mode};
use crate::effect::{BackStage, Effect, EffectKey, Lease, Shift, StepKey};
use crate::file::LoadAgainst;
use crate::ids::{Moment, RevisionId};
use crate::plan::{ProcessCounts, Step, Track};
use crate::units::Weight;

/// An effect that the current state wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its key.
    pub key: EffectKey,
    /// What to do.
    pub effect: Effect,
    /// Not to be started before: it failed, and is tried again then.
    pub not_before: Moment,
}

impl Machine {
    /// Returns the effects that this state wants and that are not done.
    pub fn wanted(&self) -> Vec<Wanted> {
        let mut effects: Vec<(StepKey, Effect)> = Vec::new();
        match &self.mode {
            Mode::Ended { .. } => {}
            Mode::Back(back) => effects.push((StepKey::Back(back.stage), self.back_effect(back.stage))),
            Mode::Forward | Mode::Held(_) => {
                effects.extend(
                    self.step_effects().into_iter().map(|effect| (StepKey::Forward(self.at), effect)),
                );
                effects.extend(
                    self.lease_effect().map(|effect| (StepKey::Forward(self.plan.first_shift()), effect)),
                );
            }
        }
        effects
            .into_iter()
            .map(|(step, effect)| (EffectKey { place: "here".into(), step, name: effect.name() }, effect))
            .filter(|(key, _)| !self.done.contains(key))
            .map(|(key, effect)| {
                let not_before =
                    self.attempts.get(&key).map_or(Moment(0), |Attempts { not_before, .. }| *not_before);
                Wanted { key, effect, not_before }
            })
            .collect()
    }

    /// Returns when the state changes by itself, if nothing else happens: apply [`Tick`](crate::event::Event::Tick) then.
    pub fn next_timer(&self) -> Option<Moment> {
        let deadline = self.opened.after_ms(self.plan.deadline.ms());
        let step = match (&self.mode, self.step()) {
            (Mode::Ended { .. } | Mode::Back(_), _) => return None,
            _ if self.complete => None,
            (_, Step::Bake { span, .. }) if !self.bake_over(Moment(0)) => {
                Some(self.entered.after_ms(span.ms()))
            }
            (_, Step::Warm { span }) => Some(self.entered.after_ms(span.ms())),
            _ => None,
        };
        let hold = match &self.mode {
            Mode::Held(hold) => Some(hold.until),
            _ => None,
        };
        let deadline = self.decided.is_none().then_some(deadline);
        [step, hold, deadline].into_iter().flatten().min()
    }

    pub(super) fn bake_over(&self, now: Moment) -> bool {
        match self.step() {
            Step::Bake { span, .. } => self.bake_elapsed || now >= self.entered.after_ms(span.ms()),
            _ => false,
        }
    }

    fn step_effects(&self) -> Vec<Effect> {
        let candidate = || self.plan.candidate.clone();
        match (self.step(), &self.plan.stable) {
            (Step::Preflight, _) => {
                let beside = self.plan.most.saturating_sub(self.plan.replicas).min(self.plan.replicas);
                let processes = self.plan.processes_beside();
                vec![Effect::Preflight { candidate: candidate(), beside, processes }]
            }
            (Step::Gate { command }, _) => vec![Effect::Gate { command: command.clone() }],
            (Step::Build, _) => vec![Effect::Build { revision: candidate() }],
            (Step::Provision { count }, _) => {
                vec![Effect::Provision { revision: candidate(), count: *count }]
            }
            (Step::Check, _) => {
                vec![Effect::Check { revision: candidate(), count: self.plan.candidate_at(self.at) }]
            }
            (Step::Smoke { .. }, _) => vec![Effect::Smoke { revision: candidate() }],
            (Step::Load { test }, stable) => {
                let beside = stable.clone().filter(|_| test.against == LoadAgainst::Both);
                vec![Effect::Load { revision: candidate(), beside, test: test.clone() }]
            }
            (Step::Processes { of: Track::Candidate, run }, _) => {
                vec![Effect::Processes {
                    revision: candidate(),
                    run: run.clone(),
                    grace: self.plan.process_grace,
                }]
            }
            (Step::Processes { of: Track::Stable, run }, Some(stable)) => {
                vec![Effect::Processes {
                    revision: stable.clone(),
                    run: run.clone(),
                    grace: self.plan.process_grace,
                }]
            }
            (Step::Steady, _) => {
                let run = self.plan.candidate_processes_at(self.at);
                vec![Effect::Steady { revision: candidate(), run }]
            }
            (Step::Shift { weight }, _) => vec![Effect::Shift(self.split(*weight))],
            (Step::Bake { guard, prove, .. }, _) => {
                let (revision, guard, prove) = (candidate(), guard.clone(), prove.clone());
                if self.bake_elapsed && !self.complete {
                    vec![Effect::Judge { revision, guard, prove }]
                } else {
                    // What was proven needs no second proof while somebody holds the release.
                    vec![Effect::Watch { revision, guard, prove: prove.filter(|_| !self.complete) }]
                }
            }
            (Step::Promote, _) => {
                vec![Effect::Settle(Shift { weights: vec![(candidate(), Weight::FULL)], lease: None })]
            }
            (Step::Drain, Some(stable)) => {
                vec![Effect::Drain { revision: stable.clone(), within: self.plan.drain }]
            }
            (Step::Retire, Some(stable)) => vec![Effect::Retire { revision: stable.clone() }],
            (Step::Shrink { count }, Some(stable)) => vec![Effect::Shrink {
                revision: stable.clone(),
                count: *count,
                shift: self.split(self.plan.weight_at(self.at).unwrap_or(Weight::ZERO)),
                within: self.plan.drain,
            }],
            (
                Step::Approve { .. }
                | Step::Processes { .. }
                | Step::Warm { .. }
                | Step::Shrink { .. }
                | Step::Drain
                | Step::Retire,
                _,
            ) => vec![],
        }
    }

    fn back_effect(&self, stage: BackStage) -> Effect {
        let revision = self.plan.candidate.clone();
        let within = self.plan.drain;
        // A way back with these stages exists only where there is a stable revision.
        let stable = || self.plan.stable.clone().unwrap_or_else(|| revision.clone());
        match stage {
            BackStage::Return { weight } => Effect::Lower(unleased(stable(), revision, weight)),
            BackStage::Yield { count } => {
                let shift = unleased(stable(), revision.clone(), self.weight().unwrap_or(Weight::ZERO));
                Effect::Shrink { revision, count, shift, within }
            }
            BackStage::Restore { count } => Effect::Provision { revision: stable(), count },
            BackStage::Recheck { count } => Effect::Check { revision: stable(), count },
            BackStage::Traffic => {
                // In a first release there is no one to return to: the route answers 503, as it did before.
                let weights = self.plan.stable.iter().map(|stable| (stable.clone(), Weight::FULL)).collect();
                Effect::Shift(Shift { weights, lease: None })
            }
            BackStage::Processes { of: Track::Candidate } => {
                Effect::Processes { revision, run: ProcessCounts::new(), grace: self.plan.process_grace }
            }
            BackStage::Processes { of: Track::Stable } => {
                let run = self.plan.stable_processes.clone();
                Effect::Processes { revision: stable(), run, grace: self.plan.process_grace }
            }
            BackStage::Drain => Effect::Drain { revision, within },
            BackStage::Retire => Effect::Retire { revision },
        }
    }

    /// The lease is renewed from the first shift until the release is decided; after that a dead driver must not
    /// undo what was decided.
    fn lease_effect(&self) -> Option<Effect> {
        let leased = self.moved() && self.decided.is_none() && self.plan.stable.is_some();
        leased.then(|| Effect::KeepLease { release: self.plan.release.clone() })
    }

    fn split(&self, weight: Weight) -> Shift {
        let candidate = self.plan.candidate.clone();
        let Some(stable) = self.plan.stable.clone() else {
            return Shift { weights: vec![(candidate, Weight::FULL)], lease: None };
        };
        if weight == Weight::ZERO {
            return unleased(stable, candidate, weight);
        }
        let lease = Lease {
            release: self.plan.release.clone(),
            candidate: candidate.clone(),
            fallback: stable.clone(),
            // Moving more than stable carries would break it too.
            retain: self.plan.retained_at(self.at).min(weight),
            guard: self.plan.guard.clone(),
            compare: self.plan.compare.clone(),
        };
        Shift { weights: vec![(stable, weight.rest()), (candidate, weight)], lease: Some(lease) }
    }
}

fn unleased(stable: RevisionId, candidate: RevisionId, weight: Weight) -> Shift {
    let mut weights = vec![(stable, weight.rest())];
    if weight > Weight::ZERO {
        weights.push((candidate, weight));
    }
    Shift { weights, lease: None }
}
