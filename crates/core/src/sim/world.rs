//! The world that the simulator acts on: one router, one platform, two revisions. It obeys the edges' contracts
//! (fencing, leases, trips) and records what a real one would do to users.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::effect::{Effect, Evidence, Lease, Outcome, Shift};
use crate::fault::{After, Blame, Fault};
use crate::file::Load;
use crate::guard::{Counts, Judgement, Verdict};
use crate::ids::{Fence, Moment, ReleaseId, RevisionId};
use crate::plan::{Plan, ProcessCounts};
use crate::units::Weight;

/// How long a lease holds without being renewed.
pub const LEASE_MS: u64 = 10_000;

/// What is true outside of cutover.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// Instances that run, by revision.
    pub running: BTreeMap<RevisionId, u32>,
    /// How many instances of each revision passed their checks.
    pub checked: BTreeMap<RevisionId, u32>,
    /// What runs beside the routed instances, by revision.
    pub processes: BTreeMap<RevisionId, ProcessCounts>,
    /// The candidate's processes have stayed up for a while.
    pub steady: bool,
    /// The candidate's smoke tests have passed.
    pub smoked: bool,
    /// The load tests that the candidate held, by their steps' texts: the same one twice is held once.
    pub loaded: BTreeSet<String>,
    /// Revisions in the store.
    pub stored: Vec<RevisionId>,
    /// The weights in force.
    pub weights: Vec<(RevisionId, Weight)>,
    /// Revisions that hold requests in flight or pooled connections.
    pub in_flight: Vec<RevisionId>,
    /// The lease in force, and when it lapses.
    pub lease: Option<(Lease, Moment)>,
    /// Trips not yet acknowledged: number, why.
    pub trips: Vec<(u64, String)>,
    /// The highest fence seen.
    pub fence: Fence,
    /// Mistakes that would have hurt a user, in the order they happened.
    pub violations: Vec<String>,
    /// The user's own tests fail.
    pub bad_gate: bool,
    /// The candidate fails its checks.
    pub bad_checks: bool,
    /// The candidate fails its smoke tests.
    pub bad_smoke: bool,
    /// The candidate does not hold its load tests.
    pub bad_load: bool,
    /// The candidate's processes do not stay up.
    pub bad_processes: bool,
    /// The candidate's live traffic fails its guard.
    pub bad_traffic: bool,
    /// The candidate gets too little traffic for a verdict.
    pub no_traffic: bool,
    /// The world ignores fences: a planted fault.
    pub ignores_fences: bool,
    plan: Arc<Plan>,
    pinned: Vec<(ReleaseId, RevisionId)>,
    trip_count: u64,
}

impl World {
    /// The world before the release of `plan`: its stable revision, if any, runs and takes all traffic.
    pub fn new(plan: Arc<Plan>) -> World {
        let all: Vec<RevisionId> = plan.stable.iter().cloned().collect();
        World {
            running: all.iter().map(|revision| (revision.clone(), plan.replicas)).collect(),
            checked: all.iter().map(|revision| (revision.clone(), plan.replicas)).collect(),
            processes: all.iter().map(|revision| (revision.clone(), plan.stable_processes.clone())).collect(),
            steady: false,
            smoked: false,
            loaded: BTreeSet::new(),
            stored: all.clone(),
            weights: all.iter().map(|revision| (revision.clone(), Weight::FULL)).collect(),
            in_flight: all,
            lease: None,
            trips: Vec::new(),
            fence: Fence::default(),
            violations: Vec::new(),
            bad_gate: false,
            bad_checks: false,
            bad_smoke: false,
            bad_load: false,
            bad_processes: false,
            bad_traffic: false,
            no_traffic: false,
            ignores_fences: false,
            plan,
            pinned: Vec::new(),
            trip_count: 0,
        }
    }

    /// Returns the weight in force of `revision`.
    pub fn weight(&self, revision: &RevisionId) -> Weight {
        self.weights.iter().find(|(r, _)| r == revision).map_or(Weight::ZERO, |(_, weight)| *weight)
    }

    /// Returns how many instances of `revision` run.
    pub fn count(&self, revision: &RevisionId) -> u32 {
        self.running.get(revision).copied().unwrap_or(0)
    }

