//! The release machine: one explicit match over legal transitions, and effects as a function of state.
//!
//! State is step × mode. The machine never acts: it is told what happened, and says what is wanted.

mod apply;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::effect::{BackStage, EffectKey};
use crate::event::{Command, HoldDefault};
use crate::fault::{Blame, Fault};
use crate::file::ApprovalPoint;
use crate::guard::Verdict;
use crate::ids::{Moment, RevisionId};
use crate::plan::{Plan, ProcessCounts, Step, Track};
use crate::units::Weight;

pub use wanted::Wanted;

/// A release under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    plan: Arc<Plan>,
    at: usize,
    mode: Mode,
    opened: Moment,
    entered: Moment,
    /// The current step has all it needs, and waits only for the mode.
    complete: bool,
    done: BTreeSet<EffectKey>,
    attempts: BTreeMap<EffectKey, Attempts>,
    /// The remaining bakes are skipped: a person said `promote`.
    skip_bakes: bool,
    /// What the judge counted is journaled.
    accounted: bool,
    /// The bake's time is over; what it showed is still to be judged.
    bake_elapsed: bool,
    decided: Option<Moment>,
    verdicts: Vec<Verdict>,
    trips: Vec<u64>,
}

/// How the machine moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "mode")]
pub enum Mode {
    /// Step after step.
    Forward,
    /// It waits.
    Held(Hold),
    /// It returns to stable.
    Back(Back),
    /// Nothing is left to do.
    Ended {
        /// How it ended.
        outcome: Ending,
    },
}

/// Why the machine waits, until when, and what happens then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The reason.
    pub why: HoldReason,
    /// The deadline.
    pub until: Moment,
    /// What happens at the deadline.
    pub then: HoldDefault,
}

/// Why the machine waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum HoldReason {
    /// A person paused it.
    Paused {
        /// Who.
        by: String,
    },
    /// A person must approve.
    Approval {
        /// What follows.
        point: ApprovalPoint,
    },
    /// A bake ended without enough evidence.
    Inconclusive,
    /// A bake ended, and what measures it does not answer. It is asked on, and its answer ends the hold.
    Unmeasured {
        /// What does not answer.
        what: String,
    },
}

/// The way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Back {
    /// Why it goes back.
    pub why: BackReason,
    /// Where it is.
    pub stage: BackStage,
    /// The last failure, once so many failed in a row that a person is needed. It is still retried.
    pub stuck: Option<Fault>,
}

/// Why a release goes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum BackReason {
    /// An effect failed for good.
    Fault {
        /// How.
        fault: Fault,
    },
    /// The candidate's traffic failed its guard.
    Verdict {
        /// The evidence.
        verdict: Verdict,
    },
    /// The router took the traffic away by itself.
    Tripped {
        /// Why.
        why: String,
        /// Stable fails as well: the release is not to blame.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        shared: bool,
    },
    /// A person said so.
    Aborted {
        /// Who.
        by: String,
    },
    /// A newer release wants the service.
    Superseded {
        /// Who asked.
        by: String,
    },
    /// A hold ran out, or the whole release took too long.
    Deadline {
        /// What was waited for.
        what: String,
    },
}

impl std::fmt::Display for BackReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BackReason::Fault { fault } => f.write_str(&fault.what),
            BackReason::Verdict { verdict } => f.write_str(&verdict.why),
            BackReason::Tripped { why, .. } => write!(f, "the router took its traffic away: {why}"),
            BackReason::Aborted { by } => write!(f, "aborted by {by}"),
            BackReason::Superseded { by } => write!(f, "superseded by {by}"),
            BackReason::Deadline { what } => f.write_str(what),
        }
    }
}

/// How a release ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ending")]
pub enum Ending {
    /// The candidate is stable, the predecessor is gone or adopted.
    Released,
    /// It failed before any traffic moved.
    Refused {
        /// Why.
        why: BackReason,
    },
    /// It was taken back after traffic had moved.
    RolledBack {
        /// Why.
        why: BackReason,
    },
    /// A person, or a newer release, ended it.
    Withdrawn {
        /// Why.
        why: BackReason,
        /// Whether traffic had moved.
        moved: bool,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Attempts {
    failed: u32,
    not_before: Moment,
}

/// An event that is not legal in this state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Illegal {
    what: String,
    hint: &'static str,
}

impl Illegal {
    /// Returns what to do instead; empty where nothing helps.
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

impl Machine {
    /// Begins the release of `plan`.
    pub fn open(plan: impl Into<Arc<Plan>>, now: Moment) -> Machine {
        Machine {
            plan: plan.into(),
            at: 0,
            mode: Mode::Forward,
            opened: now,
            entered: now,
            complete: false,
            done: BTreeSet::new(),
            attempts: BTreeMap::new(),
            skip_bakes: false,
            accounted: false,
            bake_elapsed: false,
            decided: None,
            verdicts: Vec::new(),
            trips: Vec::new(),
        }
    }

    /// Returns the plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the index of the current step.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Returns the current step.
    pub fn step(&self) -> &Step {
        &self.plan.steps[self.at]
    }

    /// Returns how it moves.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Returns when the current step, or the current stage of the way back, began.
    pub fn entered(&self) -> Moment {
        self.entered
    }

    /// Returns when the release began.
    pub fn opened(&self) -> Moment {
        self.opened
    }

    /// Tells whether the first shift was asked for: traffic may have moved.
    pub fn moved(&self) -> bool {
        self.plan.weight_at(self.at).is_some()
    }

