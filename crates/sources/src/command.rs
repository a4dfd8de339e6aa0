//! A command whose output is a number.

use std::path::PathBuf;
use std::process::Stdio;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::names::Names;
use crate::source::{AskError, Found, Reading, Source};
use crate::words::shown;

/// No number is longer.
const MOST: u64 = 4 << 10;

/// A shell command of the user's.
pub(crate) struct Run {
    pub(crate) command: String,
    pub(crate) folder: PathBuf,
    pub(crate) names: Names,
}

#[async_trait]
impl Source for Run {
    async fn ask(&self) -> Result<Reading, AskError> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(&self.command).current_dir(&self.folder).env_clear();
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
        command.env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into()));
        command.env("CUTOVER_SERVICE", &self.names.service).env("CUTOVER_REVISION", &self.names.revision);
        command.env("CUTOVER_STABLE", &self.names.stable_revision);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.process_group(0).kill_on_drop(true).spawn().map_err(|error| {
            AskError::wrong(
                format!("sh could not be started in {}: {error}", self.folder.display()),
                "commands run in the release file's folder",
            )
        })?;
        let mut group = Group(child);
        let (stdout, stderr) = (group.0.stdout.take(), group.0.stderr.take());
        // What it leaves running may hold its output open for ever; the caller's deadline ends that, too.
        let (out, err, ended) = tokio::join!(read(stdout), read(stderr), group.0.wait());
        let status = ended.map_err(|error| AskError::down(format!("the command was lost: {error}")))?;
        match status.code() {
            Some(0) => value(&out),
            Some(code @ (126 | 127)) => Err(AskError::wrong(
                format!("the command cannot be run (exit status {code}): {}", shown(&err)),
                "commands run in the release file's folder by sh -c",
            )),
            _ => Err(AskError::down(format!("the command failed ({status}): {}", shown(&err)))),
        }
    }
}

fn value(out: &str) -> Result<Reading, AskError> {
    if out.trim().is_empty() {
        return Err(AskError::no_data("the command printed nothing"));
    }
    let number: f64 = out.trim().parse().map_err(|_| {
        AskError::wrong(
            format!("the command printed {} instead of a number", shown(out)),
            "print one number, alone",
        )
    })?;
    if !number.is_finite() {
        return Err(AskError::no_data(format!("the command printed {}", shown(out))));
    }
    Ok(Reading { found: Found::Value(number), sampled_at_ms: None, lag_ms: None, ahead_ms: None })
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = (&mut pipe).take(MOST).read_to_end(&mut bytes).await;
        // The rest is taken, so that the command does not wait for a reader.
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The command with everything it started; killed together when nobody waits for it any more.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Without an id it has been waited for, and its number may be another's.
        if let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AskErrorKind;

    async fn ask(command: &str) -> Result<Reading, AskError> {
        let names = Names { service: "shop".into(), revision: "r-2".into(), stable_revision: "r-1".into() };
        Run { command: command.into(), folder: "/".into(), names }.ask().await
    }

    #[tokio::test]
    async fn its_output_is_the_number() {
        assert_eq!(ask("echo ' 0.25 '").await.unwrap().found, Found::Value(0.25));
        let names =
            ask("test $CUTOVER_SERVICE/$CUTOVER_REVISION/$CUTOVER_STABLE = shop/r-2/r-1 && echo 1").await;
        assert_eq!(names.unwrap().found, Found::Value(1.0));
        // More output than a pipe holds does not stop it.
        let error = ask("yes | head -c 300000").await.unwrap_err();
        assert_eq!(error.kind, AskErrorKind::Wrong);
    }

    #[tokio::test]
    async fn what_it_cannot_tell_is_told_apart() {
        for (command, kind, words) in [
            ("true", AskErrorKind::NoData, "printed nothing"),
            ("echo NaN", AskErrorKind::NoData, "printed \"NaN\""),
            ("echo many", AskErrorKind::Wrong, "printed \"many\" instead of a number"),
            ("no-such-command-here", AskErrorKind::Wrong, "exit status 127"),
            ("echo 5; echo no route >&2; exit 3", AskErrorKind::Down, "no route"),
            ("kill -9 $$", AskErrorKind::Down, "signal: 9"),
        ] {
            let error = ask(command).await.unwrap_err();
            assert_eq!(error.kind, kind, "{command}: {error}");
            assert!(error.what.contains(words), "{command}: {error}");
        }
    }
}