    /// Returns what runs of `revision` beside its routed instances.
    pub fn processes(&self, revision: &RevisionId) -> ProcessCounts {
        self.processes.get(revision).cloned().unwrap_or_default()
    }

    /// Lets time pass: a lease that nobody renewed lapses, and its candidate loses its traffic.
    pub fn pass(&mut self, now: Moment) {
        if self.lease.as_ref().is_some_and(|(_, until)| now >= *until) {
            self.trip("the lease lapsed");
        }
    }

    /// Renews the lease.
    pub fn renew(&mut self, now: Moment) {
        if let Some((_, until)) = &mut self.lease {
            *until = now.after_ms(LEASE_MS);
        }
    }

    /// The router takes the candidate's traffic away by itself.
    pub fn trip(&mut self, why: &str) {
        let Some((lease, _)) = self.lease.take() else { return };
        let keeps = lease.retain.min(self.weight(&lease.candidate));
        self.move_weights(vec![(lease.fallback, keeps.rest()), (lease.candidate.clone(), keeps)]);
        self.pinned.push((lease.release, lease.candidate));
        self.trip_count += 1;
        self.trips.push((self.trip_count, why.into()));
    }

    /// Does what `effect` asks; `now` is when it takes hold.
    pub fn act(&mut self, effect: &Effect, fence: Fence, now: Moment) -> Outcome {
        let changes = !matches!(effect.resource(), crate::effect::Resource::Nothing);
        if changes && !self.ignores_fences {
            if fence < self.fence {
                return Err(Fault::fenced("a newer driver acts on this service"));
            }
            self.fence = fence;
        }
        match effect {
            Effect::Preflight { .. } | Effect::KeepLease { .. } => {}
            Effect::Gate { command } if self.bad_gate => {
                return Err(Fault::candidate(format!("the gate `{command}` exited 1")).fatal());
            }
            Effect::Gate { .. } => {}
            Effect::Build { revision } => push_once(&mut self.stored, revision),
            Effect::Provision { revision, count } => {
                if !self.stored.contains(revision) {
                    return Err(Fault::platform("the revision is not in the store"));
                }
                self.running.insert(revision.clone(), *count);
            }
            Effect::Check { revision, count } => return self.check(revision, *count),
            Effect::Smoke { revision } => return self.smoke(revision),
            Effect::Load { revision, beside, test } => return self.load(revision, beside.as_ref(), test),
            Effect::Processes { revision, run, .. } => {
                if !run.is_empty() && !self.stored.contains(revision) {
                    return Err(Fault::platform("the revision is not in the store"));
                }
                self.steady &= *revision != self.plan.candidate || self.processes(revision) == *run;
                self.processes.insert(revision.clone(), run.clone());
            }
            Effect::Steady { revision, run } => return self.stays_up(revision, run),
            Effect::Shrink { revision, count, shift, .. } => {
                match shift.lease {
                    Some(_) => self.set(shift, now)?,
                    None => self.lower(shift, now)?,
                };
                return self.shrink(revision, *count);
            }
            Effect::Shift(shift) => return self.set(shift, now),
            Effect::Settle(shift) => return self.set(shift, now),
            Effect::Lower(shift) => return self.lower(shift, now),
            Effect::Watch { .. } | Effect::Judge { .. } => return Ok(Evidence::Verdict(self.verdict())),
            Effect::Drain { revision, .. } => {
                if self.weight(revision) > Weight::ZERO {
                    return Err(Fault::platform("the revision still has weight"));
                }
                self.in_flight.retain(|r| r != revision);
                return Ok(Evidence::Drained { cut: 0, closed: 0 });
            }
            Effect::Retire { revision } => {
                if self.count(revision) > 0 && self.in_flight.contains(revision) {
                    self.violations.push(format!("{revision} was stopped with requests in flight"));
                }
                if self.weight(revision) > Weight::ZERO {
                    self.violations.push(format!("{revision} was stopped with weight"));
                }
                self.running.remove(revision);
                self.checked.remove(revision);
                self.processes.remove(revision);
            }
        }
        Ok(Evidence::Plain)
    }

