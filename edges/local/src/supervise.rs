//! One task per instance: keeps its process running, and stops it. The only one that acts on that process.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutover_core::{Fault, InstanceId, ProcessName, RevisionId};
use cutover_ports::InstanceState;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use crate::cgroup::{Group, Groups};
use crate::launch;
use crate::logs;
use crate::options::Options;
use crate::ports::Ports;
use crate::process::Leader;
use crate::record::{InstanceRecord, ProcessRecord, Records};
use crate::stop;
use crate::store::Store;
use crate::upkeep::{Upkeep, Watched};

/// The kernel's kill for memory and the end of a process come within this, or have nothing to do with each other.
const STARVED: Duration = Duration::from_secs(2);

/// What all supervisors of a platform share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) records: Records,
    pub(crate) ports: Ports,
    pub(crate) groups: Groups,
    pub(crate) upkeep: Upkeep,
    pub(crate) options: Options,
    pub(crate) boot: String,
    /// Held for as long as any task may touch the state folder.
    pub(crate) _lock: std::fs::File,
}

/// The platform's hold on one supervisor.
pub(crate) struct Handle {
    pub(crate) id: InstanceId,
    pub(crate) revision: RevisionId,
    /// The process beside the routed one that it runs.
    pub(crate) beside: Option<ProcessName>,
    pub(crate) slot: u32,
    pub(crate) log: PathBuf,
    pub(crate) status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
    /// Why it shall be started again.
    again: watch::Sender<String>,
    task: JoinHandle<()>,
}

/// What a supervisor knows of its instance.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) port: Option<u16>,
    pub(crate) process: Option<ProcessRecord>,
    pub(crate) state: InstanceState,
    pub(crate) restarts: u32,
    pub(crate) why: String,
    /// Why it ended the last time since it is supervised.
    pub(crate) ended: String,
    /// It was tried to start at least once, or adopted.
    pub(crate) tried: bool,
    /// Why the last start failed before anything ran.
    pub(crate) start_fault: Option<Fault>,
    /// No process is left, its port is free, its record removed.
    pub(crate) gone: bool,
}

impl Handle {
    /// Starts to supervise a recorded instance, whose running process is `leader`, if it runs. `fresh` is an intent
    /// that was written just now, for a new instance.
    pub(crate) fn supervise(
        shared: &Arc<Shared>,
        record: InstanceRecord,
        leader: Option<Leader>,
        fresh: bool,
        closing: watch::Receiver<bool>,
    ) -> Handle {
        let process = leader.as_ref().map(|leader| leader.process.clone());
        let tried = leader.is_some();
        let (state, why) = match tried {
            _ if record.stopping => (InstanceState::Stopping, ""),
            true => (InstanceState::Running, ""),
            false => (InstanceState::Restarting, "being started"),
        };
        let (port, restarts, why) = (record.port, record.restarts, why.to_string());
        let ended = String::new();
        let status =
            Status { port, process, state, restarts, why, ended, tried, start_fault: None, gone: false };
        let (report, status) = watch::channel(status);
        let (stop, asked) = watch::channel(record.stopping);
        let (again, restarted) = watch::channel(String::new());
        let log = shared.records.log(&record);
        let (id, revision, slot) = (record.id.clone(), record.revision.clone(), record.slot);
        let watched = shared.upkeep.watch(log.clone());
        let beside = record.beside.clone();
        let group = leader.as_ref().map(|leader| {
            let memory = shared.store.stored(&record.revision).ok().and_then(|found| found.platform.memory);
            Group::of(&record.id, leader.process.pid, memory)
        });
        if let Some(group) = &group {
            watched.count_kills(group.kills());
        }
        let supervisor = Supervisor {
            shared: shared.clone(),
            group,
            starved: None,
            log: log.clone(),
            watched,
            record,
            report,
            asked,
            restarted,
            closing,
            exits: VecDeque::new(),
            backoff: shared.options.restart_first,
            log_size: 0,
            fresh,
        };
        Handle {
            id,
            revision,
            beside,
            slot,
            log,
            status,
            stop,
            again,
            task: tokio::spawn(supervisor.run(leader)),
        }
    }

