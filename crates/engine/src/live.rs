//! Liveness: asks the instances that take traffic whether they still live, and has those started again that do not.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutover_core::effect::Resource;
use cutover_core::file::{LiveCheck, Route, TargetProtocol};
use cutover_core::{Blame, CheckResult, InstanceId, Mode, Release, RevisionId, ServiceName, Span, file};
use cutover_ports::{CheckRequest, CheckedInstance, InstanceState, ObservedInstance, ObservedRevision};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::effects::fenced;
use crate::engine::Shared;
use crate::service::Service;
use crate::sync::wish;

const EVERY: Duration = Duration::from_secs(1);

/// One life of an instance, and the check that it is asked: another start is another life.
type Life = (InstanceId, Option<u32>, u32, usize);

/// What a service's instances have answered so far.
#[derive(Default)]
struct Pulse {
    /// What the service looked like when `asked` was read.
    stamp: Option<(u64, u64)>,
    asked: Vec<(RevisionId, Arc<Release>)>,
    lives: BTreeMap<Life, Row>,
}

struct Row {
    revision: RevisionId,
    since: Instant,
    due: Instant,
    /// It passed at least once: from then on a failure is one.
    lived: bool,
    failed: u32,
    why: String,
}

/// Asks all services, each instance as often as its release file says, until the engine stops.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut stop = shared.stopping();
    let mut pulses: BTreeMap<ServiceName, Pulse> = BTreeMap::new();
    let ask = async {
        loop {
            sleep(EVERY).await;
            let services = shared.services();
            let rounds = services.iter().filter(|service| !service.lost()).map(|service| {
                let pulse = pulses.remove(&service.name).unwrap_or_default();
                let shared = &shared;
                async move { (service.name.clone(), round(shared, service, pulse).await) }
            });
            pulses = join_all(rounds.collect::<Vec<_>>()).await.into_iter().collect();
        }
    };
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = ask => {}
    }
}

async fn round(shared: &Shared, service: &Arc<Service>, mut pulse: Pulse) -> Pulse {
    let stamp = Some((service.epoch(), *service.changes().borrow()));
    if pulse.stamp != stamp
        && let Ok(asked) = asked(shared, service).await
    {
        (pulse.asked, pulse.stamp) = (asked, stamp);
    }
    if pulse.asked.is_empty() {
        pulse.lives.clear();
        return pulse;
    }
    let look = timeout(shared.options.timeouts.look, shared.edges.platform.observe(&service.name));
    let Ok(Ok(seen)) = look.await else { return pulse };
    let due = pulse.due(&seen);
    let answers = due.into_iter().map(|(life, release, instance, check)| async move {
        let request = request(service, &release, &instance, &check);
        // What cannot be asked is no word of the instance's.
        let answer = match shared.edges.checker.check(&request).await {
            Ok(_) => Some(Ok(())),
            Err(fault) if fault.blame == Blame::Candidate => Some(Err(why(&fault.results, &fault.what))),
            Err(fault) => {
                debug!(service = %service.name, %fault, "a liveness check could not be asked");
                None
            }
        };
        (life, check, answer)
    });
    for (life, check, answer) in join_all(answers).await {
        pulse.note(&life, &check, answer);
    }
    if let Some((instance, why)) = pulse.dead(&seen) {
        restart(shared, service, &instance, &why).await;
    }
    pulse
}

/// Returns who is asked: stable, and a candidate on its way forward. What waits without traffic is asked when it is wanted.
async fn asked(shared: &Shared, service: &Service) -> Result<Vec<(RevisionId, Arc<Release>)>, String> {
    let mut asked = Vec::new();
    if let Some(wish) = wish(shared, service).await? {
        asked.push((wish.stable, Arc::new(wish.release)));
    }
    for live in service.lives() {
        let forward = |machine: &cutover_core::Machine| {
            machine.holds_service() && matches!(machine.mode(), Mode::Forward | Mode::Held(_))
        };
        if live.look(forward) {
            asked.push((live.release.candidate.clone(), live.release.clone()));
        }
    }
    asked.retain(|(_, release)| !release.file.checks.live.is_empty());
    Ok(asked)
}

