//! Installs what lets the service come back after a reboot with nobody there.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::units::{PROXY_UNIT, SERVER_UNIT, Setup};
use crate::exit;
use crate::failure::Failure;
use crate::state::StateDir;

/// Who starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starter {
    /// The machine's systemd.
    System,
    /// The user's own systemd.
    User,
    /// Cron, where there is no systemd.
    Cron,
}

impl Starter {
    /// Finds what this machine has: systemd for root or this user, else cron.
    pub(crate) fn find() -> Result<Starter, Failure> {
        if Path::new("/run/systemd/system").is_dir() {
            let root = rustix::process::geteuid().is_root();
            return Ok(if root { Starter::System } else { Starter::User });
        }
        let there =
            Command::new("crontab").arg("-l").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
        if there {
            return Ok(Starter::Cron);
        }
        Err(Failure::new(exit::USAGE, "neither systemd nor crontab starts anything on this machine")
            .hint("see what has to be started: cutover server install --print"))
    }
}

/// Returns what would be installed, each file under its path.
pub(crate) fn printed(state: &StateDir, starter: Starter) -> Result<String, Failure> {
    let setup = setup(state, starter)?;
    if starter == Starter::Cron {
        return Ok(setup.cron_line());
    }
    let folder = folder(starter)?;
    let units = setup.units().map(|(name, text)| format!("# {}\n{text}", folder.join(name).display()));
    Ok(units.join("\n").trim_end().to_string())
}

/// Installs it. What runs now goes on as it is. Returns what was done and what to do next.
pub(crate) fn install(state: &StateDir, starter: Starter) -> Result<String, Failure> {
    state.create()?;
    let setup = setup(state, starter)?;
    if starter == Starter::Cron {
        let mut lines = crontab_without(&setup.cron_mark())?;
        lines.push(setup.cron_line());
        write_crontab(&lines)?;
        return Ok(format!("the crontab starts it at the next boot: {}", setup.cron_line()));
    }
    let folder = folder(starter)?;
    fs::create_dir_all(&folder).map_err(|error| failed("create", &folder, &error))?;
    for (name, text) in setup.units() {
        let path = folder.join(name);
        if let Some(other) = foreign(&path, &setup) {
            let what = format!("{} serves another state folder: {other}", path.display());
            return Err(
                Failure::new(exit::USAGE, what).hint("take that away first: cutover server uninstall")
            );
        }
        fs::write(&path, text).map_err(|error| failed("write", &path, &error))?;
    }
    let control = systemctl(starter);
    run(&control, &["daemon-reload"])?;
    run(&control, &["enable", PROXY_UNIT, SERVER_UNIT])?;
    let control = control.join(" ");
    let mut said = format!(
        "{PROXY_UNIT} and {SERVER_UNIT} in {} start {} with the machine; what runs now goes on as it is\n\
         to let systemd take the server over now: cutover server stop && {control} start {SERVER_UNIT}",
        folder.display(),
        state.path().display()
    );
    // Without it a user's systemd starts at the first login only.
    if starter == Starter::User && run(&["loginctl".into()], &["enable-linger"]).is_err() {
        said +=
            "\nit starts at your first login only; for the boot itself: sudo loginctl enable-linger $USER";
    }
    Ok(said)
}

/// Takes away whatever `install` left for the state folder. What runs goes on.
pub(crate) fn uninstall(state: &StateDir) -> Result<String, Failure> {
    let mut removed = Vec::new();
    for starter in [Starter::System, Starter::User] {
        let (Ok(folder), Ok(setup)) = (folder(starter), setup(state, starter)) else { continue };
        let ours: Vec<PathBuf> = [PROXY_UNIT, SERVER_UNIT]
            .map(|name| folder.join(name))
            .into_iter()
            .filter(|path| path.exists() && foreign(path, &setup).is_none())
            .collect();
        if ours.is_empty() {
            continue;
        }
        let control = systemctl(starter);
        run(&control, &["disable", PROXY_UNIT, SERVER_UNIT])?;
        for path in ours {
            fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))?;
            removed.push(path.display().to_string());
        }
        run(&control, &["daemon-reload"])?;
    }
    let setup = setup(state, Starter::Cron)?;
    if let Ok(before) = crontab() {
        let after = crontab_without(&setup.cron_mark())?;
        if after.len() < before.len() {
            write_crontab(&after)?;
            removed.push("a line of the crontab".into());
        }
    }
    Ok(match removed.as_slice() {
        [] => format!("nothing was installed for {}", state.path().display()),
        removed => format!("removed {}; what runs goes on", removed.join(", ")),
    })
}

