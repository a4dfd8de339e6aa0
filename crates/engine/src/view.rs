//! What the engine shows: journals, machines, services, history.

use std::time::Duration;

use cutover_core::machine::HoldReason;
use cutover_core::{
    Ending, JudgeProgress, LoadProgress, Machine, Mode, Record, ReleaseId, ReleaseKind, RevisionId,
    ServiceName, Step,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};

use crate::effects::gate;
use crate::engine::{Engine, Shared, replay};
use crate::error::{EngineError, EngineErrorKind};
use crate::pointers::Pointers;
use crate::store::{ReleaseRow, opened};
use crate::util::lock;

const PAGE: u32 = 1_000;
const ALL: u32 = 100_000;
/// How often the journal of a release is read that another process drives.
const POLL: Duration = Duration::from_millis(200);
/// How long the router may take to say how far the judge is: who asks wants to see something move.
const LOOK: Duration = Duration::from_secs(1);

/// A service, as people see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceState {
    /// Its name.
    pub name: ServiceName,
    /// The revision that takes traffic.
    pub stable: Option<RevisionId>,
    /// The release that made it stable.
    pub stable_since: Option<ReleaseId>,
    /// The revision that `rollback` returns to.
    pub previous: Option<RevisionId>,
    /// All its instances run and none is on its way out: returning is a change of weights.
    pub previous_warm: bool,
    /// The revision that was taken back last and is refused unless `--again`.
    pub rolled_back: Option<RevisionId>,
    /// The release that holds the service.
    pub current: Option<CurrentState>,
    /// Releases that are decided and still keep, drain or stop their predecessor.
    pub tails: Vec<TailState>,
}

/// A release that holds its service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CurrentState {
    /// The release.
    pub release: ReleaseId,
    /// Why it exists.
    pub kind: ReleaseKind,
    /// The revision to come.
    pub candidate: RevisionId,
    /// Who asked for it.
    pub by: String,
    /// Who drives it; `nobody` while that is so.
    pub owner: String,
    /// Where it is, in words: the step, or why it waits or goes back.
    pub state: String,
    /// The index of its step.
    pub at: usize,
    /// The step's name.
    pub step: String,
    /// How it moves.
    pub mode: Mode,
}

/// A release that is decided and not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TailState {
    /// The release.
    pub release: ReleaseId,
    /// The predecessor that it keeps or stops.
    pub predecessor: Option<RevisionId>,
    /// The step's name.
    pub step: String,
    /// How long the predecessor stays warm yet, in milliseconds.
    pub warm_left_ms: Option<u64>,
}

/// A release in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReleaseSummary {
    /// The release.
    pub release: ReleaseId,
    /// The service.
    pub service: ServiceName,
    /// Why it exists.
    pub kind: ReleaseKind,
    /// The revision that was stable before.
    pub stable: Option<RevisionId>,
    /// The revision to release.
    pub candidate: RevisionId,
    /// Who asked for it.
    pub by: String,
    /// The environment of the release file that it followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// When it began: milliseconds since 1970, as the next two.
    pub opened_wall_ms: u64,
    /// When its candidate became stable.
    pub decided_wall_ms: Option<u64>,
    /// When it ended.
    pub ended_wall_ms: Option<u64>,
    /// From its beginning until it was decided, or until it ended.
    pub took_ms: Option<u64>,
    /// How it ended, in a word or two: `released`, `rolled back`, `refused`, `withdrawn`, `under way`.
    pub outcome: String,
    /// Why it did not end well; empty otherwise.
    pub why: String,
    /// How it ended.
    pub ending: Option<Ending>,
    /// How long the candidate took to become ready.
    pub ready_ms: Option<u64>,
}

impl From<ReleaseRow> for ReleaseSummary {
    fn from(row: ReleaseRow) -> Self {
        let over = row.decided_ms.or(row.ended_ms);
        let (outcome, why) = match &row.ending {
            _ if row.decided_ms.is_some() => ("released", String::new()),
            None | Some(Ending::Released) => ("under way", String::new()),
            Some(Ending::Refused { why }) => ("refused", why.to_string()),
            Some(Ending::RolledBack { why }) => ("rolled back", why.to_string()),
            Some(Ending::Withdrawn { why, .. }) => ("withdrawn", why.to_string()),
        };
        ReleaseSummary {
            took_ms: over.map(|over| over.saturating_sub(row.opened_ms)),
            outcome: outcome.into(),
            why,
            release: row.id,
            service: row.service,
            kind: row.kind,
            stable: row.replaced,
            candidate: row.candidate,
            by: row.by,
            environment: None,
            opened_wall_ms: row.opened_ms,
            decided_wall_ms: row.decided_ms,
            ended_wall_ms: row.ended_ms,
            ending: row.ending,
            ready_ms: row.ready_ms,
        }
    }
}

