//! Begins releases: deploy and rollback, and what people say to the one under way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover_core::{
    Command, Event, Fault, Machine, Mode, Moment, Observed, Plan, PlanError, ProcessName, Record, Release,
    ReleaseFile, ReleaseId, ReleaseKind, RevisionId, ServiceName, file,
};
use cutover_ports::Secret;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::clock::Anchor;
use crate::driver::{Begun, Driver};
use crate::effects::spec_of;
use crate::engine::{Engine, Shared, Taken};
use crate::error::{EngineError, EngineErrorKind};
use crate::pointers::Pointers;
use crate::service::{Live, Message};
use crate::store::{Opening, opened};

/// How often a release is planned anew because the service changed while it was planned.
const TRIES: u32 = 20;
/// How long a driver may take to answer a command.
const ANSWER: Duration = Duration::from_secs(40);
const ALL: u32 = 100_000;
/// Naming a revision reads its whole artifact.
const IDENTIFY: Duration = Duration::from_secs(300);

/// A release that someone asks for.
#[derive(Clone, Debug)]
pub struct DeployRequest {
    /// The release file, its environment applied.
    pub file: ReleaseFile,
    /// The absolute folder that its relative paths start from.
    pub base: PathBuf,
    /// The values of the secrets that it names.
    pub secrets: BTreeMap<String, Secret>,
    /// Who asks.
    pub by: String,
    /// Release it even though it was rolled back last time.
    pub again: bool,
    /// Withdraw the release that holds the service.
    pub supersede: bool,
}

/// What came of asking for a release.
#[derive(Clone, Debug, PartialEq)]
pub enum Started {
    /// It is under way.
    Release {
        /// Its name.
        id: ReleaseId,
        /// Its plan.
        plan: Box<Plan>,
    },
    /// The revision is stable already.
    UpToDate {
        /// The service.
        service: ServiceName,
        /// The stable revision.
        revision: RevisionId,
    },
}

/// A release to be planned.
#[derive(Clone)]
struct Draft {
    release: Release,
    secrets: BTreeMap<String, Secret>,
    losses: Vec<String>,
    again: bool,
    supersede: bool,
}

impl Engine {
    /// Plans a release without beginning it: nothing is journaled, nothing moves.
    ///
    /// # Errors
    /// When there is no plan, or an edge refuses.
    pub async fn plan(&self, request: DeployRequest) -> Result<(Release, Plan), EngineError> {
        let draft = self.shared.draft(request).await?;
        let (release, plan, _) = self.shared.planned(&draft).await?;
        Ok((release, plan?))
    }

    /// Begins a release. It is driven in the background; follow it by its journal.
    ///
    /// # Errors
    /// When another release holds the service, there is no plan, an edge refuses, or the journal cannot be written.
    pub async fn deploy(&self, request: DeployRequest) -> Result<Started, EngineError> {
        self.shared.start_background();
        let draft = self.shared.draft(request).await?;
        self.shared.begin(draft).await
    }

    /// Begins a release that returns to the predecessor: while that is warm, a change of weights after a check.
    ///
    /// # Errors
    /// As for `deploy`, and when there is no predecessor.
    pub async fn rollback(&self, service: &ServiceName, by: &str) -> Result<Started, EngineError> {
        self.shared.start_background();
        let pointers = Pointers::of(&self.shared.store.releases(Some(service), ALL).await?);
        let Some((revision, releaser)) = pointers.previous else {
            let what = format!("{service} has no predecessor to return to: {}", pointers.why_no_previous);
            let holder = self.shared.service_row(service).await?.and_then(|row| row.holder);
            let hint = match holder {
                Some(holder) => abort_instead(service, &holder),
                None => "release the revision that you want: cutover deploy".to_string(),
            };
            return Err(EngineError::new(EngineErrorKind::NoPredecessor, what).hinting(hint));
        };
        let records = self.shared.store.records(&releaser, 0, 1).await?;
        let Some((old, _)) = opened(&records) else { return Err(EngineError::not_found(releaser)) };
        let mut file = old.file.clone();
        // Who has the predecessor's platform in hand keeps today's routes: they are not part of a revision.
        if let Some((_, current)) = pointers.stable
            && let Some((current, _)) = opened(&self.shared.store.records(&current, 0, 1).await?)
        {
            file.route.clone_from(&current.file.route);
        }
        let release = Release {
            id: ReleaseId::new(""),
            service: service.clone(),
            kind: ReleaseKind::Rollback,
            candidate: revision,
            file,
            base: old.base.clone(),
            by: by.to_string(),
        };
        let losses = self.shared.losses(&release).await?;
        // The secrets lie sealed at the platform since the revision first ran.
        let draft = Draft { release, secrets: BTreeMap::new(), losses, again: true, supersede: false };
        self.shared.begin(draft).await.map_err(|error| {
            match error.holder().map(|(holder, _)| abort_instead(service, holder)) {
                Some(hint) => error.hinting(hint),
                None => error,
            }
        })
    }

