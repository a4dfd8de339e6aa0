//! Keeps one worker running, and replaces it without losing a request.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::error::{ErrorKind, ProxyError};
use crate::fds;
use crate::holder::{HolderOptions, take_over};
use crate::moment;
use crate::turn;

const MIN_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A worker needs a little longer than its grace to cut and to close what is left.
const AFTER_GRACE: Duration = Duration::from_secs(6);
/// The next worker serves within this time, or the one before goes on.
const START: Duration = Duration::from_secs(10);
/// How long the worker before may take to say that it goes.
const GO: Duration = Duration::from_secs(3);

/// A worker that has given its sockets and waits for the word to go.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) stream: UnixStream,
    /// That worker, and those before it which still finish requests.
    pub(crate) leaving: Vec<u32>,
    /// Files of certificates that it does not have itself.
    pub(crate) lacks: Option<Vec<String>>,
}

/// The worker before, which waits for the word to go.
#[derive(Debug)]
struct Waiting {
    pid: u32,
    stream: UnixStream,
    lacks: Option<Vec<String>>,
}

/// Who leaves when the next worker serves.
#[derive(Debug, Default)]
pub(crate) struct Succession {
    waiting: RefCell<Option<Waiting>>,
    leaving: RefCell<Vec<u32>>,
    /// A worker of an earlier holder that went on because the next one never served: it is to be replaced still.
    orphan: Cell<Option<u32>>,
}

impl Succession {
    pub(crate) fn begin(&self, handover: Handover) {
        // The worker that hands over names itself last.
        let pid = handover.leaving.last().copied().unwrap_or_default();
        self.leaving.borrow_mut().extend(handover.leaving);
        *self.waiting.borrow_mut() = Some(Waiting { pid, stream: handover.stream, lacks: handover.lacks });
    }

    /// Returns the workers that still finish requests.
    pub(crate) fn leaving(&self) -> Vec<u32> {
        self.leaving.borrow_mut().retain(|pid| is_alive(*pid));
        self.leaving.borrow().clone()
    }

    /// Returns what the worker in charge does without; what it has, the next one must have too.
    pub(crate) fn lacks(&self) -> Option<Vec<String>> {
        self.waiting.borrow().as_ref()?.lacks.clone()
    }

    /// Lets the worker before go on, if it still waits; returns it. Closing the connection tells it so.
    fn abandon(&self) -> Option<u32> {
        let Waiting { pid, .. } = self.waiting.borrow_mut().take()?;
        self.leaving.borrow_mut().retain(|leaving| *leaving != pid);
        Some(pid).filter(|pid| is_alive(*pid))
    }

    /// Tells the worker before to go, and returns the turn that it gives; none: it is dead. An error: it goes on, and the
    /// next one must not serve.
    pub(crate) async fn complete(&self) -> Result<Option<OwnedFd>, ProxyError> {
        let waiting = self.waiting.borrow_mut().take();
        let mut turn = None;
        if let Some(old) = waiting {
            let gone = async {
                fds::send(&old.stream, &"go", &[]).await?;
                fds::receive::<String>(&old.stream).await
            };
            let heard = timeout(GO, gone).await;
            if let Ok(Ok(Some((_, given)))) = heard {
                turn = given.into_iter().next();
            } else if is_alive(old.pid) {
                let text = format!("the worker before (process {}) does not go", old.pid);
                *self.waiting.borrow_mut() = Some(old);
                return Err(ProxyError::new(ErrorKind::Unacknowledged, text));
            }
        }
        self.orphan.set(None);
        Ok(turn)
    }

    fn is_pending(&self) -> bool {
        self.waiting.borrow().is_some()
    }
}

/// Tells whether a process exists and has not ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Some(raw) = Pid::from_raw(pid.cast_signed()) else { return false };
    let zombie = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z'))
    };
    test_kill_process(raw).is_ok() && !zombie()
}

fn system(what: impl Into<String>, source: std::io::Error) -> ProxyError {
    ProxyError::io(ErrorKind::System, what, source)
}