    fn check(&mut self, revision: &RevisionId, count: u32) -> Outcome {
        let runs = self.count(revision);
        if runs < count.max(1) {
            return Err(Fault::platform(format!("{runs} of {count} instances run")));
        }
        if self.bad_checks && *revision == self.plan.candidate {
            return Err(Fault::candidate("GET /health answered 500, expected 200-399"));
        }
        self.checked.insert(revision.clone(), runs);
        Ok(Evidence::Plain)
    }

    fn smoke(&mut self, revision: &RevisionId) -> Outcome {
        if self.count(revision) == 0 {
            return Err(Fault::platform("no instance runs"));
        }
        if self.bad_smoke {
            return Err(Fault::candidate("smoke test GET /api answered 500, expected 200-399"));
        }
        self.smoked = true;
        Ok(Evidence::Plain)
    }

    fn load(&mut self, revision: &RevisionId, beside: Option<&RevisionId>, test: &Load) -> Outcome {
        if [Some(revision), beside].into_iter().flatten().any(|revision| self.count(revision) == 0) {
            return Err(Fault::platform("no instance runs"));
        }
        if self.bad_load {
            return Err(Fault::candidate(format!(
                "load test {} failed: p95 700.0 ms, 500.0 ms allowed",
                test.name()
            )));
        }
        self.loaded.insert(test.name());
        Ok(Evidence::Plain)
    }

    fn stays_up(&mut self, revision: &RevisionId, run: &ProcessCounts) -> Outcome {
        if self.processes(revision) != *run {
            return Err(Fault::platform("not all processes run"));
        }
        if self.bad_processes {
            return Err(Fault::candidate("worker does not stay up: exit status 1"));
        }
        self.steady = true;
        Ok(Evidence::Plain)
    }

    fn shrink(&mut self, revision: &RevisionId, count: u32) -> Outcome {
        let needed = self.plan.needed(self.weight(revision));
        if count < needed {
            self.violations
                .push(format!("{revision} shrank to {count} instances, its weight needs {needed}"));
        }
        for instances in [&mut self.running, &mut self.checked] {
            if let Some(runs) = instances.get_mut(revision) {
                *runs = count.min(*runs);
            }
        }
        Ok(Evidence::Drained { cut: 0, closed: 0 })
    }

    fn set(&mut self, shift: &Shift, now: Moment) -> Outcome {
        for (release, revision) in &self.pinned {
            let other = shift.lease.as_ref().is_some_and(|lease| &lease.release != release);
            // Lowering it further is the way back.
            if shift.weight_of(revision) > self.weight(revision) && !other {
                return Err(Fault::platform("the router took this candidate's traffic away").fatal());
            }
        }
        if let Some(lease) = &shift.lease {
            self.pinned.retain(|(release, _)| release == &lease.release);
        }
        self.lease = shift.lease.clone().map(|lease| (lease, now.after_ms(LEASE_MS)));
        self.move_weights(shift.weights.clone());
        Ok(Evidence::Shifted { generation: 1, acknowledged_us: 100 })
    }

    fn lower(&mut self, shift: &Shift, now: Moment) -> Outcome {
        let candidate = self.plan.candidate.clone();
        self.set(&shift.capped(&candidate, self.weight(&candidate)), now)
    }

    fn move_weights(&mut self, weights: Vec<(RevisionId, Weight)>) {
        self.weights = weights.into_iter().filter(|(_, weight)| *weight > Weight::ZERO).collect();
        for (revision, _) in self.weights.clone() {
            push_once(&mut self.in_flight, &revision);
        }
    }

    fn verdict(&self) -> Verdict {
        let counts = Counts { requests: 100, failed: 50, latency_us_sum: 0, latency_us_p95: 0 };
        let (judgement, why) = match (self.bad_traffic, self.no_traffic) {
            (true, _) => (Judgement::Fail, "50 of 100 requests failed"),
            (_, true) => (Judgement::Inconclusive, "0 requests"),
            _ => (Judgement::Pass, "100 of 100 requests succeeded"),
        };
        Verdict { judgement, why: why.into(), counts, epoch: None }
    }

    /// Returns a fault as an edge would report it.
    pub fn fault(blame: Blame, after: After) -> Fault {
        Fault::new(blame, after, format!("planned fault of the {blame}"))
    }
}

fn push_once(list: &mut Vec<RevisionId>, revision: &RevisionId) {
    if !list.contains(revision) {
        list.push(revision.clone());
    }
}