fn setup(state: &StateDir, starter: Starter) -> Result<Setup, Failure> {
    let exe = std::env::current_exe()
        .map_err(|error| Failure::own(format!("failed to find cutover's own program: {error}")))?;
    let of = |name: &'static str| Some((name, std::env::var(name).ok().filter(|value| !value.is_empty())?));
    let owner = fs::metadata(state.path())
        .map(|found| found.uid())
        .unwrap_or_else(|_| rustix::process::geteuid().as_raw());
    let run_as = (starter == Starter::System && owner != 0).then(|| owner.to_string());
    Ok(Setup {
        exe,
        state: state.path().to_path_buf(),
        environment: ["PATH", "HOME", "LANG", "DOCKER_HOST", "DOCKER_CONFIG", "CUTOVER_SSH"]
            .into_iter()
            .filter_map(of)
            .collect(),
        run_as,
        user: starter == Starter::User,
    })
}

fn folder(starter: Starter) -> Result<PathBuf, Failure> {
    if starter == Starter::System {
        return Ok("/etc/systemd/system".into());
    }
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")));
    home.map(|home| home.join("systemd/user"))
        .ok_or_else(|| Failure::own("failed to find the folder of your units: $HOME is not set"))
}

/// Returns how an installed unit starts, if that is for another state folder.
fn foreign(path: &Path, setup: &Setup) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let start = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
        line.split_once("--state ").map(|(_, state)| state.to_string())
    };
    let ours = setup.units().iter().find_map(|(_, text)| start(text));
    let theirs = start(&text);
    if theirs == ours { None } else { Some(theirs.unwrap_or_else(|| "it was not written by cutover".into())) }
}

fn systemctl(starter: Starter) -> Vec<String> {
    match starter {
        Starter::User => vec!["systemctl".into(), "--user".into()],
        _ => vec!["systemctl".into()],
    }
}

fn run(program: &[String], arguments: &[&str]) -> Result<(), Failure> {
    let said = format!("{} {}", program.join(" "), arguments.join(" "));
    let output = Command::new(&program[0]).args(&program[1..]).args(arguments).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_string();
            Err(Failure::own(format!("failed to {said}: {} {why}", output.status))
                .hint("run it by hand, or see: cutover server install --print"))
        }
        Err(error) => Err(Failure::own(format!("failed to {said}: {error}"))
            .hint("without systemd: cutover server install --cron")),
    }
}

fn crontab() -> Result<Vec<String>, Failure> {
    let output = Command::new("crontab").arg("-l").stdin(Stdio::null()).output().map_err(|error| {
        Failure::own(format!("failed to run crontab: {error}"))
            .hint("see what has to be started: cutover server install --print")
    })?;
    // It fails where there is no crontab yet.
    let text = if output.status.success() { output.stdout } else { Vec::new() };
    Ok(String::from_utf8_lossy(&text).lines().map(str::to_string).collect())
}

fn crontab_without(mark: &str) -> Result<Vec<String>, Failure> {
    let escaped = mark.replace('%', "\\%");
    Ok(crontab()?.into_iter().filter(|line| !line.ends_with(&escaped)).collect())
}

fn write_crontab(lines: &[String]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::own(format!("failed to write the crontab: {error}"));
    let mut child = Command::new("crontab").arg("-").stdin(Stdio::piped()).spawn().map_err(failed)?;
    let mut text = lines.join("\n");
    text.push('\n');
    let written = child.stdin.take().map(|mut input| input.write_all(text.as_bytes()));
    let status = child.wait().map_err(failed)?;
    written.unwrap_or(Ok(())).map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::own(format!("failed to write the crontab: {status}")))
    }
}

fn failed(did: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::own(format!("failed to {did} {}: {error}", path.display()))
        .hint("as root it is for the machine; for this user alone: cutover server install --user")
}