impl Pulse {
    /// Returns the questions that are due, and forgets the lives that are over.
    fn due(&mut self, seen: &[ObservedRevision]) -> Vec<(Life, Arc<Release>, ObservedInstance, LiveCheck)> {
        let (now, mut due, mut there) = (Instant::now(), Vec::new(), Vec::new());
        for (revision, release) in &self.asked {
            let mine = seen.iter().filter(|seen| &seen.revision == revision).flat_map(|seen| &seen.instances);
            for instance in mine.filter(|instance| instance.state == InstanceState::Running) {
                for (number, check) in release.file.checks.live.iter().enumerate() {
                    let life = (instance.id.clone(), instance.pid, instance.restarts, number);
                    let row = self.lives.entry(life.clone()).or_insert_with(|| Row {
                        revision: revision.clone(),
                        since: now,
                        due: now,
                        lived: false,
                        failed: 0,
                        why: String::new(),
                    });
                    if row.due <= now {
                        row.due = now + check.interval.duration();
                        due.push((life.clone(), release.clone(), instance.clone(), check.clone()));
                    }
                    there.push(life);
                }
            }
        }
        self.lives.retain(|life, _| there.contains(life));
        due
    }

    fn note(&mut self, life: &Life, check: &LiveCheck, answer: Option<Result<(), String>>) {
        let Some(row) = self.lives.get_mut(life) else { return };
        match answer {
            None => {}
            Some(Ok(())) => (row.lived, row.failed) = (true, 0),
            Some(Err(why)) => {
                row.failed += 1;
                row.why = format!("{} failed {} times in a row: {why}", check.question().name(), row.failed);
            }
        }
    }

    /// Returns one instance that lives no more. Of a revision only one at a time is started again: what fails everywhere
    /// at once must not take everything down at once.
    fn dead(&self, seen: &[ObservedRevision]) -> Option<(InstanceId, String)> {
        let release = |revision: &RevisionId| self.asked.iter().find(|(asked, _)| asked == revision);
        let checks = |revision: &RevisionId| release(revision).map(|(_, release)| &release.file.checks);
        let starts = |row: &Row| {
            let within = checks(&row.revision).map_or(Span::default(), |checks| checks.within);
            !row.lived && row.since.elapsed() < within.duration()
        };
        let down = |revision: &RevisionId| {
            let mine = seen.iter().filter(|seen| &seen.revision == revision).flat_map(|seen| &seen.instances);
            mine.into_iter().any(|instance| instance.state != InstanceState::Running)
        };
        let dead = self.lives.iter().find(|((.., number), row)| {
            let fall = checks(&row.revision).and_then(|checks| checks.live.get(*number));
            let fell = fall.is_some_and(|check| row.failed >= check.fall);
            let others = self.lives.values().filter(|other| other.revision == row.revision);
            fell && !down(&row.revision) && !others.into_iter().any(starts)
        });
        dead.map(|((id, ..), row)| (id.clone(), row.why.clone()))
    }
}

fn why(results: &[CheckResult], otherwise: &str) -> String {
    let failed = results.iter().find(|result| !result.passed());
    failed.map_or_else(|| otherwise.to_string(), |result| result.detail.clone())
}

fn request(
    service: &Service,
    release: &Release,
    instance: &ObservedInstance,
    check: &LiveCheck,
) -> CheckRequest {
    let checks =
        file::Checks { health: vec![check.question()], within: check.timeout, ..file::Checks::default() };
    CheckRequest {
        service: service.name.clone(),
        revision: release.candidate.clone(),
        instance: CheckedInstance { id: instance.id.clone(), address: instance.address },
        checks,
        host: release.file.route.iter().find_map(|Route::Proxy(route)| route.host.clone()),
        protocol: TargetProtocol::of(&release.file.route),
        route: None,
        base: PathBuf::from(&release.base),
    }
}

async fn restart(shared: &Shared, service: &Arc<Service>, instance: &InstanceId, why: &str) {
    // A step that starts or stops instances knows better what shall run.
    let seen = timeout(shared.options.timeouts.look, shared.edges.platform.observe(&service.name)).await;
    let Ok(Ok(seen)) = seen else { return };
    let of = seen.iter().find(|seen| seen.instances.iter().any(|one| &one.id == instance));
    let Some(revision) = of.map(|seen| seen.revision.clone()) else { return };
    let Some(_hold) = service.hold(Resource::Revision(revision.clone())) else { return };
    let platform = &shared.edges.platform;
    let call = fenced(service, |fence| platform.restart(fence, &service.name, instance, why));
    match timeout(shared.options.timeouts.provision, call).await {
        Ok(Ok(())) => {
            warn!(service = %service.name, %revision, %instance, why, "an instance does not live any more: it is started again");
        }
        Ok(Err(fault)) => {
            warn!(service = %service.name, %instance, %fault, "an instance could not be started again")
        }
        Err(_) => info!(service = %service.name, %instance, "the platform did not answer; it is asked again"),
    }
}
