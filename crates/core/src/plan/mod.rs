//! The plan: the steps of a release, fixed before anything moves. Strategies differ here and nowhere else.

mod processes;
mod prove;
mod sizes;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::file::{ApprovalPoint, Guard, Load, Strategy};
use crate::ids::{ProcessName, ReleaseId, RevisionId, ServiceName};
use crate::release::{Observed, Release, ReleaseKind};
use crate::units::{Span, Weight};

use processes::Staff;
pub use processes::{ProcessCounts, STEADY, Track};
pub use prove::{Compare, Expects, FLOOR, Prove};

/// The steps of one release, and what they need to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The release.
    pub release: ReleaseId,
    /// The service.
    pub service: ServiceName,
    /// The revision to come.
    pub candidate: RevisionId,
    /// The revision that takes traffic now; none in a first release.
    pub stable: Option<RevisionId>,
    /// The steps, in order. Never empty, and with exactly one promote.
    pub steps: Vec<Step>,
    /// The strategy's name, for people.
    pub strategy: String,
    /// How many instances carry all traffic.
    pub replicas: u32,
    /// How many instances of both revisions run at once at most.
    pub most: u32,
    /// How many ready instances of both revisions there are at least, while the release is not decided.
    pub least_ready: u32,
    /// What runs of the candidate beside its routed process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: ProcessCounts,
    /// What runs of stable beside its routed process.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stable_processes: ProcessCounts,
    /// The processes of which two revisions never run at once.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub alone: BTreeSet<ProcessName>,
    /// The longest that any of these processes may take to stop.
    #[serde(default)]
    pub process_grace: Span,
    /// How long a drain may take.
    pub drain: Span,
    /// What the router may judge by itself while the candidate's weight is leased.
    pub guard: Guard,
    /// How the router compares the candidate with stable meanwhile; none: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<Compare>,
    /// When the release goes back if it is not decided, counted from its beginning.
    pub deadline: Span,
    /// How long the service takes to become ready, if known.
    pub ready_ms: Option<u64>,
    /// What is not free of downtime, each a sentence.
    pub losses: Vec<String>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// Both revisions fit beside each other.
    Preflight,
    /// One of the user's own tests passes.
    Gate {
        /// The shell command.
        command: String,
    },
    /// The candidate lies in the store.
    Build,
    /// The candidate's instances run.
    Provision {
        /// How many.
        count: u32,
    },
    /// The candidate's instances pass their checks.
    Check,
    /// The candidate passes its smoke tests.
    Smoke {
        /// How many.
        tests: usize,
    },
    /// The candidate's instances hold a load test.
    Load {
        /// What is sent, and what must be held.
        test: Box<Load>,
    },
    /// Exactly these processes of a revision run beside its routed one; what is not named has stopped.
    Processes {
        /// Whose.
        of: Track,
        /// How many of each.
        run: ProcessCounts,
    },
    /// The candidate's processes stay up for [`STEADY`].
    Steady,
    /// A person approves.
    Approve {
        /// Before what.
        point: ApprovalPoint,
    },
    /// Traffic moves.
    Shift {
        /// The candidate's route weight from here on.
        weight: Weight,
    },
    /// The candidate stands under observation.
    Bake {
        /// How long.
        span: Span,
        /// What it must hold.
        guard: Guard,
        /// What is to be proven of it before `span` is over: then it is over at once. None: the whole `span` is waited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prove: Option<Prove>,
    },
    /// Instances of stable leave, drained, so that instances of the candidate can take their place.
    Shrink {
        /// How many stay.
        count: u32,
    },
    /// The candidate becomes stable: the release is decided.
    Promote,
    /// The predecessor stays ready.
    Warm {
        /// How long.
        span: Span,
    },
    /// The predecessor finishes what it has.
    Drain,
    /// The predecessor's instances stop. The first stop signal is the point of no return.
    Retire,
}

