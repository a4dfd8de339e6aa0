//! What the machine wants done at the edges, and what came of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::CheckResult;
use crate::fault::Fault;
use crate::file::{Guard, Load};
use crate::guard::Verdict;
use crate::ids::{ReleaseId, RevisionId};
use crate::load::LoadResult;
use crate::plan::{Compare, ProcessCounts, Prove, Track};
use crate::units::{Span, Weight};

/// Identifies an effect: the place it acts on, the step that wants it, its name.
///
/// Repeating the effect of one key is harmless; two keys of the same resource never run at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectKey {
    /// The host or cluster; `here` for this machine.
    pub place: String,
    /// The step that wants it.
    pub step: StepKey,
    /// What it does.
    pub name: EffectName,
}

/// A step of the plan, or a stage of the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKey {
    /// Step with this index in the plan.
    Forward(usize),
    /// A stage of the way back.
    Back(BackStage),
}

/// The stages of a way back; which, and in which order, says [`Plan::way_back`](crate::Plan::way_back).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackStage {
    /// Stable gets what it can carry; the candidate keeps the rest.
    Return {
        /// What the candidate keeps.
        weight: Weight,
    },
    /// Instances of the candidate leave, drained, to make room.
    Yield {
        /// How many stay.
        count: u32,
    },
    /// Instances of stable run again.
    Restore {
        /// How many run then.
        count: u32,
    },
    /// The instances of stable pass their checks.
    Recheck {
        /// How many run.
        count: u32,
    },
    /// All traffic returns to stable.
    Traffic,
    /// The candidate's processes stop; those of stable run again.
    Processes {
        /// Whose.
        of: Track,
    },
    /// The candidate finishes what it has.
    Drain,
    /// The candidate's instances stop.
    Retire,
}

/// The kinds of effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum EffectName {
    Preflight,
    Gate,
    Build,
    Provision,
    Check,
    Smoke,
    Load,
    Processes,
    Steady,
    Shift,
    KeepLease,
    Watch,
    Judge,
    Shrink,
    Settle,
    Drain,
    Retire,
}

impl fmt::Display for EffectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            EffectName::Preflight => "preflight",
            EffectName::Gate => "gate",
            EffectName::Build => "build",
            EffectName::Provision => "provision",
            EffectName::Check => "check",
            EffectName::Smoke => "smoke",
            EffectName::Load => "load",
            EffectName::Processes => "processes",
            EffectName::Steady => "steady",
            EffectName::Shift => "shift",
            EffectName::KeepLease => "keep lease",
            EffectName::Watch => "watch",
            EffectName::Judge => "judge",
            EffectName::Shrink => "shrink",
            EffectName::Settle => "settle",
            EffectName::Drain => "drain",
            EffectName::Retire => "retire",
        })
    }
}

/// An "ensure …" call to an edge. Names the end state, so that repeating it is harmless.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Effect {
    /// Look whether both revisions fit beside each other; changes nothing.
    Preflight {
        /// The revision to come.
        candidate: RevisionId,
        /// How many of its instances run beside all of stable.
        beside: u32,
        /// Which of its processes do.
        processes: ProcessCounts,
    },
    /// One of the user's own tests exits 0; repeated after a crash.
    Gate {
        /// The shell command.
        command: String,
    },
    /// The revision lies complete in the store.
    Build {
        /// The revision to store.
        revision: RevisionId,
    },
    /// So many instances of the revision run.
    Provision {
        /// The revision to run.
        revision: RevisionId,
        /// How many instances.
        count: u32,
    },
    /// Every instance passes its checks.
    Check {
        /// The revision to ask.
        revision: RevisionId,
        /// How many instances there must be.
        count: u32,
    },
    /// One instance passes the smoke tests, all of which are tried; repeated after a crash.
    Smoke {
        /// The revision to try.
        revision: RevisionId,
    },
    /// The revision holds a load test: all of its instances get the load; repeated after a crash.
    Load {
        /// The revision to load.
        revision: RevisionId,
        /// The revision to compare it with, which gets the same load; none where the candidate stands alone.
        beside: Option<RevisionId>,
        /// What is sent, and what must be held.
        test: Box<Load>,
    },
    /// Exactly these processes of the revision run beside its routed one. Done when what is too much has ended: what
    /// comes next may rely on it.
    Processes {
        /// The revision.
        revision: RevisionId,
        /// How many of each.
        run: ProcessCounts,
        /// The longest that any of them may take to stop.
        grace: Span,
    },
    /// None of these processes ends for [`STEADY`](crate::plan::STEADY).
    Steady {
        /// The revision.
        revision: RevisionId,
        /// How many of each there must be.
        run: ProcessCounts,
    },
    /// The router splits traffic so.
    Shift(Shift),
    /// The router splits traffic so on the way back; where the candidate has less already, a trip having come first
    /// say, it does not get more.
    Lower(Shift),
    /// Renew the candidate's lease for as long as this is wanted. Never done by itself.
    KeepLease {
        /// Whose lease.
        release: ReleaseId,
    },
    /// Watch the candidate's traffic for as long as this is wanted; done by a failed verdict, or by a pass of what is to be proven.
    Watch {
        /// The revision under observation.
        revision: RevisionId,
        /// What it must hold.
        guard: Guard,
        /// What is to be proven of it, if anything is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prove: Option<Prove>,
    },
    /// Say once what the candidate's traffic since the shift shows.
    Judge {
        /// The revision under observation.
        revision: RevisionId,
        /// What it must hold.
        guard: Guard,
        /// What is to be proven of it, if anything is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prove: Option<Prove>,
    },
    /// Only so many instances of the revision run; those that leave get no request, finish what they have, and stop.
    Shrink {
        /// The revision.
        revision: RevisionId,
        /// How many instances stay.
        count: u32,
        /// How traffic is split before they leave: what the candidate keeps on lapse has grown by what they carried.
        shift: Shift,
        /// After this, what those that leave still have is cut, and counted.
        within: Span,
    },
    /// The candidate is stable in the router: all weight, no lease.
    Settle(Shift),
    /// Nothing is in flight to the revision, and no connection to it is kept.
    Drain {
        /// The revision to drain.
        revision: RevisionId,
        /// After this, what is left is cut, and counted.
        within: Span,
    },
    /// No instance of the revision runs.
    Retire {
        /// The revision to stop.
        revision: RevisionId,
    },
}