    /// Says something to the release that holds the service.
    ///
    /// # Errors
    /// When none does, when it is not legal in its state, or when another driver has it.
    pub async fn command(
        &self,
        service: &ServiceName,
        command: Command,
        by: &str,
    ) -> Result<ReleaseId, EngineError> {
        self.shared.start_background();
        let row = self.shared.service_row(service).await?;
        let Some(holder) = row.and_then(|row| row.holder) else {
            // A tail has no holder; what people say to it gets the machine's own answer.
            let tail = self.shared.service(service).into_iter().flat_map(|service| service.lives());
            return match tail.max_by_key(|live| live.number) {
                Some(live) => {
                    self.shared.say(&live, command, by).await?;
                    Ok(live.release.id.clone())
                }
                None => Err(EngineError::nothing_under_way(service)),
            };
        };
        let live = self.shared.drive_holder(service, &holder).await?;
        self.shared.say(&live, command, by).await?;
        Ok(holder)
    }
}

/// What takes a release back that is not decided yet: it is no predecessor's matter.
fn abort_instead(service: &ServiceName, release: &ReleaseId) -> String {
    format!("{release} is under way; to take it back: cutover abort {service}")
}

impl Shared {
    async fn draft(&self, request: DeployRequest) -> Result<Draft, EngineError> {
        let DeployRequest { file, base, secrets, by, again, supersede } = request;
        let mut release = Release {
            id: ReleaseId::new(""),
            service: file.service.clone(),
            kind: ReleaseKind::Deploy,
            candidate: RevisionId::new(""),
            file,
            base: base.to_string_lossy().into_owned(),
            by,
        };
        let spec = spec_of(&release, secrets.clone());
        let named = timeout(IDENTIFY, self.edges.platform.identify(&spec)).await;
        let named =
            named.unwrap_or_else(|_| Err(Fault::unknown("name the revision: the platform did not answer")));
        release.candidate = named.map_err(EngineError::refused)?;
        let losses = self.losses(&release).await?;
        Ok(Draft { release, secrets, losses, again, supersede })
    }

    async fn losses(&self, release: &Release) -> Result<Vec<String>, EngineError> {
        let spec = spec_of(release, BTreeMap::new());
        let losses = timeout(self.options.timeouts.look, self.edges.platform.losses(&spec)).await;
        let losses =
            losses.unwrap_or_else(|_| Err(Fault::unknown("name the losses: the platform did not answer")));
        losses.map_err(EngineError::refused)
    }

    /// Plans the draft from what the journal and the platform show now.
    async fn planned(&self, draft: &Draft) -> Result<(Release, Result<Plan, PlanError>, u64), EngineError> {
        let rows = self.store.releases(Some(&draft.release.service), ALL).await?;
        let pointers = Pointers::of(&rows);
        let number = pointers.number + 1;
        let mut release = draft.release.clone();
        release.id = ReleaseId::numbered(&release.service, number);
        let stable_processes = match &pointers.stable {
            Some((_, releaser)) => self.processes_of(releaser).await?,
            None => BTreeMap::new(),
        };
        let observed = Observed {
            stable: pointers.stable.map(|(revision, _)| revision),
            stable_processes,
            candidate_warm: self
                .warm(&release.service, &release.candidate, release.file.platform.replicas())
                .await,
            rolled_back: pointers.rolled_back,
            ready_ms: pointers.ready_ms,
            losses: draft.losses.clone(),
            traffic: self.traffic(&release.service).await,
        };
        let plan = Plan::new(&release, &observed, draft.again);
        Ok((release, plan, number))
    }

