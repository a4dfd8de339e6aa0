//! The user's own tests, before anything moves.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use cutover_core::Fault;
use cutover_ports::GateRequest;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use crate::command::{Group, last_lines};
use crate::tries::seconds;

/// More output than this is no report; it would only fill the disk.
const LOG_BYTES: u64 = 256 << 20;
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TAIL_BYTES: u64 = 16 << 10;

/// Runs the command by the shell, its output straight to the log.
///
/// # Cancel safety
/// Dropped, it kills the command with its process group.
pub(crate) async fn run(request: &GateRequest) -> Result<String, Fault> {
    let GateRequest { command, base, log, .. } = request;
    let cannot = |what: &str, error: std::io::Error| {
        Fault::configuration(format!("run gate `{command}`: {what}: {error}")).fatal()
    };
    let mark = mark_of(log);
    end_left_over(&mark);
    let output = open(log, command).map_err(|error| cannot(&format!("open {}", log.display()), error))?;
    let errors = output.try_clone().map_err(|error| cannot("open its output", error))?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).current_dir(base).process_group(0).kill_on_drop(true);
    shell.env("CUTOVER_SERVICE", request.service.as_str()).env("CUTOVER_RELEASE", request.release.as_str());
    shell.env("CUTOVER_REVISION", request.revision.as_str());
    shell.stdin(Stdio::null()).stdout(output).stderr(errors);
    let began = Instant::now();
    let child = shell.spawn().map_err(|error| cannot(&format!("start sh in {}", base.display()), error))?;
    let mut group = Group(child);
    if let Some(pid) = group.0.id() {
        // Should this process die, the next one finds by it what still runs.
        let _ = fs::write(&mark, format!("{pid} {}", start_time(pid).unwrap_or_default()));
    }
    let status = loop {
        match tokio::time::timeout(LOOK_EVERY, group.0.wait()).await {
            Ok(status) => break status.map_err(|error| cannot("wait for it", error))?,
            Err(_) if fs::metadata(log).is_ok_and(|log| log.len() > LOG_BYTES) => {
                let what =
                    format!("gate `{command}` wrote more than {} MiB and was stopped", LOG_BYTES >> 20);
                return Err(Fault::candidate(what).fatal().hint(output_at(log)).lines(tail(log)));
            }
            Err(_) => {}
        }
    };
    let _ = fs::remove_file(&mark);
    let took = seconds(began.elapsed());
    if status.success() {
        return Ok(format!("passed in {took}"));
    }
    let fault = match status.code() {
        Some(code @ (126 | 127)) => Fault::configuration(format!(
            "gate `{command}` could not run: exit status {code} in {}",
            base.display()
        )),
        Some(code) => {
            Fault::candidate(format!("gate `{command}` failed with exit status {code} after {took}"))
        }
        None => Fault::candidate(format!("gate `{command}` was killed after {took}")),
    };
    Err(fault.fatal().hint(output_at(log)).lines(tail(log)))
}

fn output_at(log: &Path) -> String {
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

fn tail(log: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| last_lines(&bytes)).unwrap_or_default()
}