    /// Tells whether the journal has what the judge counted.
    pub fn is_accounted(&self) -> bool {
        self.accounted
    }

    /// Returns when the candidate became stable.
    pub fn decided(&self) -> Option<Moment> {
        self.decided
    }

    /// Returns what was judged so far.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// Tells whether the release still holds its service: not decided, not ended.
    pub fn holds_service(&self) -> bool {
        self.decided.is_none() && !self.ended()
    }

    /// Tells whether nothing is left to do.
    pub fn ended(&self) -> bool {
        matches!(self.mode, Mode::Ended { .. })
    }

    /// Returns how it ended.
    pub fn ending(&self) -> Option<&Ending> {
        match &self.mode {
            Mode::Ended { outcome } => Some(outcome),
            _ => None,
        }
    }

    /// Returns the predecessor that this release's tail still keeps or stops.
    pub fn tail_of(&self) -> Option<&RevisionId> {
        if self.decided.is_some() && !self.ended() { self.plan.stable.as_ref() } else { None }
    }

    /// Tells whether the predecessor may have been sent its stop signal.
    pub fn past_return(&self) -> bool {
        self.decided.is_some() && self.plan.point_of_no_return().is_none_or(|index| self.at >= index)
    }

    /// Returns the exit code of `deploy` (design §7), once it is known.
    pub fn exit_code(&self) -> Option<u8> {
        match &self.mode {
            _ if self.decided.is_some() => Some(0),
            Mode::Back(back) if back.stuck.is_some() => Some(5),
            Mode::Ended { outcome } => Some(match outcome {
                Ending::Released => 0,
                Ending::Refused { why: BackReason::Fault { fault } } if fault.blame == Blame::Cutover => 1,
                Ending::Refused { .. } => 3,
                Ending::RolledBack { .. } => 4,
                Ending::Withdrawn { .. } => 7,
            }),
            _ => None,
        }
    }

    /// Returns the candidate's route weight that this state wants; none where it wants no change.
    pub fn weight(&self) -> Option<Weight> {
        let forward = self.plan.weight_at(self.at);
        match &self.mode {
            Mode::Back(_) | Mode::Ended { .. } if self.decided.is_none() => {
                let returned = self.gone_back().into_iter().rev().find_map(|stage| match stage {
                    BackStage::Return { weight } => Some(weight),
                    BackStage::Traffic => Some(Weight::ZERO),
                    _ => None,
                });
                forward.map(|forward| returned.unwrap_or(forward))
            }
            _ => forward,
        }
    }

    /// Returns how many instances of stable and of the candidate this state wants, while the release is not decided;
    /// none where it wants none of a revision, or does not say.
    pub fn instances(&self) -> (Option<u32>, Option<u32>) {
        if !self.holds_service() {
            return (None, None);
        }
        let mut stable = self.plan.stable.as_ref().map(|_| self.plan.stable_at(self.at));
        let mut candidate = Some(self.plan.candidate_at(self.at)).filter(|count| *count > 0);
        for stage in self.gone_back() {
            match stage {
                BackStage::Restore { count } => stable = Some(count),
                BackStage::Yield { count } => candidate = Some(count),
                BackStage::Retire => candidate = None,
                _ => {}
            }
        }
        (stable, candidate)
    }

    /// Returns which processes of stable and of the candidate this state wants beside their routed ones.
    pub fn processes(&self) -> (ProcessCounts, ProcessCounts) {
        let mut stable = self.plan.stable_processes_at(self.at);
        let mut candidate = self.plan.candidate_processes_at(self.at);
        for stage in self.gone_back() {
            match stage {
                BackStage::Processes { of: Track::Stable } => stable.clone_from(&self.plan.stable_processes),
                BackStage::Processes { of: Track::Candidate } | BackStage::Retire => candidate.clear(),
                _ => {}
            }
        }
        (stable, candidate)
    }

    /// Returns the stages of the way back up to the current one; empty while it goes forward.
    pub fn gone_back(&self) -> Vec<BackStage> {
        let mut stages = self.plan.way_back(self.at);
        match &self.mode {
            Mode::Back(back) => {
                if let Some(at) = stages.iter().position(|stage| *stage == back.stage) {
                    stages.truncate(at + 1);
                }
                stages
            }
            Mode::Ended { outcome } if !matches!(outcome, Ending::Released) => stages,
            _ => Vec::new(),
        }
    }

    fn illegal(&self, command: &Command) -> Illegal {
        let name = command.name();
        let (what, hint) = match &self.mode {
            Mode::Ended { .. } => (format!("cannot {name} {}: it has ended", self.plan.release), ""),
            _ if self.decided.is_some() => (
                format!("cannot {name} {}: it is decided, the candidate is stable", self.plan.release),
                "to return to the predecessor: cutover rollback",
            ),
            Mode::Back(back) => {
                (format!("cannot {name} {}: it is going back ({})", self.plan.release, back.why), "")
            }
            Mode::Held(Hold { why: HoldReason::Approval { point }, .. }) => (
                format!("cannot {name} {}: it waits for an approval ({})", self.plan.release, point.name()),
                "answer with: cutover approve, or cutover abort",
            ),
            Mode::Held(_) => (
                format!("cannot {name} {}: it is held", self.plan.release),
                "go on with: cutover resume, or go back with: cutover abort",
            ),
            Mode::Forward => {
                let hint = match command {
                    Command::Advance | Command::Promote => "it is possible while the candidate bakes",
                    _ => "",
                };
                (format!("cannot {name} {}: it is at {}", self.plan.release, self.step().name()), hint)
            }
        };
        Illegal { what, hint }
    }
}
