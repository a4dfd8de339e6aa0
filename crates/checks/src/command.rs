//! A command of the user's that asks the instance in its own way.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use cutover_core::{CheckOutcome, Fault};
use cutover_ports::CheckRequest;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::tries::{Miss, Try};

/// The most lines of a command's output that are shown.
const LINES_SHOWN: usize = 20;
/// No more of a command's output is kept.
const OUTPUT_BYTES: usize = 16 << 10;
/// How long a command's output is still read after its end: something it started may hold the pipe for ever.
const OUTPUT_WAIT: Duration = Duration::from_millis(100);

/// Runs the command by the shell; it must exit 0.
pub(crate) async fn run(request: &CheckRequest, run: &str) -> Try {
    let address = request.instance.address;
    let mut command = Command::new("sh");
    command.arg("-c").arg(run).current_dir(&request.base).env_clear();
    command.env("PATH", variable("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    command.env("HOME", variable("HOME", "/"));
    command.env("PORT", address.port().to_string()).env("CUTOVER_URL", format!("http://{address}"));
    command.env("CUTOVER_REVISION", request.revision.as_str());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cannot = |why: String| Miss::CannotRun(Fault::configuration(format!("run check {run}: {why}")));
    let child = command
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot(format!("could not start sh in {}: {error}", request.base.display())))?;
    let mut group = Group(child);
    let (stdout, stderr) = (group.0.stdout.take(), group.0.stderr.take());
    let mut output = Vec::new();
    let status = {
        let mut reading = std::pin::pin!(read_both(stdout, stderr, &mut output));
        tokio::select! {
            ended = group.0.wait() => {
                let _ = tokio::time::timeout(OUTPUT_WAIT, reading).await;
                ended
            }
            // It closed its output before it ended.
            () = &mut reading => group.0.wait().await,
        }
    };
    let status = status.map_err(|error| Miss::io(&error))?;
    judge(status, last_lines(&output)).map(|()| "exit status 0".into()).map_err(|miss| match miss {
        Verdict::Unable(why, lines) => Miss::CannotRun(
            Fault::configuration(format!("run check {run}: {why}"))
                .hint(format!("Check commands run in {} by sh -c.", request.base.display()))
                .lines(lines),
        ),
        Verdict::Miss(why, lines) => {
            Miss::No { outcome: CheckOutcome::Failed, why, shown: String::new(), lines }
        }
    })
}

/// The command with everything it started; killed together when the time is over.
pub(crate) struct Group(pub(crate) Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Without an id it has been waited for, and its number may be another's.
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

enum Verdict {
    Miss(String, Vec<String>),
    Unable(String, Vec<String>),
}

fn judge(status: ExitStatus, lines: Vec<String>) -> Result<(), Verdict> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(127), _) => Err(Verdict::Unable("command not found (exit status 127)".into(), lines)),
        (Some(126), _) => Err(Verdict::Unable("not executable (exit status 126)".into(), lines)),
        (Some(code), _) => Err(Verdict::Miss(format!("exit status {code}"), lines)),
        (None, Some(signal)) => Err(Verdict::Miss(format!("killed by signal {signal}"), lines)),
        (None, None) => Err(Verdict::Miss("ended without a status".into(), lines)),
    }
}

async fn read_both(
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    output: &mut Vec<u8>,
) {
    let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else { return };
    let (mut out, mut err) = (vec![0; 4096], vec![0; 4096]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let part = tokio::select! {
            read = stdout.read(&mut out), if out_open => {
                let count = read.unwrap_or(0);
                out_open = count > 0;
                &out[..count]
            }
            read = stderr.read(&mut err), if err_open => {
                let count = read.unwrap_or(0);
                err_open = count > 0;
                &err[..count]
            }
        };
        output.extend_from_slice(part);
        output.drain(..output.len().saturating_sub(OUTPUT_BYTES));
    }
}

pub(crate) fn last_lines(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..]
        .iter()
        .map(|line| line.chars().take(500).collect())
        .collect()
}

fn variable(name: &str, otherwise: &str) -> String {
    std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| otherwise.into())
}