impl Step {
    /// Returns the step's name in one word or two.
    pub fn name(&self) -> String {
        match self {
            Step::Preflight => "preflight".into(),
            Step::Gate { .. } => "gate".into(),
            Step::Build => "build".into(),
            Step::Provision { .. } => "provision".into(),
            Step::Check => "check".into(),
            Step::Smoke { .. } => "smoke".into(),
            Step::Load { .. } => "load".into(),
            Step::Processes { .. } => "processes".into(),
            Step::Steady => "steady".into(),
            Step::Approve { .. } => "approve".into(),
            Step::Shift { weight } => format!("shift {weight}"),
            Step::Bake { .. } => "bake".into(),
            Step::Shrink { .. } => "shrink".into(),
            Step::Promote => "promote".into(),
            Step::Warm { .. } => "warm".into(),
            Step::Drain => "drain".into(),
            Step::Retire => "retire".into(),
        }
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The revision is stable already: there is nothing to do.
    #[error("{service} is up to date: {revision} is stable already")]
    AlreadyStable {
        /// The service.
        service: ServiceName,
        /// The stable revision.
        revision: RevisionId,
    },
    /// The revision was taken back last time.
    #[error("{revision} of {service} was rolled back last time and would come again unchanged")]
    RolledBackBefore {
        /// The service.
        service: ServiceName,
        /// The refused revision.
        revision: RevisionId,
    },
}

impl PlanError {
    /// Returns what to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            PlanError::AlreadyStable { .. } => "",
            PlanError::RolledBackBefore { .. } => "change it, or say --again if what was wrong lay elsewhere",
        }
    }
}

impl Plan {
    /// Plans `release` from what was `observed`; `again` allows a revision that was just rolled back.
    ///
    /// # Errors
    /// When there is nothing to do, or the revision was rolled back and `again` is not said.
    pub fn new(release: &Release, observed: &Observed, again: bool) -> Result<Plan, PlanError> {
        let (service, candidate) = (release.service.clone(), release.candidate.clone());
        if observed.stable.as_ref() == Some(&candidate) {
            return Err(PlanError::AlreadyStable { service, revision: candidate });
        }
        if observed.rolled_back.as_ref() == Some(&candidate) && !again && release.kind == ReleaseKind::Deploy
        {
            return Err(PlanError::RolledBackBefore { service, revision: candidate });
        }
        let Staff { candidate: processes, stable: stable_processes, alone, grace: process_grace } =
            Staff::of(release, observed);
        let replicas = release.file.platform.replicas();
        let (most, least_ready) = match &release.file.strategy {
            Strategy::Rolling(rolling) if observed.stable.is_some() => {
                (replicas + rolling.max_surge, replicas.saturating_sub(rolling.max_unavailable))
            }
            _ => (replicas * 2, replicas),
        };
        Ok(Plan {
            release: release.id.clone(),
            service,
            candidate,
            stable: observed.stable.clone(),
            steps: steps::steps(release, observed),
            strategy: release.file.strategy.name().into(),
            replicas,
            most,
            least_ready,
            processes,
            stable_processes,
            alone,
            process_grace,
            drain: release.file.drain,
            guard: release.file.guard.clone(),
            compare: prove::compare(release, observed),
            deadline: release.file.deadline,
            ready_ms: observed.ready_ms,
            losses: losses(release, observed),
        })
    }

    /// Returns the index of the first step that moves traffic.
    pub fn first_shift(&self) -> usize {
        self.position(|step| matches!(step, Step::Shift { .. }))
    }

    /// Returns the index of the step that decides the release.
    pub fn promote(&self) -> usize {
        self.position(|step| matches!(step, Step::Promote))
    }

    /// Returns the index of the step from which the predecessor is being stopped; none in a first release.
    pub fn point_of_no_return(&self) -> Option<usize> {
        self.steps.iter().position(|step| matches!(step, Step::Retire))
    }

    fn position(&self, wanted: impl Fn(&Step) -> bool) -> usize {
        self.steps.iter().position(wanted).unwrap_or(self.steps.len())
    }
}

/// Names what this plan cannot keep free of downtime. Nothing of the kind happens unsaid.
fn losses(release: &Release, observed: &Observed) -> Vec<String> {
    let file = &release.file;
    let mut losses = Vec::new();
    if observed.stable.is_none() {
        losses.push(
            "first release: until it takes traffic the route answers 503, and there is no predecessor to go back to"
                .into(),
        );
    } else {
        losses.push(format!(
            "what stable still answers {} after its drain begins is cut: downloads, uploads, server-sent events; \
             WebSockets get a close frame",
            file.drain
        ));
    }
    if file.platform.replicas() == 1 {
        losses.push("1 instance: if it crashes by itself, requests fail until it runs again".into());
    }
    if let (Strategy::Rolling(rolling), Some(_)) = (&file.strategy, &observed.stable) {
        let replicas = file.platform.replicas();
        if rolling.max_unavailable > 0 {
            losses.push(format!(
                "max_unavailable {}: while a batch is replaced, {} of {replicas} instances carry all traffic",
                rolling.max_unavailable,
                replicas.saturating_sub(rolling.max_unavailable)
            ));
        }
        losses.push(
            "rolling: stable stops batch by batch, so the way back starts its instances again, batch by batch".into(),
        );
    }
    losses.extend(Staff::of(release, observed).losses());
    losses.extend(observed.losses.iter().cloned());
    losses
}
