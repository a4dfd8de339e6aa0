//! How many instances of each revision a step wants, and the way back from it.

use super::steps::{instances_for, share_of};
use super::{Plan, Step, Track};
use crate::effect::BackStage;
use crate::units::Weight;

impl Plan {
    /// Returns how many instances of the candidate are wanted at step `at`.
    pub fn candidate_at(&self, at: usize) -> u32 {
        let provisioned = self.until(at).filter_map(|step| match step {
            Step::Provision { count } => Some(*count),
            _ => None,
        });
        provisioned.last().unwrap_or(0)
    }

    /// Returns how many instances of the candidate have passed their checks before step `at`.
    pub fn checked_before(&self, at: usize) -> u32 {
        let check = self.steps.iter().take(at).rposition(|step| matches!(step, Step::Check));
        check.map_or(0, |check| self.candidate_at(check))
    }

    /// Returns how many instances of stable are wanted at step `at`, while the release is not decided.
    pub fn stable_at(&self, at: usize) -> u32 {
        let shrunk = self.until(at).filter_map(|step| match step {
            Step::Shrink { count } => Some(*count),
            _ => None,
        });
        shrunk.last().unwrap_or(self.replicas)
    }

    /// Returns the candidate's route weight that was asked for up to step `at`; none before the first shift.
    pub fn weight_at(&self, at: usize) -> Option<Weight> {
        let shifted = self.until(at).filter_map(|step| match step {
            Step::Shift { weight } => Some(*weight),
            _ => None,
        });
        shifted.last()
    }

    /// Returns what the candidate keeps of its weight when traffic returns at step `at`: what it had when the last
    /// instances of stable left, for those who stayed never carried more.
    pub fn retained_at(&self, at: usize) -> Weight {
        let shrunk = self.steps.iter().take(at + 1).rposition(|step| matches!(step, Step::Shrink { .. }));
        shrunk.and_then(|shrunk| self.weight_at(shrunk)).unwrap_or(Weight::ZERO)
    }

    /// Returns how many instances `weight` needs, those counted off that the plan allows to be missing.
    pub fn needed(&self, weight: Weight) -> u32 {
        instances_for(weight, self.replicas).saturating_sub(self.replicas - self.least_ready)
    }

    /// Returns the way back from step `at`, stage by stage; empty where nothing has to be undone.
    ///
    /// Stable with all its instances takes all traffic at once. In a rolling release it cannot: traffic returns in
    /// proportion to what stable carries, and the batches are reversed within the same limits as forward.
    pub fn way_back(&self, at: usize) -> Vec<BackStage> {
        let mut back = WayBack {
            plan: self,
            stable: if self.stable.is_some() { self.stable_at(at) } else { self.replicas },
            candidate: self.candidate_at(at),
            weight: self.weight_at(at),
            candidate_works: self.processes_at(Track::Candidate, at).is_some(),
            stable_lacks: self.processes_at(Track::Stable, at).is_some(),
            stages: Vec::new(),
        };
        back.keep(self.retained_at(at));
        while back.stable < self.replicas {
            back.restore();
        }
        back.finish();
        back.stages
    }

    fn until(&self, at: usize) -> impl Iterator<Item = &Step> {
        self.steps.iter().take(at + 1)
    }
}

struct WayBack<'a> {
    plan: &'a Plan,
    stable: u32,
    candidate: u32,
    /// The candidate's weight; none where traffic never moved.
    weight: Option<Weight>,
    /// Processes of the candidate may run.
    candidate_works: bool,
    /// Processes of stable have made room for them.
    stable_lacks: bool,
    stages: Vec<BackStage>,
}

impl WayBack<'_> {
    /// Leaves the candidate so much, the rest goes to stable, unless that can have all.
    fn keep(&mut self, weight: Weight) {
        if self.stable < self.plan.replicas && self.weight.is_some_and(|now| weight < now) {
            self.weight = Some(weight);
            self.stages.push(BackStage::Return { weight });
        }
    }

    /// Starts as many of stable as there is room for; makes room first where there is none.
    fn restore(&mut self) {
        let Plan { replicas, most, least_ready, .. } = *self.plan;
        let room = most.saturating_sub(self.stable + self.candidate);
        if room > 0 {
            self.stable = replicas.min(self.stable + room);
            let count = self.stable;
            self.stages.extend([BackStage::Restore { count }, BackStage::Recheck { count }]);
            return self.keep(share_of(replicas - count, replicas));
        }
        let count = least_ready.saturating_sub(self.stable).min(self.candidate.saturating_sub(1));
        if count == 0 {
            // Nobody of the candidate is needed any more.
            return self.finish();
        }
        self.candidate = count;
        self.stages.push(BackStage::Yield { count });
    }

    /// All traffic to stable; the candidate goes. Users come first, then the queues: stable's processes wait for the end
    /// of the candidate's, but not for its drain.
    fn finish(&mut self) {
        let moved = self.weight.take().is_some();
        if moved {
            self.stages.push(BackStage::Traffic);
        }
        for (due, of) in
            [(&mut self.candidate_works, Track::Candidate), (&mut self.stable_lacks, Track::Stable)]
        {
            if std::mem::take(due) {
                self.stages.push(BackStage::Processes { of });
            }
        }
        if moved {
            self.stages.push(BackStage::Drain);
        }
        if self.candidate > 0 {
            self.candidate = 0;
            self.stages.push(BackStage::Retire);
        }
    }
}