/// Keeps one worker alive until a signal asks to stop.
pub(crate) async fn keep_worker(
    options: &HolderOptions,
    succession: &Rc<Succession>,
) -> Result<(), ProxyError> {
    let listen = |kind| signal(kind).map_err(|source| system("cannot listen for signals", source));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let mut backoff = MIN_BACKOFF;
    let mut child = Some(spawn(options)?);
    let mut leaving: Vec<Child> = Vec::new();
    let mut started = Instant::now();
    loop {
        let Some(worker) = &mut child else {
            backoff = if started.elapsed() > Duration::from_secs(5) { MIN_BACKOFF } else { backoff * 2 };
            backoff = backoff.min(MAX_BACKOFF);
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                _ = term.recv() => break,
                _ = int.recv() => break,
            }
            started = Instant::now();
            // A failure is waited out: the program may be in the middle of being replaced.
            child = match succession.orphan.get().filter(|pid| is_alive(*pid)) {
                Some(_) => replace(options, succession).await,
                None => spawn(options)
                    .inspect_err(|error| tracing::error!(%error, "worker could not be started"))
                    .ok(),
            };
            continue;
        };
        tokio::select! {
            status = worker.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                child = resume(&options.dir, succession, &mut leaving).await;
                match &child {
                    Some(_) => tracing::error!(%status, "the next worker did not serve, the one before goes on"),
                    None => tracing::error!(%status, "worker ended, starting another"),
                }
            }
            () = tokio::time::sleep_until((started + START).into()), if succession.is_pending() => {
                // It may have served since this wait began.
                if succession.is_pending() {
                    tracing::error!("the next worker does not serve within {START:?}, killing it");
                    // Its end is seen above.
                    let _ = worker.start_kill();
                    started = Instant::now();
                }
            }
            _ = hangup.recv() => {
                if let Some(next) = replace(options, succession).await {
                    leaving.extend(child.replace(next));
                    started = Instant::now();
                }
                // Reaps those that have gone.
                leaving.retain_mut(|old| matches!(old.try_wait(), Ok(None)));
            }
            _ = term.recv() => break,
            _ = int.recv() => break,
        }
    }
    leaving.extend(child);
    stop(leaving, options.grace).await;
    Ok(())
}

fn spawn(options: &HolderOptions) -> Result<Child, ProxyError> {
    let Some((program, arguments)) = options.worker_command.split_first() else {
        return Err(ProxyError::new(ErrorKind::Invalid, "the holder got no worker command"));
    };
    Command::new(program).args(arguments).stdin(Stdio::null()).spawn().map_err(|source| {
        system(format!("cannot start the worker {}", PathBuf::from(program).display()), source)
    })
}

/// Starts the next worker beside the one that serves, which then changes nothing any more until it is told to go. If the
/// next one ends before it serves, the old one takes up its duties again.
async fn replace(options: &HolderOptions, succession: &Succession) -> Option<Child> {
    moment::reached("holder-asks");
    let (_, handover) = take_over(&options.dir)
        .await
        .inspect_err(|error| tracing::error!(%error, "worker is not replaced"))
        .ok()?;
    succession.begin(handover);
    moment::reached("holder-has-sockets");
    match spawn(options) {
        Ok(next) => {
            moment::reached("holder-began-next");
            Some(next)
        }
        Err(error) => {
            tracing::error!(%error, "worker is not replaced");
            succession.abandon();
            None
        }
    }
}

/// Takes the worker before back, when the next one ended before it served: two must never serve side by side. One of an
/// earlier holder is no child to be taken back; it serves on until a next one can take over.
async fn resume(dir: &Path, succession: &Succession, leaving: &mut Vec<Child>) -> Option<Child> {
    let pid = succession.abandon()?;
    // Its word that it goes may have been on its way.
    tokio::time::sleep(MIN_BACKOFF).await;
    if turn::is_free(dir) {
        succession.leaving.borrow_mut().push(pid);
        return None;
    }
    match leaving.iter().position(|old| old.id() == Some(pid)) {
        Some(at) => Some(leaving.remove(at)),
        None => {
            succession.orphan.set(Some(pid));
            None
        }
    }
}

async fn stop(children: Vec<Child>, grace: Duration) {
    for child in &children {
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may be gone already; then the wait returns at once.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let end = tokio::time::Instant::now() + grace + AFTER_GRACE;
    for mut child in children {
        if tokio::time::timeout_at(end, child.wait()).await.is_err() {
            tracing::error!("worker did not end in time, killing it");
            let _ = timeout(AFTER_GRACE, child.kill()).await;
        }
    }
}
