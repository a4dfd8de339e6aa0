//! What every platform promises.

use std::collections::BTreeSet;
use std::sync::Arc;

use cutover_core::{RevisionId, ServiceName, file};

use super::{Fences, check, eventually, fenced, fine};
use crate::{InstanceState, ObservedInstance, Platform, RevisionSpec};

/// What the suite needs of a platform under test. Each case uses a service of its own.
pub trait PlatformFixture: Send + Sync {
    /// The platform.
    fn platform(&self) -> Arc<dyn Platform>;

    /// What a revision of `service` is made from: the same variant gives the same revision, another one another.
    /// Its instances start, listen where they are told, and stop when asked.
    fn spec(&self, service: &ServiceName, variant: u32) -> RevisionSpec;

    /// A revision whose instances exit at once with a line of output; none where the platform cannot be given one.
    fn exiting(&self, service: &ServiceName) -> Option<RevisionSpec>;

    /// A process that runs until it is asked to stop, and then stops.
    fn process(&self) -> file::Process;
}

/// Runs all cases. Returns the names of those that passed.
///
/// # Errors
/// The first case that broke: its name, and the promise that does not hold.
pub async fn platform_cases(fixture: &dyn PlatformFixture) -> Result<Vec<&'static str>, String> {
    let mut passed = Vec::new();
    macro_rules! case {
        ($name:ident) => {
            let service = ServiceName::new(concat!("case-", stringify!($name)).replace('_', "-"));
            let mut case = Case { fixture, platform: fixture.platform(), service, fences: Fences(0) };
            let answer = case.$name().await;
            let cleaned = case.clean().await;
            answer.and(cleaned).map_err(|error| format!("{}: {error}", stringify!($name)))?;
            passed.push(stringify!($name));
        };
    }
    case!(identity_follows_content);
    case!(nothing_runs_at_first);
    case!(ensure_needs_a_stored_revision);
    case!(ensure_twice_is_once);
    case!(count_follows);
    case!(revisions_side_by_side);
    case!(retire_twice_is_once);
    case!(retired_can_run_again);
    case!(old_fences_are_refused);
    case!(exits_are_seen);
    case!(logs_are_kept);
    case!(what_is_in_use_is_not_discarded);
    case!(a_stamp_tells_of_every_change);
    case!(processes_are_part_of_a_revision);
    case!(processes_beside_routed_instances);
    case!(processes_are_exactly_as_asked);
    case!(retired_processes_are_gone);
    Ok(passed)
}

pub(super) struct Case<'a> {
    pub(super) fixture: &'a dyn PlatformFixture,
    pub(super) platform: Arc<dyn Platform>,
    pub(super) service: ServiceName,
    pub(super) fences: Fences,
}