impl Engine {
    /// Returns the journal of a release from sequence `from` on, at most a thousand records.
    ///
    /// # Errors
    /// When there is no such release, or the journal cannot be read.
    pub async fn records(&self, release: &ReleaseId, from: u64) -> Result<Vec<Record>, EngineError> {
        let stored = self.shared.store.records(release, from, PAGE).await?;
        if stored.is_empty() && self.shared.store.release(release).await?.is_none() {
            return Err(EngineError::not_found(release));
        }
        Ok(stored.into_iter().map(|stored| stored.record).collect())
    }

    /// Returns what the gate of step `step` (from 0) has written from byte `from` on, a part of it at a time.
    ///
    /// # Errors
    /// When there is no such release, or its output cannot be read.
    pub async fn gate_output(
        &self,
        release: &ReleaseId,
        step: usize,
        from: u64,
    ) -> Result<Vec<u8>, EngineError> {
        // Known in the journal: a name from outside never becomes a path.
        let Some(row) = self.shared.store.release(release).await? else {
            return Err(EngineError::not_found(release));
        };
        let log = gate::log_of(&self.shared.options.gate_logs, row.id.as_str(), step);
        gate::read(&log, from).map_err(|error| {
            EngineError::new(EngineErrorKind::Store, format!("failed to read {}: {error}", log.display()))
        })
    }

    /// Returns what storing the candidate has said from byte `from` on, a part of it at a time.
    ///
    /// # Errors
    /// When there is no such release, or its platform cannot say.
    pub async fn build_output(&self, release: &ReleaseId, from: u64) -> Result<Vec<u8>, EngineError> {
        let Some(row) = self.shared.store.release(release).await? else {
            return Err(EngineError::not_found(release));
        };
        let output = self.shared.edges.platform.build_output(&row.candidate, from).await;
        output.map_err(|fault| EngineError::new(EngineErrorKind::Store, fault.what))
    }

    /// Returns where the load test of a release is; none where none runs here.
    pub fn load_progress(&self, release: &ReleaseId) -> Option<LoadProgress> {
        lock(&self.shared.loads).get(release).and_then(|progress| *progress.borrow())
    }

    /// Returns how far the judge is with a release that waits for its proof here; none where none does, or the router
    /// cannot say.
    pub async fn judge_progress(&self, release: &ReleaseId) -> Option<JudgeProgress> {
        let machine = self.shared.live(release)?.machine();
        let (Mode::Forward, Step::Bake { prove: Some(prove), .. }) = (machine.mode(), machine.step()) else {
            return None;
        };
        let router = &self.shared.edges.router;
        let asked = router.progress(&machine.plan().service, release, prove);
        timeout_at(Instant::now() + LOOK, asked).await.ok()?.ok()?
    }