    /// Returns what is known of a service's requests; a plan without it says that it does not know the rate.
    async fn traffic(&self, service: &ServiceName) -> Option<cutover_core::Traffic> {
        timeout(self.options.timeouts.look, self.edges.router.traffic(service)).await.ok()?.ok()?
    }

    /// Returns what a release's candidate runs beside its routed process, each with its own stop grace.
    async fn processes_of(
        &self,
        release: &ReleaseId,
    ) -> Result<BTreeMap<ProcessName, file::Process>, EngineError> {
        let records = self.store.records(release, 0, 1).await?;
        let Some((release, _)) = opened(&records) else { return Err(EngineError::not_found(release)) };
        let grace = release.file.platform.stop_grace();
        let own = |process: &file::Process| file::Process {
            stop_grace: process.stop_grace.or(Some(grace)),
            ..process.clone()
        };
        Ok(release.file.processes.iter().map(|(name, process)| (name.clone(), own(process))).collect())
    }

    /// Tells whether all instances of a revision run.
    pub(crate) async fn warm(&self, service: &ServiceName, revision: &RevisionId, count: u32) -> bool {
        let seen = timeout(self.options.timeouts.look, self.edges.platform.observe(service)).await;
        let Ok(Ok(seen)) = seen else { return false };
        let running =
            seen.iter().filter(|seen| &seen.revision == revision).flat_map(crate::effects::running_targets);
        running.count() >= count as usize
    }

    async fn begin(self: &Arc<Self>, draft: Draft) -> Result<Started, EngineError> {
        let name = draft.release.service.clone();
        for _ in 0..TRIES {
            if self.stopped() {
                return Err(EngineError::shutting_down());
            }
            if let Some(row) = self.service_row(&name).await?
                && let Some(holder) = row.holder
            {
                let live = self.drive_holder(&name, &holder).await?;
                if !draft.supersede {
                    let owner = self.options.owner.clone();
                    return Err(EngineError::busy(&name, holder, &live.release.by, owner));
                }
                self.supersede(&name, &live, &draft.release.by).await?;
                continue;
            }
            let (release, plan, number) = self.planned(&draft).await?;
            let plan = match plan {
                Ok(plan) => plan,
                Err(PlanError::AlreadyStable { service, revision }) => {
                    return Ok(Started::UpToDate { service, revision });
                }
                Err(error) => return Err(error.into()),
            };
            match self.open(&draft, release, plan, number).await {
                Err(error) if error.kind() == EngineErrorKind::Busy => {}
                answer => return answer,
            }
        }
        let what = format!("{name} changes hands faster than a release can be planned");
        Err(EngineError::new(EngineErrorKind::Store, what).hinting("try again"))
    }

