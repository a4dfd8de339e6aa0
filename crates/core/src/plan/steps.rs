//! The steps of each strategy. Blue-green, canary and rolling differ here and nowhere else.

use super::Step;
use super::processes::Staff;
use super::prove::prove;
use crate::file::{ApprovalPoint, CanaryBake, ReleaseFile, Rolling, Strategy};
use crate::release::{Observed, Release, ReleaseKind};
use crate::units::{Span, Weight};

/// Returns the steps of `release`, in order; never empty, with exactly one promote.
pub(super) fn steps(release: &Release, observed: &Observed) -> Vec<Step> {
    let file = &release.file;
    let rollback = release.kind == ReleaseKind::Rollback;
    let mut steps = Steps {
        release,
        observed,
        file,
        // Without a predecessor there is nothing to compare with and nothing to go back to; a person who rolls back
        // at 3 AM wants it done.
        quick: rollback || observed.stable.is_none(),
        rollback,
        staff: Staff::of(release, observed),
        replicas: file.platform.replicas(),
        provisioned: 0,
        approved: false,
        steps: vec![Step::Preflight],
    };
    if !rollback {
        steps.steps.extend(file.gate.iter().map(|command| Step::Gate { command: command.clone() }));
    }
    steps.steps.push(Step::Build);
    match &file.strategy {
        // The first release of a rolling service has nothing to replace.
        Strategy::Rolling(rolling) if observed.stable.is_some() => steps.rolling(rolling),
        Strategy::Canary(canary) if !steps.quick => {
            let bake = match canary.bake {
                CanaryBake::Auto => canary.at_most,
                CanaryBake::For(bake) => bake,
            };
            steps.weights(&canary.weights, bake);
        }
        _ => steps.weights(&[Weight::FULL], Span::default()),
    }
    if rollback {
        // Users first: whoever rolls back does not want to wait for a clock to stop. That these processes stay up they
        // have shown before, and one that does not is no reason to return to what was just left.
        steps.steps.extend(steps.staff.arrive(true));
    }
    steps.approve(ApprovalPoint::BeforePromote);
    steps.steps.push(Step::Promote);
    // Before it is kept warm: two revisions must not work one queue for all that time.
    steps.steps.extend(steps.staff.leave());
    if observed.stable.is_some() {
        // An instance that waits for its predecessor's place does not wait for a warm one.
        let complete = steps.provisioned == steps.replicas;
        if complete && !rollback && file.keep_warm > Span::default() {
            steps.steps.push(Step::Warm { span: file.keep_warm });
        }
        steps.steps.extend([Step::Drain, Step::Retire]);
        if !complete {
            steps.provision(steps.replicas);
        }
    }
    steps.steps
}

/// Returns how many of `replicas` instances carry `weight`. A weight is whole basis points: two of three instances
/// carry 66.67%, though that is a little more than two thirds.
pub(super) fn instances_for(weight: Weight, replicas: u32) -> u32 {
    if weight == Weight::ZERO {
        return 0;
    }
    let part = u64::from(replicas) * u64::from(weight.bp() - 1);
    u32::try_from(part.div_ceil(u64::from(Weight::FULL.bp()))).unwrap_or(replicas).max(1)
}

/// Returns the share of requests that `instances` of `replicas` carry, rounded down.
pub(super) fn share_of(instances: u32, replicas: u32) -> Weight {
    let part = u64::from(instances.min(replicas)) * u64::from(Weight::FULL.bp()) / u64::from(replicas.max(1));
    Weight::from_bp(u16::try_from(part).unwrap_or(u16::MAX))
}

struct Steps<'a> {
    release: &'a Release,
    observed: &'a Observed,
    file: &'a ReleaseFile,
    quick: bool,
    rollback: bool,
    staff: Staff,
    replicas: u32,
    /// Instances of the candidate so far.
    provisioned: u32,
    approved: bool,
    steps: Vec<Step>,
}

impl Steps<'_> {
    fn weights(&mut self, weights: &[Weight], bake: Span) {
        for (i, weight) in weights.iter().enumerate() {
            // With room for the next weight: going on must not wait for instances to start while traffic grows.
            let next = weights.get(i + 1).unwrap_or(weight);
            self.provision(instances_for(*next, self.replicas));
            self.shift(*weight, if *weight == Weight::FULL { self.file.bake } else { bake });
        }
    }

    /// Instances of the candidate replace those of stable, never more than `replicas + max_surge` together and never
    /// fewer ready than `replicas - max_unavailable`. The last instance of stable stays for the tail: until it stops, the
    /// way back is a change of weights and a start of the others. Without a surge the candidate's last instance needs
    /// its place, and comes after it.
    fn rolling(&mut self, rolling: &Rolling) {
        let replicas = self.replicas;
        let mut stable = replicas;
        let mut weight = Weight::ZERO;
        while weight < Weight::FULL {
            let least = replicas.saturating_sub(rolling.max_unavailable + self.provisioned).max(1);
            if least < stable {
                stable = least;
                // Who is left shares the traffic evenly.
                let fair = share_of(self.provisioned, self.provisioned + stable);
                if fair > weight {
                    self.steps.push(Step::Shift { weight: fair });
                }
                self.steps.push(Step::Shrink { count: stable });
            }
            let room = (replicas + rolling.max_surge - stable).min(replicas);
            weight = if room > self.provisioned { share_of(room, replicas) } else { Weight::FULL };
            self.provision(room);
            self.shift(weight, if weight == Weight::FULL { self.file.bake } else { rolling.bake });
        }
    }

    fn provision(&mut self, count: u32) {
        if count > self.provisioned {
            self.provisioned = count;
            self.steps.extend([Step::Provision { count }, Step::Check]);
        }
    }

    fn shift(&mut self, weight: Weight, bake: Span) {
        if !self.approved {
            self.approved = true;
            // Who approves has the evidence. A predecessor that comes back is not tried again: it has served already.
            let tests = self.file.checks.smoke.len();
            if !self.rollback && tests > 0 {
                self.steps.push(Step::Smoke { tests });
            }
            if !self.rollback {
                // After the smoke tests: how quickly it answers says nothing where it answers wrongly.
                let loads =
                    self.file.checks.load.iter().map(|test| Step::Load { test: Box::new(test.clone()) });
                self.steps.extend(loads);
            }
            self.approve(ApprovalPoint::BeforeShift);
            if !self.rollback {
                self.steps.extend(self.staff.arrive(false));
            }
        }
        self.steps.push(Step::Shift { weight });
        if !self.quick && bake > Span::default() {
            let prove = prove(self.release, self.observed, weight);
            self.steps.push(Step::Bake { span: bake, guard: self.file.guard.clone(), prove });
        }
    }

    fn approve(&mut self, point: ApprovalPoint) {
        // A person who rolls back has approved by asking.
        if !self.rollback && self.file.approve.contains(&point) {
            self.steps.push(Step::Approve { point });
        }
    }
}
