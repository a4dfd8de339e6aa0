//! The steady effect: the candidate's processes stay up for a while, before users depend on them.

use std::collections::BTreeMap;
use std::time::Duration;

use cutover_core::plan::STEADY;
use cutover_core::{Evidence, Fault, InstanceId, Outcome, ProcessCounts, ProcessName, RevisionId};
use cutover_ports::{InstanceState, ObservedProcess, ObservedWorker};
use tokio::time::{Instant, sleep, timeout};

use super::Act;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Those that run, with how often each was started: another start is another life.
type Lives = BTreeMap<InstanceId, (Option<u32>, u32)>;

pub(super) async fn steady(act: &Act, revision: &RevisionId, run: &ProcessCounts) -> Outcome {
    let end = Instant::now() + act.release.file.checks.within.duration() + STEADY.duration();
    let mut since: Option<(Instant, Lives)> = None;
    loop {
        let missing = match look(act, revision).await {
            Ok(processes) => {
                if let Some(fault) = processes.iter().find_map(|process| fallen(process, since.as_ref())) {
                    return Err(fault);
                }
                let lives = lives(&processes);
                if since.as_ref().is_none_or(|(_, before)| *before != lives) {
                    since = Some((Instant::now(), lives));
                }
                let began = since.as_ref().map_or_else(Instant::now, |(began, _)| *began);
                match short_of(&processes, run) {
                    None if began.elapsed() >= STEADY.duration() => {
                        let count: u32 = run.values().sum();
                        let text = format!("{count} ran for {STEADY} without ending");
                        return Ok(Evidence::Note { text });
                    }
                    None => Fault::platform(format!("the processes of {revision} did not run for {STEADY}")),
                    Some((name, running)) => {
                        Fault::platform(format!("{running} of {} {name} of {revision} run", run[name]))
                    }
                }
            }
            Err(fault) => fault,
        };
        if Instant::now() >= end {
            return Err(missing);
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn look(act: &Act, revision: &RevisionId) -> Result<Vec<ObservedProcess>, Fault> {
    let observe = act.edges().platform.observe(&act.service.name);
    let late = |_| Err(Fault::unknown("look at the processes: the platform did not answer"));
    let seen = timeout(act.timeouts().look, observe).await.unwrap_or_else(late)?;
    let mine = seen.into_iter().find(|seen| &seen.revision == revision);
    Ok(mine.map(|seen| seen.processes).unwrap_or_default())
}

/// Returns the fault of a process that ended since it is watched.
fn fallen(process: &ObservedProcess, since: Option<&(Instant, Lives)>) -> Option<Fault> {
    let fell = |worker: &&ObservedWorker| match worker.state {
        InstanceState::Restarting | InstanceState::CrashLoop => true,
        // It was quicker than two looks.
        InstanceState::Running => since
            .and_then(|(_, lives)| lives.get(&worker.id))
            .is_some_and(|(_, restarts)| worker.restarts > *restarts),
        InstanceState::Stopping => false,
    };
    process.instances.iter().find(fell).map(|worker| {
        let why = if worker.why.is_empty() { "it ended" } else { &worker.why };
        let what = format!("process {} ({}) does not stay up: {why}", process.name, worker.id);
        Fault::candidate(what).lines(worker.log.iter().cloned())
    })
}

fn lives(processes: &[ObservedProcess]) -> Lives {
    let workers = processes.iter().flat_map(|process| &process.instances);
    let running = workers.filter(|worker| worker.state == InstanceState::Running);
    running.map(|worker| (worker.id.clone(), (worker.pid, worker.restarts))).collect()
}

/// Returns a process of which too few run, and how many do.
fn short_of<'a>(processes: &[ObservedProcess], run: &'a ProcessCounts) -> Option<(&'a ProcessName, usize)> {
    run.iter().find_map(|(name, count)| {
        let mine = processes.iter().filter(|process| process.name == *name);
        let workers = mine.flat_map(|process| &process.instances);
        let running = workers.filter(|worker| worker.state == InstanceState::Running).count();
        (running < *count as usize).then_some((name, running))
    })
}
