//! The data plane beside the server: starts the holder where none answers; runs holder and worker.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cutover_proxy::{Client, ErrorKind, HolderOptions, WorkerOptions};

use crate::failure::Failure;
use crate::state::StateDir;

const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a server waits for a proxy that is not its own to start; its unit then tries again.
const OTHERS_LIMIT: Duration = Duration::from_secs(60);

/// Ensures that a proxy answers on the state folder. One of another version is left as it is: it has the traffic.
pub(crate) async fn ensure(state: &StateDir) -> Result<(), Failure> {
    match Client::connect(state.proxy()).await {
        Ok(_) => Ok(()),
        Err(error) if *error.kind() == ErrorKind::Protocol => Err(own(&error)),
        Err(_) => restart(state).await,
    }
}

/// Waits for a proxy that something else starts.
pub(crate) async fn wait(state: &StateDir) -> Result<(), Failure> {
    let begun = Instant::now();
    while let Err(error) = Client::connect(&state.proxy()).await {
        if begun.elapsed() > OTHERS_LIMIT {
            return Err(Failure::own(format!("no proxy answers within {OTHERS_LIMIT:?}: {error}"))
                .hint("start its unit, or this server without --no-proxy"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Starts a holder; where a worker serves on without one, it takes over its listeners.
pub(crate) async fn restart(state: &StateDir) -> Result<(), Failure> {
    let dir = state.proxy();
    let failed = |error: std::io::Error| Failure::own(format!("failed to start the proxy: {error}"));
    let log = StateDir::open_log(&state.proxy_log()).map_err(failed)?;
    let mut command = std::process::Command::new(std::env::current_exe().map_err(failed)?);
    for login in cutover_checks::LOGINS {
        command.env_remove(login);
    }
    let mut child = command
        .args(["proxy", "--background", "--state"])
        .arg(state.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .current_dir("/")
        .spawn()
        .map_err(failed)?;
    let begun = Instant::now();
    loop {
        let answers = async { Client::connect(&dir).await?.hello().await };
        match (answers.await, child.try_wait().ok().flatten()) {
            (Ok(hello), _) if hello.holder_pid == Some(child.id()) => break,
            (Ok(_), None) if begun.elapsed() < START_LIMIT => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            (Ok(_), status) => {
                return Err(Failure::own(format!(
                    "a proxy without a holder goes on serving; a new one ended: {status:?}"
                ))
                .hint(format!("its log: {}", state.proxy_log().display())));
            }
            (Err(error), Some(status)) => {
                let mut failure =
                    Failure::own(format!("failed to start the proxy: it ended with {status} ({error})"))
                        .hint(format!("its log: {}", state.proxy_log().display()));
                failure.lines = last_words(state);
                return Err(failure);
            }
            (Err(error), None) if begun.elapsed() > START_LIMIT => {
                return Err(Failure::own(format!(
                    "failed to start the proxy within {START_LIMIT:?}: {error}"
                ))
                .hint(format!("its log: {}", state.proxy_log().display())));
            }
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    // Who spawns reaps: a holder that dies while this server lives must not stay a zombie.
    std::thread::spawn(move || drop(child.wait()));
    Ok(())
}

/// Returns the last lines of the proxy's log: they say why it ended.
fn last_words(state: &StateDir) -> Vec<String> {
    let text = std::fs::read_to_string(state.proxy_log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].iter().map(|line| (*line).to_string()).collect()
}

/// Runs the holder until it is told to stop.
pub(crate) fn run_holder(state: &StateDir, listen: Vec<SocketAddr>) -> Result<(), Failure> {
    state.create()?;
    // Before it has a worker, which is born where the holder is.
    super::place::settle(state, "proxy")?;
    let failed = |error: std::io::Error| Failure::own(format!("failed to start the proxy: {error}"));
    let mut worker: Vec<OsString> = vec![std::env::current_exe().map_err(failed)?.into()];
    worker.extend(["proxy", "worker"].map(OsString::from));
    worker.push(state.proxy().into());
    let mut options = HolderOptions::new(state.proxy(), worker);
    options.listen = listen;
    cutover_proxy::run_holder(options).map_err(|error| own(&error))
}

/// Runs a worker; the holder starts it.
pub(crate) fn run_worker(dir: &Path) -> Result<(), Failure> {
    cutover_proxy::run_worker(WorkerOptions::new(dir)).map_err(|error| own(&error))
}

/// Tells the proxy of `state` to stop, and waits until it has. Its open requests finish first.
pub(crate) async fn stop(state: &StateDir) -> Result<(), Failure> {
    // Whatever version it is of: to stop it is all that is asked.
    let client = Client::new(state.proxy());
    let hello = match client.hello().await {
        Err(error) if *error.kind() == ErrorKind::Unreachable => return Ok(()),
        answer => answer.map_err(|error| own(&error))?,
    };
    let pid = hello.holder_pid.unwrap_or(hello.worker_pid);
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|error| Failure::own(format!("failed to stop the proxy: {error}")))?;
    }
    let begun = Instant::now();
    while client.hello().await.is_ok() {
        if begun.elapsed() > Duration::from_secs(40) {
            return Err(Failure::own("the proxy did not stop within 40s")
                .hint(format!("its log: {}", state.proxy_log().display())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if let Some(pid) = pid {
        super::place::tidy_after(state, pid).await;
    }
    Ok(())
}

/// Turns the proxy's error into a failure of the command.
pub(crate) fn own(error: &cutover_proxy::ProxyError) -> Failure {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Failure::own(format!("{error}{cause}"))
}