    /// Asks for the end state "stopped"; asking again changes nothing.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Lets its process end, and another one start; nothing where none runs.
    pub(crate) fn restart(&self, why: &str) {
        self.again.send_replace(why.into());
    }

    /// Tells whether the instance was asked to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Tells whether nothing of the instance is left.
    pub(crate) fn is_gone(&self) -> bool {
        self.status.borrow().gone
    }

    /// Waits for the task; the platform is closing.
    pub(crate) async fn join(self) {
        if let Err(error) = self.task.await {
            tracing::error!(instance = %self.id, %error, "supervisor ended badly");
        }
    }
}

struct Supervisor {
    shared: Arc<Shared>,
    /// The control group of its process, since that was started or adopted.
    group: Option<Group>,
    /// When and why the kernel killed one of its processes for memory, where that was noted already.
    starved: Option<(Instant, String)>,
    record: InstanceRecord,
    log: PathBuf,
    watched: Arc<Watched>,
    report: watch::Sender<Status>,
    asked: watch::Receiver<bool>,
    restarted: watch::Receiver<String>,
    closing: watch::Receiver<bool>,
    exits: VecDeque<Instant>,
    backoff: Duration,
    log_size: u64,
    /// Nothing was started yet: nothing can be left over, and the intent is on disk.
    fresh: bool,
}

enum Next {
    Ended,
    Again,
    Due,
    Stop,
    Close,
}

impl Supervisor {
    async fn run(mut self, mut leader: Option<Leader>) {
        loop {
            // Asked before it is started: an instance that shall stop is never started again.
            if *self.asked.borrow() {
                return self.stop(leader).await;
            }
            let why = match leader.take() {
                Some(running) => {
                    let began = Instant::now();
                    match self.wait(Some(&running), None).await {
                        Next::Close => return,
                        Next::Stop => return self.stop(Some(running)).await,
                        Next::Again => {
                            let why = self.restarted.borrow_and_update().clone();
                            self.report.send_modify(|status| status.state = InstanceState::Restarting);
                            let Some(how) = self.end(Some(running)).await else { return };
                            self.note(format!("{why}; {how}")).await;
                            match self.pause(why).await {
                                Next::Close => return,
                                Next::Stop => return self.stop(None).await,
                                Next::Ended | Next::Again | Next::Due => {}
                            }
                            self.record.restarts = self.record.restarts.saturating_add(1);
                            continue;
                        }
                        Next::Ended | Next::Due => {}
                    }
                    // Before its exit status is taken: until then its number, and with it its session, cannot
                    // be another's.
                    let left =
                        stop::kill_rest(&self.record.id, Some(&running.process), self.group.as_ref()).await;
                    if left > 0 {
                        self.note(format!("it left {left} processes behind; they are killed")).await;
                    }
                    if began.elapsed() >= self.shared.options.steady {
                        self.backoff = self.shared.options.restart_first;
                    }
                    let how = running.reap();
                    match self.starved() {
                        Some(why) => format!("{how}, {why}"),
                        None => how,
                    }
                }
                None => match self.start().await {
                    Ok(started) => {
                        leader = Some(started);
                        continue;
                    }
                    Err(fault) => {
                        self.report.send_modify(|status| status.start_fault = Some(fault.clone()));
                        fault.what
                    }
                },
            };
            match self.pause(why).await {
                Next::Close => return,
                Next::Stop => return self.stop(None).await,
                Next::Ended | Next::Again | Next::Due => {}
            }
            self.record.restarts = self.record.restarts.saturating_add(1);
        }
    }

