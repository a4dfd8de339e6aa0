//! Stops everything an instance is: its first process, its children, and those that left its session.

use std::time::Duration;

use cutover_core::InstanceId;
use rustix::process::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::cgroup::Group;
use crate::process::{self, Leader, Seen};
use crate::record::ProcessRecord;
use crate::supervise::pace;

/// Stops the instance: the stop signal to its first process, then to what that leaves behind, and after the
/// grace the kill
/// signal to all. Returns when no process is left, with a line for its log.
///
/// # Cancel safety
/// Dropped and called anew it goes on where it was, with a new grace.
pub(crate) async fn stop(
    id: &InstanceId,
    leader: Option<Leader>,
    group: Option<&Group>,
    signal: Signal,
    grace: Duration,
) -> String {
    let begin = Instant::now();
    let deadline = begin + grace;
    let mut killed = 0;
    if let Some(leader) = &leader {
        leader.signal(signal);
        let _ = timeout_at(deadline, leader.ended()).await;
    }
    let process = leader.as_ref().map(|leader| &leader.process);
    // Only its first process was asked, since many services ask their workers themselves, more gently.
    let mut asked: Vec<u32> = process.iter().map(|process| process.pid).collect();
    let mut look = 0;
    loop {
        let rest = members(id, process, group).await;
        if rest.is_empty() {
            break;
        }
        let late = Instant::now() >= deadline;
        for seen in &rest {
            if late {
                process::signal(seen, Signal::KILL);
            } else if !asked.contains(&seen.pid) {
                asked.push(seen.pid);
                process::signal(seen, signal);
            }
        }
        killed = killed.max(if late { rest.len() } else { 0 });
        pace(&mut look).await;
    }
    let how = match &leader {
        Some(leader) => {
            leader.ended().await;
            leader.reap()
        }
        None => "it did not run".into(),
    };
    let after = begin.elapsed().as_millis();
    match killed {
        0 => format!("stopped after {after} ms: {how}"),
        1 => format!("did not stop on signal {} within {} ms: killed", signal.as_raw(), grace.as_millis()),
        _ => format!(
            "did not stop on signal {} within {} ms: killed, {killed} processes",
            signal.as_raw(),
            grace.as_millis()
        ),
    }
}

/// Kills what an ended process left behind; returns how many processes that were.
pub(crate) async fn kill_rest(
    id: &InstanceId,
    leader: Option<&ProcessRecord>,
    group: Option<&Group>,
) -> usize {
    let (mut most, mut look) = (0, 0);
    loop {
        let rest = members(id, leader, group).await;
        if rest.is_empty() {
            return most;
        }
        most = most.max(rest.len());
        rest.iter().for_each(|seen| process::signal(seen, Signal::KILL));
        pace(&mut look).await;
    }
}

/// Kills what carries the instance's mark before it is started anew, so that nothing holds its port.
pub(crate) fn kill_rest_now(id: &InstanceId) {
    for _ in 0..100 {
        let rest = process::members(id, None);
        if rest.is_empty() {
            return;
        }
        rest.iter().for_each(|seen| process::signal(seen, Signal::KILL));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns what belongs to the instance, and what runs in its group: nothing else is ever put there, and a process that
/// cleared its environment and left its session is still in it.
async fn members(id: &InstanceId, leader: Option<&ProcessRecord>, group: Option<&Group>) -> Vec<Seen> {
    let (id, leader, group) = (id.clone(), leader.cloned(), group.cloned());
    let look = move || {
        let mut members = process::members(&id, leader.as_ref());
        let known: Vec<u32> = members.iter().map(|seen| seen.pid).collect();
        let grouped = group.into_iter().flat_map(|group| group.pids()).filter(|pid| !known.contains(pid));
        members.extend(grouped.filter_map(process::look).filter(|seen| !seen.zombie));
        members
    };
    spawn_blocking(look).await.unwrap_or_default()
}