    /// Returns the records from `from` on as soon as there are any; empty when none came within `wait`, or when the
    /// release has ended and none will.
    ///
    /// # Errors
    /// As for `records`.
    pub async fn follow(
        &self,
        release: &ReleaseId,
        from: u64,
        wait: Duration,
    ) -> Result<Vec<Record>, EngineError> {
        let end = Instant::now() + wait;
        let mut stop = self.shared.stopping();
        loop {
            // Subscribed before reading: a record that comes in between is noticed.
            let live = self.shared.live(release);
            let records = self.records(release, from).await?;
            if !records.is_empty() || Instant::now() >= end || *stop.borrow() {
                return Ok(records);
            }
            if let Some(live) = live {
                let mut state = live.state.clone();
                tokio::select! {
                    _ = timeout_at(end, state.wait_for(|state| state.next > from)) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
                // The driver has gone: nothing more is signalled, the journal has the rest.
                if state.has_changed().is_err() {
                    let left = end.saturating_duration_since(Instant::now());
                    sleep(POLL.min(left)).await;
                }
                continue;
            }
            if self.shared.store.release(release).await?.is_some_and(|row| row.ended_ms.is_some()) {
                return self.records(release, from).await;
            }
            sleep(POLL.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Returns the machine of a release: as it is driven here, else as its journal replays.
    ///
    /// # Errors
    /// When there is no such release, or its journal is damaged.
    pub async fn machine(&self, release: &ReleaseId) -> Result<Machine, EngineError> {
        self.shared.machine(release).await
    }

    /// Returns the release itself: its file, its revision, who asked.
    ///
    /// # Errors
    /// When there is no such release, or its journal is damaged.
    pub async fn release(&self, release: &ReleaseId) -> Result<cutover_core::Release, EngineError> {
        let records = self.shared.store.records(release, 0, 1).await?;
        opened(&records).map(|(release, _)| release.clone()).ok_or_else(|| EngineError::not_found(release))
    }

    /// Returns every service, by name.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn services(&self) -> Result<Vec<ServiceState>, EngineError> {
        let mut states = Vec::new();
        for row in self.shared.store.services().await? {
            let rows = self.shared.store.releases(Some(&row.name), ALL).await?;
            let pointers = Pointers::of(&rows);
            let owner = row.lease_left_ms(&self.shared.options.clock.read()).and(row.owner.clone());
            let mut state = ServiceState {
                name: row.name.clone(),
                stable: pointers.stable.as_ref().map(|(revision, _)| revision.clone()),
                stable_since: pointers.stable.map(|(_, release)| release),
                previous: None,
                previous_warm: false,
                rolled_back: pointers.rolled_back,
                current: None,
                tails: Vec::new(),
            };
            let mut leaving = Vec::new();
            for unended in rows.iter().filter(|row| row.ended_ms.is_none()) {
                let machine = self.shared.machine(&unended.id).await?;
                if matches!(machine.step(), Step::Drain | Step::Retire) {
                    leaving.extend(machine.tail_of().cloned());
                }
                self.show(&mut state, unended, &machine, owner.clone()).await?;
            }
            if let Some((revision, releaser)) = pointers.previous {
                let records = self.shared.store.records(&releaser, 0, 1).await?;
                let count = opened(&records).map_or(1, |(release, _)| release.file.platform.replicas());
                state.previous_warm =
                    !leaving.contains(&revision) && self.shared.warm(&row.name, &revision, count).await;
                state.previous = Some(revision);
            }
            states.push(state);
        }
        Ok(states)
    }

    async fn show(
        &self,
        state: &mut ServiceState,
        row: &ReleaseRow,
        machine: &Machine,
        owner: Option<String>,
    ) -> Result<(), EngineError> {
        let step = machine.step().name();
        if machine.holds_service() {
            state.current = Some(CurrentState {
                release: row.id.clone(),
                kind: row.kind,
                candidate: row.candidate.clone(),
                by: row.by.clone(),
                owner: owner.unwrap_or_else(|| "nobody".into()),
                state: state_text(machine),
                at: machine.at(),
                step,
                mode: machine.mode().clone(),
            });
        } else if machine.decided().is_some() && !machine.ended() {
            let warm_left_ms = match machine.step() {
                Step::Warm { span } => {
                    let now = self.shared.moment(&row.id).await?;
                    Some(machine.entered().after_ms(span.ms()).ms_since(now))
                }
                _ => None,
            };
            let predecessor = machine.tail_of().cloned();
            state.tails.push(TailState { release: row.id.clone(), predecessor, step, warm_left_ms });
        }
        Ok(())
    }

    /// Returns the newest releases, of one service or of all, newest first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn history(
        &self,
        service: Option<&ServiceName>,
        limit: u32,
    ) -> Result<Vec<ReleaseSummary>, EngineError> {
        let mut summaries = Vec::new();
        for row in self.shared.store.releases(service, limit).await? {
            // The environment lies in the release's first record; the table's columns are what decisions need.
            let records = self.shared.store.records(&row.id, 0, 1).await?;
            let environment = opened(&records).and_then(|(release, _)| release.file.environment.clone());
            summaries.push(ReleaseSummary { environment, ..ReleaseSummary::from(row) });
        }
        Ok(summaries)
    }

    /// Returns what moment it is for a release: its deadlines and holds count in it.
    ///
    /// # Errors
    /// When there is no such release, or the journal cannot be read.
    pub async fn moment(&self, release: &ReleaseId) -> Result<cutover_core::Moment, EngineError> {
        self.shared.moment(release).await
    }
}

/// Says where a release is.
fn state_text(machine: &Machine) -> String {
    let step = machine.step().name();
    match machine.mode() {
        Mode::Forward => step,
        Mode::Held(hold) => match &hold.why {
            HoldReason::Paused { by } => format!("{step}, paused by {by}"),
            HoldReason::Approval { point } => format!("waits for approval ({})", point.name()),
            HoldReason::Inconclusive => {
                let why = machine.verdicts().last().map_or("no verdict", |verdict| &verdict.why);
                format!("{step}, held: inconclusive: {why}")
            }
            HoldReason::Unmeasured { what } => format!("{step}, held: not measured ({what})"),
        },
        Mode::Back(back) => match &back.stuck {
            Some(fault) => format!("needs a person, its way back fails: {}", fault.what),
            None => format!("goes back: {}", back.why),
        },
        Mode::Ended { .. } => "ended".into(),
    }
}

impl Shared {
    pub(crate) async fn machine(&self, release: &ReleaseId) -> Result<Machine, EngineError> {
        if let Some(live) = self.live(release) {
            return Ok(live.machine());
        }
        let row = self.store.release(release).await?.ok_or_else(|| EngineError::not_found(release))?;
        Ok(replay(row.number, &self.all_records(release).await?)?.machine)
    }

    async fn moment(&self, release: &ReleaseId) -> Result<cutover_core::Moment, EngineError> {
        let records = self.all_records(release).await?;
        let last = records.last().ok_or_else(|| EngineError::not_found(release))?;
        Ok(last.record.at.after_ms(self.options.clock.read().ms_since(&last.reading)))
    }
}