    /// Starts the process, on another port if a stranger took the instance's own meanwhile.
    async fn start(&mut self) -> Result<Leader, Fault> {
        // Whoever said so meant the process that ended.
        self.restarted.mark_unchanged();
        let fresh = std::mem::replace(&mut self.fresh, false);
        let (shared, mut record, log) = (self.shared.clone(), self.record.clone(), self.log.clone());
        // One closure, so that nothing can come between the start and its record but the death of the server.
        let launched = spawn_blocking(move || {
            if !fresh {
                stop::kill_rest_now(&record.id);
            }
            let port = record.port;
            if let Some(taken) = port.filter(|port| !launch::port_is_free(*port)) {
                let port = shared.ports.take()?;
                logs::note(&log, &format!("port {taken} is taken by someone else; it gets {port}"));
                shared.ports.free(taken);
                record.port = Some(port);
            }
            record.process = None;
            // Failing to remember is no reason not to run; should this server die too, the next one ends it
            // by its mark.
            let remember = |record: &InstanceRecord| {
                if let Err(fault) = shared.records.write(record) {
                    tracing::warn!(instance = %record.id, error = %fault, "instance not recorded");
                }
            };
            if !fresh || record.port != port {
                remember(&record);
            }
            let launched = launch::launch(&shared.store, &shared.groups, &record, &log, &shared.boot)?;
            record.process = Some(launched.process.clone());
            remember(&record);
            Ok((record, launched))
        });
        let launched =
            launched.await.unwrap_or_else(|error| Err(Fault::cutover(format!("start an instance: {error}"))));
        let result = launched.and_then(|(record, launched)| {
            let process = launched.process;
            self.watched.full_at(logs::full(launched.log_size));
            self.watched.count_kills(launched.group.kills());
            (self.record, self.log_size, self.group) = (record, launched.log_size, Some(launched.group));
            // It was started by this process and not waited for: it is still there, if only as a zombie.
            Leader::hold(&process)
                .map_err(|error| Fault::platform(format!("watch process {}: {error}", process.pid)))?
                .ok_or_else(|| Fault::platform(format!("watch process {}: it is not there", process.pid)))
        });
        self.report.send_modify(|status| {
            status.tried = true;
            status.port = self.record.port;
            status.restarts = self.record.restarts;
            if let Ok(leader) = &result {
                status.process = Some(leader.process.clone());
                status.state = InstanceState::Running;
                status.why.clear();
                status.start_fault = None;
            }
        });
        result
    }

    /// Waits before the next start: longer after each exit, until it ran steadily.
    async fn pause(&mut self, why: String) -> Next {
        let Options { restart_longest, crash_loop_exits, crash_loop_within, .. } = self.shared.options;
        let now = Instant::now();
        self.exits.push_back(now);
        while self.exits.front().is_some_and(|exit| now.duration_since(*exit) > crash_loop_within) {
            self.exits.pop_front();
        }
        let looping = self.exits.len() >= crash_loop_exits;
        let pause = self.backoff;
        self.backoff = (pause * 2).min(restart_longest);
        self.report.send_modify(|status| {
            status.process = None;
            status.state = if looping { InstanceState::CrashLoop } else { InstanceState::Restarting };
            status.why = why.clone();
            status.ended = why.clone();
        });
        self.note(format!("{why}; started again in {} ms", pause.as_millis())).await;
        self.wait(None, Some(now + pause)).await
    }

    /// Waits for what comes first, keeping the log within its size meanwhile.
    async fn wait(&mut self, leader: Option<&Leader>, due: Option<Instant>) -> Next {
        let mut again = None;
        loop {
            tokio::select! {
                biased;
                _ = told(self.closing.clone()) => return Next::Close,
                // A platform that is dropped lets go of its handles: that is no wish to stop.
                stop = told(self.asked.clone()) => return if stop { Next::Stop } else { Next::Close },
                () = ended(leader) => return Next::Ended,
                Ok(()) = self.restarted.changed(), if leader.is_some() => return Next::Again,
                () = until(due) => return Next::Due,
                () = self.watched.due() => {}
                () = until(again) => {}
            }
            // A flood: the usual pause would let it grow to whatever the disk takes in that time.
            let flood = self.look(leader.is_some()).await;
            again = flood.then(|| Instant::now() + self.shared.options.log_every / 25);
        }
    }

