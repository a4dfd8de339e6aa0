//! Commands whose output goes to a log: the user's own tests, before anything moves.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cutover_core::Fault;
use cutover_ports::GateRequest;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use crate::command::{Group, last_lines};
use crate::tries::seconds;

/// More output than this is no report; it would only fill the disk.
pub(crate) const LOG_BYTES: u64 = 256 << 20;
/// Variables of the server's environment that log it in at registries. No other process of its gets them: a gate runs
/// what others wrote, and a test that prints its environment puts it in a log.
pub const LOGINS: [&str; 3] = ["CUTOVER_REGISTRY", "CUTOVER_REGISTRY_USER", "CUTOVER_REGISTRY_PASSWORD"];
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TAIL_BYTES: u64 = 16 << 10;

/// A command whose output goes straight to a log.
pub(crate) struct Logged<'a> {
    pub(crate) command: &'a str,
    pub(crate) base: &'a Path,
    pub(crate) log: &'a Path,
    /// What it finds in its environment beside what this process has.
    pub(crate) env: Vec<(&'a str, String)>,
    /// After this it is killed; none: it takes what it takes.
    pub(crate) limit: Option<Duration>,
}

/// How a command ended, and after how long.
pub(crate) struct Ran {
    pub(crate) end: RanEnd,
    pub(crate) took: Duration,
    /// The last lines of its output.
    pub(crate) tail: Vec<String>,
}

pub(crate) enum RanEnd {
    Exited(ExitStatus),
    /// It wrote more than a log may have, and was killed.
    WroteTooMuch,
    /// Its time was over, and it was killed.
    TookTooLong,
}

/// Runs the command by the shell. The error says what of it could not be done.
///
/// # Cancel safety
/// Dropped, it kills the command with its process group.
pub(crate) async fn logged(run: &Logged<'_>) -> Result<Ran, String> {
    let Logged { command, base, log, .. } = run;
    let cannot = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let mark = mark_of(log);
    end_left_over(&mark);
    let output = open(log, command).map_err(|error| cannot(&format!("open {}", log.display()), error))?;
    let from = output.metadata().map(|log| log.len()).unwrap_or(0);
    let errors = output.try_clone().map_err(|error| cannot("open its output", error))?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(base).process_group(0).kill_on_drop(true);
    for login in LOGINS {
        shell.env_remove(login);
    }
    shell.envs(run.env.iter().map(|(name, value)| (name, value)));
    shell.stdin(Stdio::null()).stdout(output).stderr(errors);
    let began = Instant::now();
    let child = shell.spawn().map_err(|error| cannot(&format!("start sh in {}", base.display()), error))?;
    let mut group = Group(child);
    if let Some(pid) = group.0.id() {
        // Should this process die, the next one finds by it what still runs.
        let _ = fs::write(&mark, format!("{pid} {}", start_time(pid).unwrap_or_default()));
    }
    let end = loop {
        let left = run.limit.map(|limit| limit.saturating_sub(began.elapsed()));
        match tokio::time::timeout(left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY), group.0.wait()).await {
            Ok(status) => break RanEnd::Exited(status.map_err(|error| cannot("wait for it", error))?),
            Err(_) if fs::metadata(log).is_ok_and(|log| log.len() > LOG_BYTES) => break RanEnd::WroteTooMuch,
            Err(_) if run.limit.is_some_and(|limit| began.elapsed() >= limit) => break RanEnd::TookTooLong,
            Err(_) => {}
        }
    };
    drop(group);
    let _ = fs::remove_file(&mark);
    Ok(Ran { end, took: began.elapsed(), tail: tail(log, from) })
}

/// Runs one of the user's own tests.
pub(crate) async fn run(request: &GateRequest) -> Result<String, Fault> {
    let GateRequest { command, base, log, .. } = request;
    let env = vec![
        ("CUTOVER_SERVICE", request.service.to_string()),
        ("CUTOVER_RELEASE", request.release.to_string()),
        ("CUTOVER_REVISION", request.revision.to_string()),
    ];
    let ran = logged(&Logged { command, base, log, env, limit: None })
        .await
        .map_err(|why| Fault::configuration(format!("run gate `{command}`: {why}")).fatal())?;
    let took = seconds(ran.took);
    let fault = match ran.end {
        RanEnd::Exited(status) if status.success() => return Ok(format!("passed in {took}")),
        RanEnd::Exited(status) => match status.code() {
            Some(code @ (126 | 127)) => Fault::configuration(format!(
                "gate `{command}` could not run: exit status {code} in {}",
                base.display()
            )),
            Some(code) => {
                Fault::candidate(format!("gate `{command}` failed with exit status {code} after {took}"))
            }
            None => Fault::candidate(format!("gate `{command}` was killed after {took}")),
        },
        RanEnd::WroteTooMuch => Fault::candidate(format!(
            "gate `{command}` wrote more than {} MiB and was stopped",
            LOG_BYTES >> 20
        )),
        RanEnd::TookTooLong => Fault::candidate(format!("gate `{command}` did not end within {took}")),
    };
    Err(fault.fatal().hint(output_at(log)).lines(ran.tail))
}

/// Says where to read on.
pub(crate) fn output_at(log: &Path) -> String {
    format!("its whole output: {}", log.display())
}

fn mark_of(log: &Path) -> PathBuf {
    log.with_extension("pid")
}

fn open(log: &Path, command: &str) -> std::io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    writeln!(file, "$ {command}")?;
    Ok(file)
}

/// Ends the group that a dead driver left, if it still is the one that the mark names.
fn end_left_over(mark: &Path) {
    let text = fs::read_to_string(mark).unwrap_or_default();
    let mut words = text.split(' ');
    let pid = words.next().and_then(|word| word.parse::<u32>().ok());
    let start = words.next().and_then(|word| word.parse::<u64>().ok());
    let (Some(pid), Some(start)) = (pid, start) else { return };
    if start_time(pid) == Some(start)
        && let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw)
    {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Returns when the process began, in clock ticks since the boot: with its number it names one process for good.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Returns the last lines of what was written from byte `from` on.
fn tail(log: &Path, from: u64) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES).max(from)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| last_lines(&bytes)).unwrap_or_default()
}