    async fn open(
        self: &Arc<Self>,
        draft: &Draft,
        release: Release,
        plan: Plan,
        number: u64,
    ) -> Result<Started, EngineError> {
        let _turn = self.taking.lock().await;
        let name = release.service.clone();
        let known = self.service(&name);
        if known.as_ref().is_some_and(|service| service.closing.load(Ordering::Relaxed)) {
            let what = format!("{name} is being destroyed");
            return Err(
                EngineError::new(EngineErrorKind::Refused, what).hinting("deploy again when that is done")
            );
        }
        // The epoch rises: no append of ours may come between the journal's and this engine's knowing it.
        let appends = match &known {
            Some(service) => Some(service.journal.lock().await),
            None => None,
        };
        let tenant = self.tenant();
        let at = Moment(tenant.now.wall_ms);
        let event = Event::Opened { release: Box::new(release.clone()), plan: Box::new(plan.clone()) };
        let record = Record { sequence: 0, epoch: 0, at, wall_ms: tenant.now.wall_ms, event };
        let anchor = Anchor { at, reading: tenant.now.clone() };
        let epoch = match self.store.open_release(&Opening { number, record, tenant }).await {
            Ok(epoch) => epoch,
            Err(error) => return Err(error.into()),
        };
        // Where another engine acted in between, what this one drives is stale.
        let ours = known.as_ref().is_some_and(|service| service.epoch() + 1 == epoch);
        if let (Some(service), false) = (&known, ours) {
            service.lose();
            self.forget(service);
        }
        let service = self.occupy(&name, epoch);
        drop(appends);
        let id = release.id.clone();
        let machine = Machine::open(plan.clone(), at);
        let secrets = draft.secrets.clone();
        let begun = Begun { number, release, machine, anchor, next: 1, provisioning: None, secrets };
        let driver = Driver::new(self.clone(), service.clone(), begun);
        if !ours {
            // Tails that another engine drove: it is fenced now, and this one goes on with them.
            let rows = self.store.releases(Some(&name), ALL).await?;
            let tails = rows.into_iter().rev().filter(|row| row.ended_ms.is_none() && row.id != id).collect();
            self.resume(&service, tails).await?;
        }
        self.drive(&service, driver);
        Ok(Started::Release { id, plan: Box::new(plan) })
    }

    /// Returns the holder as it is driven here, after taking it over if its driver is gone.
    async fn drive_holder(
        self: &Arc<Self>,
        service: &ServiceName,
        holder: &ReleaseId,
    ) -> Result<Live, EngineError> {
        for _ in 0..2 {
            if let Some(live) = self.live(holder) {
                return Ok(live);
            }
            if let Taken::Held { owner, .. } = self.take(service, self.options.sole).await? {
                let by = self.store.release(holder).await?.map_or_else(String::new, |row| row.by);
                return Err(EngineError::busy(service, holder.clone(), &by, owner));
            }
        }
        match self.store.release(holder).await? {
            Some(row) if row.holds_service() => {
                Err(EngineError::busy(service, holder.clone(), &row.by, self.options.owner.clone()))
            }
            _ => Err(EngineError::nothing_under_way(service)),
        }
    }

    pub(crate) async fn say(&self, live: &Live, command: Command, by: &str) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Command { command, by: by.to_string(), reply: Some(reply) };
        let said = async {
            live.inbox
                .send(message)
                .await
                .map_err(|_| EngineError::nothing_under_way(&live.release.service))?;
            answer.await.map_err(|_| EngineError::nothing_under_way(&live.release.service))?
        };
        timeout(ANSWER, said).await.unwrap_or_else(|_| {
            let what = format!("{} did not answer within {} s", live.release.id, ANSWER.as_secs());
            Err(EngineError::new(EngineErrorKind::Store, what)
                .hinting("see cutover's log: the journal may be stuck"))
        })
    }

    /// Withdraws the release that holds the service; returns when it has.
    async fn supersede(&self, service: &ServiceName, live: &Live, by: &str) -> Result<(), EngineError> {
        let mut state = live.state.clone();
        if live.look(|machine| machine.holds_service() && !matches!(machine.mode(), Mode::Back(_))) {
            match self.say(live, Command::Supersede, by).await {
                Ok(()) => {}
                // It was decided, or turned back, in the same moment.
                Err(error)
                    if matches!(
                        error.kind(),
                        EngineErrorKind::Illegal | EngineErrorKind::NothingUnderWay
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        let mut stop = self.stopping();
        let over = state.wait_for(|state| {
            let stuck = matches!(state.machine.mode(), Mode::Back(back) if back.stuck.is_some());
            !state.machine.holds_service() || stuck
        });
        let stuck = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Err(EngineError::shutting_down()),
            over = over => over.is_ok_and(|state| state.machine.holds_service()),
        };
        if stuck {
            let owner = self.options.owner.clone();
            let hint = "its way back needs a person; see: cutover status";
            return Err(
                EngineError::busy(service, live.release.id.clone(), &live.release.by, owner).hinting(hint)
            );
        }
        Ok(())
    }
}