    async fn stop(mut self, leader: Option<Leader>) {
        self.report.send_modify(|status| status.state = InstanceState::Stopping);
        if !self.record.stopping {
            self.record.stopping = true;
            let (shared, record) = (self.shared.clone(), self.record.clone());
            let _ = spawn_blocking(move || shared.records.write(&record)).await;
        }
        let Some(stopped) = self.end(leader).await else { return };
        self.note(stopped).await;
        let (shared, record, group) = (self.shared.clone(), self.record.clone(), self.group.take());
        let _ = spawn_blocking(move || {
            group.iter().for_each(Group::remove);
            if let Err(fault) = shared.records.remove(&record) {
                tracing::warn!(instance = %record.id, error = %fault, "record of a stopped instance stays");
            }
            record.port.iter().for_each(|port| shared.ports.free(*port));
        })
        .await;
        self.report.send_modify(|status| {
            status.process = None;
            status.gone = true;
        });
    }

    /// Ends its processes: stop signal, grace, kill. Returns how that went; none where the platform closes meanwhile.
    async fn end(&mut self, leader: Option<Leader>) -> Option<String> {
        let (signal, grace) = match self.shared.store.stored(&self.record.revision) {
            Ok(manifest) => {
                let grace = manifest.stop_grace(self.record.beside.as_ref());
                (launch::stop_signal(&manifest), grace.duration())
            }
            Err(_) => (rustix::process::Signal::TERM, Duration::from_secs(30)),
        };
        tokio::select! {
            biased;
            _ = told(self.closing.clone()) => None,
            stopped = stop::stop(&self.record.id, leader, self.group.as_ref(), signal, grace) => Some(stopped),
        }
    }

    /// Looks after what the instance takes: the size of its log, and whether a process of it was killed for memory.
    /// Returns whether the log was cut.
    async fn look(&mut self, runs: bool) -> bool {
        if runs && let Some(why) = self.group.as_mut().and_then(Group::killed_for_memory) {
            self.note(format!("one of its processes was killed, {why}")).await;
            self.starved = Some((Instant::now(), why));
        }
        self.bound_log().await
    }

    /// Says why its first process ended, if that was for memory.
    fn starved(&mut self) -> Option<String> {
        // It may have been noted between the kill and the end. A worker that was killed long ago is another matter.
        let noted = self.starved.take().filter(|(when, _)| when.elapsed() < STARVED);
        self.group.as_mut().and_then(Group::killed_for_memory).or(noted.map(|(_, why)| why))
    }

    async fn bound_log(&mut self) -> bool {
        let (shared, revision, log, mut size) =
            (self.shared.clone(), self.record.revision.clone(), self.log.clone(), self.log_size);
        let bounded = spawn_blocking(move || {
            if size == 0 {
                size = shared.store.stored(&revision).ok()?.platform.log_size.bytes();
            }
            let cut = logs::bound(&log, size).unwrap_or_else(|error| {
                tracing::warn!(path = %log.display(), %error, "log not bounded");
                false
            });
            Some((size, cut))
        });
        let (size, cut) = bounded.await.ok().flatten().unwrap_or((self.log_size, false));
        self.log_size = size;
        self.watched.full_at(logs::full(size));
        cut
    }

    async fn note(&self, text: String) {
        let log = self.log.clone();
        let _ = spawn_blocking(move || logs::note(&log, &text)).await;
    }
}

/// Waits for `true`, and says whether it came; `false` when nobody can say it any more.
async fn told(mut what: watch::Receiver<bool>) -> bool {
    what.wait_for(|said| *said).await.is_ok()
}

async fn ended(leader: Option<&Leader>) {
    match leader {
        Some(leader) => leader.ended().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Waits a little between two looks at /proc, longer each time.
pub(crate) async fn pace(look: &mut u32) {
    sleep(Duration::from_millis((5u64 << (*look).min(5)).min(100))).await;
    *look += 1;
}