/// How the router shall split a service's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// Route weight per revision; together everything, or nothing at all.
    pub weights: Vec<(RevisionId, Weight)>,
    /// The lease of the candidate's weight, with what happens when it lapses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

impl Shift {
    /// Returns the same with at most `most` for `revision`; the other takes the rest.
    #[must_use]
    pub fn capped(&self, revision: &RevisionId, most: Weight) -> Shift {
        let cap = self.weight_of(revision).min(most);
        let weights =
            self.weights.iter().map(|(r, _)| (r.clone(), if r == revision { cap } else { cap.rest() }));
        Shift { weights: weights.collect(), lease: self.lease.clone() }
    }

    /// Returns the weight of `revision`.
    pub fn weight_of(&self, revision: &RevisionId) -> Weight {
        self.weights.iter().find(|(r, _)| r == revision).map_or(Weight::ZERO, |(_, weight)| *weight)
    }
}

/// The candidate's weight holds only while a driver renews it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The release that moves the weight.
    pub release: ReleaseId,
    /// The revision whose weight is leased.
    pub candidate: RevisionId,
    /// Who takes the traffic on lapse or trip.
    pub fallback: RevisionId,
    /// What the candidate keeps of it then, at most its weight: so much the fallback could not carry. Everything means
    /// that nobody else can take any, and that nothing moves.
    #[serde(default, skip_serializing_if = "Weight::is_zero")]
    pub retain: Weight,
    /// What the router may judge by itself, so that a bad candidate loses its traffic with no driver alive.
    pub guard: Guard,
    /// How it compares the candidate with stable; none: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<Compare>,
}

impl Effect {
    /// Returns the effect's name.
    pub fn name(&self) -> EffectName {
        match self {
            Effect::Preflight { .. } => EffectName::Preflight,
            Effect::Gate { .. } => EffectName::Gate,
            Effect::Build { .. } => EffectName::Build,
            Effect::Provision { .. } => EffectName::Provision,
            Effect::Check { .. } => EffectName::Check,
            Effect::Smoke { .. } => EffectName::Smoke,
            Effect::Load { .. } => EffectName::Load,
            Effect::Processes { .. } => EffectName::Processes,
            Effect::Steady { .. } => EffectName::Steady,
            Effect::Shift(_) | Effect::Lower(_) => EffectName::Shift,
            Effect::KeepLease { .. } => EffectName::KeepLease,
            Effect::Watch { .. } => EffectName::Watch,
            Effect::Judge { .. } => EffectName::Judge,
            Effect::Shrink { .. } => EffectName::Shrink,
            Effect::Settle(_) => EffectName::Settle,
            Effect::Drain { .. } => EffectName::Drain,
            Effect::Retire { .. } => EffectName::Retire,
        }
    }

    /// Returns what the effect changes; effects of one resource never run at once.
    pub fn resource(&self) -> Resource {
        match self {
            Effect::Build { revision }
            | Effect::Provision { revision, .. }
            | Effect::Processes { revision, .. }
            | Effect::Shrink { revision, .. }
            | Effect::Retire { revision } => Resource::Revision(revision.clone()),
            Effect::Shift(_) | Effect::Lower(_) | Effect::Settle(_) | Effect::Drain { .. } => {
                Resource::Router
            }
            Effect::Preflight { .. }
            | Effect::Gate { .. }
            | Effect::Check { .. }
            | Effect::Smoke { .. }
            | Effect::Load { .. }
            | Effect::Steady { .. }
            | Effect::KeepLease { .. }
            | Effect::Watch { .. }
            | Effect::Judge { .. } => Resource::Nothing,
        }
    }
}

/// What an effect changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// It only looks.
    Nothing,
    /// The service's entry in the router.
    Router,
    /// The instances and files of a revision.
    Revision(RevisionId),
}

/// What an effect that succeeded has to show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Evidence {
    /// Nothing beyond having succeeded.
    #[default]
    Plain,
    /// A line for people.
    Note {
        /// What there is to say.
        text: String,
    },
    /// The router took the new weights over.
    Shifted {
        /// The table's generation since.
        generation: u64,
        /// From asking to the last worker's acknowledgement, in microseconds.
        acknowledged_us: u64,
    },
    /// A revision holds no request any more.
    Drained {
        /// Requests and connections cut because the time was over.
        cut: u64,
        /// WebSockets closed with a close frame.
        closed: u64,
    },
    /// What was asked of instances, and what they said.
    Checked {
        /// One result for each question and instance, in the order of the release file.
        results: Vec<CheckResult>,
    },
    /// What a load test came to.
    Loaded {
        /// Its numbers, and what is said of them.
        result: Box<LoadResult>,
    },
    /// What the candidate's traffic shows.
    Verdict(Verdict),
}

/// What came of an effect.
pub type Outcome = Result<Evidence, Fault>;
