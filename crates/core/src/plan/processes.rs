//! What runs beside the routed process, step by step.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Plan, Step};
use crate::file::Process;
use crate::ids::ProcessName;
use crate::release::{Observed, Release};
use crate::units::Span;

/// A process passes when it did not end for so long.
pub const STEADY: Span = Span::from_secs(2);

/// How many of each process run of a revision; one that is not named does not run.
pub type ProcessCounts = BTreeMap<ProcessName, u32>;

/// One of the two revisions of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Track {
    Stable,
    Candidate,
}

impl Track {
    /// Returns the track's name.
    pub fn name(self) -> &'static str {
        match self {
            Track::Stable => "stable",
            Track::Candidate => "candidate",
        }
    }
}

impl Plan {
    /// Returns which processes of stable are wanted at step `at`.
    pub fn stable_processes_at(&self, at: usize) -> ProcessCounts {
        self.processes_at(Track::Stable, at).unwrap_or(&self.stable_processes).clone()
    }

    /// Returns which processes of the candidate are wanted at step `at`.
    pub fn candidate_processes_at(&self, at: usize) -> ProcessCounts {
        self.processes_at(Track::Candidate, at).cloned().unwrap_or_default()
    }

    /// Tells whether stable's process of that name stops before the candidate's starts: both have it, and two revisions of
    /// it must not run at once.
    pub fn hands_over(&self, name: &ProcessName) -> bool {
        let both = self.processes.contains_key(name) && self.stable_processes.contains_key(name);
        both && self.alone.contains(name)
    }

    /// Returns which of the candidate's processes run beside all that runs now: those that are handed over take a place
    /// that becomes free.
    pub fn processes_beside(&self) -> ProcessCounts {
        let beside = self.processes.iter().filter(|(name, _)| !self.hands_over(name));
        beside.map(|(name, count)| (name.clone(), *count)).collect()
    }

    pub(super) fn processes_at(&self, track: Track, at: usize) -> Option<&ProcessCounts> {
        self.steps
            .iter()
            .take(at + 1)
            .filter_map(|step| match step {
                Step::Processes { of, run } if *of == track => Some(run),
                _ => None,
            })
            .next_back()
    }
}

/// The processes of both revisions, as planning needs them.
pub(super) struct Staff {
    pub(super) candidate: ProcessCounts,
    pub(super) stable: ProcessCounts,
    pub(super) alone: BTreeSet<ProcessName>,
    pub(super) grace: Span,
}

impl Staff {
    pub(super) fn of(release: &Release, observed: &Observed) -> Staff {
        let both = release.file.processes.iter().chain(&observed.stable_processes);
        let platforms = release.file.platform.stop_grace();
        Staff {
            grace: both
                .clone()
                .map(|(_, process)| process.stop_grace.unwrap_or(platforms))
                .max()
                .unwrap_or_default(),
            candidate: counts(&release.file.processes),
            stable: if observed.stable.is_some() {
                counts(&observed.stable_processes)
            } else {
                BTreeMap::new()
            },
            // One that says so is enough: the other revision's promise was made without knowing this one.
            alone: both.filter(|(_, process)| !process.overlap).map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The steps that bring the candidate's processes up. `trusted` are those that ran before.
    pub(super) fn arrive(&self, trusted: bool) -> Vec<Step> {
        let handed = self.handed_over();
        let mut steps = Vec::new();
        if !handed.is_empty() {
            let stays = self.stable.iter().filter(|(name, _)| !handed.contains(*name));
            let run = stays.map(|(name, count)| (name.clone(), *count)).collect();
            steps.push(Step::Processes { of: Track::Stable, run });
        }
        if !self.candidate.is_empty() {
            steps.push(Step::Processes { of: Track::Candidate, run: self.candidate.clone() });
            if !trusted {
                steps.push(Step::Steady);
            }
        }
        steps
    }

    /// The step that ends the processes of the predecessor; none where all of them have made room already.
    pub(super) fn leave(&self) -> Option<Step> {
        let handed = self.handed_over();
        let left = self.stable.keys().any(|name| !handed.contains(name));
        left.then(|| Step::Processes { of: Track::Stable, run: ProcessCounts::new() })
    }

    /// What the change of processes costs, each a sentence.
    pub(super) fn losses(&self) -> Vec<String> {
        let mut losses: Vec<String> = self
            .handed_over()
            .iter()
            .map(|name| {
                format!(
                    "{name}: two revisions of it never run at once, so nobody does its work from the old one's end to \
                     the new one's start; the same on the way back"
                )
            })
            .collect();
        let gone = self.stable.keys().filter(|name| !self.candidate.contains_key(*name));
        losses.extend(gone.map(|name| {
            format!("{name}: the candidate has no such process; after promote nobody does its work")
        }));
        losses
    }

    fn handed_over(&self) -> BTreeSet<ProcessName> {
        let both = self
            .stable
            .keys()
            .filter(|name| self.candidate.contains_key(*name) && self.alone.contains(*name));
        both.cloned().collect()
    }
}

fn counts(processes: &BTreeMap<ProcessName, Process>) -> ProcessCounts {
    processes.iter().map(|(name, process)| (name.clone(), process.replicas)).collect()
}