impl Case<'_> {
    pub(super) fn spec(&self, variant: u32) -> RevisionSpec {
        self.fixture.spec(&self.service, variant)
    }

    pub(super) async fn built(&mut self, spec: &RevisionSpec) -> Result<RevisionId, String> {
        let revision = fine(self.platform.identify(spec).await, "identify")?;
        fine(self.platform.build(self.fences.next(), spec, &revision).await, "build")?;
        Ok(revision)
    }

    pub(super) async fn ensure(&mut self, revision: &RevisionId, count: u32) -> Result<(), String> {
        fine(self.platform.ensure(self.fences.next(), &self.service, revision, count).await, "ensure")
    }

    pub(super) async fn instances(&self, revision: &RevisionId) -> Result<Vec<ObservedInstance>, String> {
        let seen = fine(self.platform.observe(&self.service).await, "observe")?;
        let mine = seen.into_iter().find(|seen| &seen.revision == revision);
        Ok(mine.map(|seen| seen.instances).unwrap_or_default())
    }

    /// Waits until exactly `count` instances run and vouch for themselves.
    pub(super) async fn up(
        &self,
        revision: &RevisionId,
        count: usize,
    ) -> Result<Vec<ObservedInstance>, String> {
        let ready = || async {
            let instances = self.instances(revision).await?;
            let running = instances.iter().filter(|i| i.state == InstanceState::Running).count();
            check(
                (running, instances.len()) == (count, count),
                &format!("{running} of {} run", instances.len()),
            )?;
            for instance in &instances {
                fine(self.platform.vouch(&self.service, &instance.id).await, "vouch")?;
            }
            Ok(instances)
        };
        eventually(&format!("{count} instances run and listen"), ready).await
    }

    /// Whatever a case started is stopped again.
    async fn clean(&mut self) -> Result<(), String> {
        for seen in fine(self.platform.observe(&self.service).await, "observe")? {
            let retired = self.platform.retire(self.fences.next(), &self.service, &seen.revision).await;
            fine(retired, "retire")?;
        }
        Ok(())
    }

    async fn identity_follows_content(&mut self) -> Result<(), String> {
        let this = &*self;
        let name =
            |variant| async move { fine(this.platform.identify(&this.spec(variant)).await, "identify") };
        let (first, again, other) = (name(1).await?, name(1).await?, name(2).await?);
        check(first == again, "the same content has the same name")?;
        check(first != other, "other content has another name")?;
        let runs = fine(self.platform.observe(&self.service).await, "observe")?;
        check(runs.iter().all(|seen| seen.instances.is_empty()), "naming a revision starts nothing")
    }

    async fn nothing_runs_at_first(&mut self) -> Result<(), String> {
        let runs = fine(self.platform.observe(&self.service).await, "observe a service that is not there")?;
        check(runs.is_empty(), "an unknown service has no revisions")?;
        let retired =
            self.platform.retire(self.fences.next(), &self.service, &RevisionId::new("r-unknown")).await;
        fine(retired, "retire a revision that is not there")
    }

    async fn ensure_needs_a_stored_revision(&mut self) -> Result<(), String> {
        let revision = fine(self.platform.identify(&self.spec(3)).await, "identify")?;
        let answer = self.platform.ensure(self.fences.next(), &self.service, &revision, 1).await;
        check(answer.is_err(), "a revision that was not built cannot run")
    }

    async fn ensure_twice_is_once(&mut self) -> Result<(), String> {
        let spec = self.spec(1);
        let revision = self.built(&spec).await?;
        check(self.built(&spec).await? == revision, "building again is harmless")?;
        let fence = self.fences.next();
        for _ in 0..2 {
            let answer = self.platform.ensure(fence, &self.service, &revision, 2).await;
            fine(answer, "ensure the same with the same fence")?;
        }
        let names = |instances: Vec<ObservedInstance>| -> BTreeSet<_> {
            instances.into_iter().map(|instance| (instance.id, instance.address)).collect()
        };
        let first = names(self.up(&revision, 2).await?);
        check(first.len() == 2, "instances have names of their own")?;
        let addresses: BTreeSet<_> = first.iter().map(|(_, address)| address).collect();
        check(addresses.len() == 2, "instances have addresses of their own")?;
        self.ensure(&revision, 2).await?;
        check(names(self.up(&revision, 2).await?) == first, "ensuring what runs disturbs nothing")
    }

    async fn count_follows(&mut self) -> Result<(), String> {
        let revision = self.built(&self.spec(1)).await?;
        self.ensure(&revision, 1).await?;
        let first = self.up(&revision, 1).await?;
        self.ensure(&revision, 3).await?;
        let three = self.up(&revision, 3).await?;
        check(three.iter().any(|instance| instance.id == first[0].id), "the first instance goes on")?;
        self.ensure(&revision, 1).await?;
        self.up(&revision, 1).await.map(drop)
    }

    async fn revisions_side_by_side(&mut self) -> Result<(), String> {
        let (first, second) = (self.built(&self.spec(1)).await?, self.built(&self.spec(2)).await?);
        self.ensure(&first, 2).await?;
        self.ensure(&second, 2).await?;
        self.up(&first, 2).await?;
        self.up(&second, 2).await?;
        let retired = self.platform.retire(self.fences.next(), &self.service, &first).await;
        fine(retired, "retire")?;
        check(self.instances(&first).await?.is_empty(), "nothing of a retired revision is left")?;
        self.up(&second, 2).await.map(drop)
    }

    async fn retire_twice_is_once(&mut self) -> Result<(), String> {
        let revision = self.built(&self.spec(1)).await?;
        self.ensure(&revision, 2).await?;
        self.up(&revision, 2).await?;
        let fence = self.fences.next();
        for _ in 0..2 {
            fine(self.platform.retire(fence, &self.service, &revision).await, "retire the same again")?;
            check(self.instances(&revision).await?.is_empty(), "retire returns when none is left")?;
        }
        Ok(())
    }

    async fn retired_can_run_again(&mut self) -> Result<(), String> {
        let revision = self.built(&self.spec(1)).await?;
        self.ensure(&revision, 1).await?;
        self.up(&revision, 1).await?;
        fine(self.platform.retire(self.fences.next(), &self.service, &revision).await, "retire")?;
        // No build in between: the stored revision stays, for rollback.
        self.ensure(&revision, 1).await?;
        self.up(&revision, 1).await.map(drop)
    }

    async fn old_fences_are_refused(&mut self) -> Result<(), String> {
        let spec = self.spec(1);
        let revision = self.built(&spec).await?;
        self.ensure(&revision, 1).await?;
        self.up(&revision, 1).await?;
        let (platform, service, old) = (&self.platform, &self.service, Fences::old());
        fenced(platform.build(old, &spec, &revision).await, "build")?;
        fenced(platform.ensure(old, service, &revision, 2).await, "ensure")?;
        fenced(platform.retire(old, service, &revision).await, "retire")?;
        self.up(&revision, 1).await.map(drop)
    }

    async fn what_is_in_use_is_not_discarded(&mut self) -> Result<(), String> {
        let revision = self.built(&self.spec(1)).await?;
        let stored = fine(self.platform.stored(&self.service).await, "list the revisions")?;
        if stored.is_empty() {
            // Somebody else keeps this platform's revisions, a registry say.
            return Ok(());
        }
        check(stored == [revision.clone()], "a stored revision is listed")?;
        self.ensure(&revision, 1).await?;
        let (platform, service) = (self.platform.clone(), self.service.clone());
        check(
            platform.discard(self.fences.next(), &service, &revision).await.is_err(),
            "a revision with instances is not thrown away",
        )?;
        self.up(&revision, 1).await?;
        fine(platform.retire(self.fences.next(), &service, &revision).await, "retire")?;
        fenced(platform.discard(Fences::old(), &service, &revision).await, "discard")?;
        for _ in 0..2 {
            fine(platform.discard(self.fences.next(), &service, &revision).await, "discard")?;
        }
        check(fine(platform.stored(&service).await, "list")?.is_empty(), "a discarded revision is gone")?;
        check(
            platform.ensure(self.fences.next(), &service, &revision, 1).await.is_err(),
            "a discarded revision is not started",
        )
    }

    async fn a_stamp_tells_of_every_change(&mut self) -> Result<(), String> {
        let revision = self.built(&self.spec(1)).await?;
        let (platform, service) = (self.platform.clone(), self.service.clone());
        let Some(nothing) = platform.stamp(&service).await else { return Ok(()) };
        self.ensure(&revision, 1).await?;
        self.up(&revision, 1).await?;
        let one = platform.stamp(&service).await;
        check(one != Some(nothing), "an instance more is another stamp")?;
        check(platform.stamp(&service).await == one, "where nothing changes the stamp stays")?;
        self.ensure(&revision, 2).await?;
        self.up(&revision, 2).await?;
        check(platform.stamp(&service).await != one, "two instances are another stamp than one")?;
        fine(platform.retire(self.fences.next(), &service, &revision).await, "retire")?;
        check(platform.stamp(&service).await == Some(nothing), "nothing again is the stamp of nothing")
    }

    async fn exits_are_seen(&mut self) -> Result<(), String> {
        let Some(spec) = self.fixture.exiting(&self.service) else { return Ok(()) };
        let revision = self.built(&spec).await?;
        self.ensure(&revision, 1).await?;
        let seen = || async {
            let instances = self.instances(&revision).await?;
            let instance = instances.first().ok_or("no instance is shown")?;
            let down = matches!(instance.state, InstanceState::Restarting | InstanceState::CrashLoop);
            check(down || instance.restarts > 0, &format!("it is shown as {:?}", instance.state))?;
            check(!down || !instance.why.is_empty(), "no reason is shown")?;
            check(down && !instance.log.is_empty(), "its output is not shown")
        };
        eventually("an instance that exits is shown as such, with why and its last output", seen).await
    }

    async fn logs_are_kept(&mut self) -> Result<(), String> {
        let revision = self.built(&self.spec(1)).await?;
        self.ensure(&revision, 2).await?;
        let up = self.up(&revision, 2).await?;
        let logs = fine(self.platform.logs(&self.service, &revision, 5).await, "read the logs")?;
        let missing = up.iter().find(|instance| !logs.iter().any(|(id, _)| id == &instance.id));
        check(missing.is_none(), "each instance has its log")?;
        check(logs.iter().all(|(_, lines)| lines.len() <= 5), "no more lines than asked for are returned")
    }
}
