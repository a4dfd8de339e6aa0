//! Starts an instance: a cleared environment, its own session, output straight to its log.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cutover_core::{After, Blame, Fault};
use cutover_keep::words;
use rustix::process::Signal;

use crate::cgroup::{Group, Groups};
use crate::logs;
use crate::process::{self, MARKER};
use crate::record::{InstanceRecord, ProcessRecord};
use crate::session;
use crate::store::{Manifest, Store};
use crate::user::Runner;

/// Where programs are looked for when the server itself has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What was started.
pub(crate) struct Launched {
    /// What the process is recognised by.
    pub(crate) process: ProcessRecord,
    pub(crate) group: Group,
    /// The most that its log keeps, in bytes.
    pub(crate) log_size: u64,
}

/// Starts the process of an instance, in a control group of its own.
pub(crate) fn launch(
    store: &Store,
    groups: &Groups,
    record: &InstanceRecord,
    log: &Path,
    boot: &str,
) -> Result<Launched, Fault> {
    let manifest = store.stored(&record.revision)?;
    let secrets = store.secrets(&record.revision, &manifest)?;
    let runner = manifest.platform.user.as_deref().map(Runner::find).transpose()?;
    let output = logs::open(log).map_err(|error| crate::disk::fault("open log", log, &error))?;
    if let Some(runner) = &runner {
        // So that a service that opens /dev/stdout by its name may.
        let _ =
            std::os::unix::fs::fchown(&output, Some(runner.credentials.uid), Some(runner.credentials.gid));
    }
    let errors = output.try_clone().map_err(|error| crate::disk::fault("open log", log, &error))?;
    let mut command =
        command(&manifest, record, runner.as_ref(), &store.workdir(&record.revision, &manifest))?;
    command.envs(&manifest.platform.env).envs(secrets.iter().map(|(name, value)| (name, value.expose())));
    // Last, so that nothing of the release file hides them: they tell whose process this is.
    command.envs(own_variables(record)).stdin(Stdio::null()).stdout(output).stderr(errors);
    let group = groups.make(&record.id, &manifest.platform);
    session::detach(&mut command, runner.and_then(|runner| runner.become_other()), group.doors());
    let child = spawn(&mut command).map_err(|error| could_not_start(&command, &error))?;
    if let Some(missed) = group.missed(child.id()).first() {
        // It may also have ended already, which is told elsewhere.
        if process::look(child.id()).is_some_and(|seen| !seen.zombie) {
            logs::note(
                log,
                &format!("it could not enter the cgroup {}: that does not limit it", missed.display()),
            );
        }
    }
    // Not waited for here: until it is, its number stays its own, so its start time can be read.
    let seen = process::look(child.id())
        .ok_or_else(|| Fault::platform(format!("read /proc/{}/stat", child.id())))?;
    let process = ProcessRecord { pid: child.id(), start: seen.start, boot: boot.to_string() };
    Ok(Launched { process, group, log_size: manifest.platform.log_size.bytes() })
}

/// Returns the signal of the release file.
pub(crate) fn stop_signal(manifest: &Manifest) -> Signal {
    use cutover_core::file::StopSignal;
    match manifest.platform.stop_signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
        StopSignal::Winch => Signal::WINCH,
    }
}

/// Finds the program as the instance will: in the folder it runs in where it has a slash, else on the path.
pub(crate) fn find_program(program: &str, workdir: &Path, env_path: Option<&str>) -> Option<PathBuf> {
    if program.contains('/') {
        let path = workdir.join(program);
        return path.is_file().then_some(path);
    }
    let path = env_path.map_or_else(search_path, str::to_string);
    let found = path.split(':').map(|folder| workdir.join(folder).join(program));
    found.into_iter().find(|path| path.is_file())
}

fn command(
    manifest: &Manifest,
    record: &InstanceRecord,
    runner: Option<&Runner>,
    workdir: &Path,
) -> Result<Command, Fault> {
    let words: Vec<String> = match record.port {
        Some(port) => {
            let port = port.to_string();
            manifest
                .command(record.beside.as_ref())?
                .iter()
                .map(|word| words::with_port(word, &port))
                .collect()
        }
        None => manifest.command(record.beside.as_ref())?.to_vec(),
    };
    let (program, arguments) =
        words.split_first().ok_or_else(|| Fault::configuration("start an instance: its command is empty"))?;
    let mut command = Command::new(program);
    let home = match runner {
        Some(runner) => runner.home.clone().into_os_string(),
        None => std::env::var_os("HOME").unwrap_or_else(|| "/".into()),
    };
    command.args(arguments).current_dir(workdir).env_clear();
    command.env("PATH", search_path()).env("HOME", home);
    command.env("LANG", std::env::var_os("LANG").unwrap_or_else(|| "C.UTF-8".into()));
    Ok(command)
}

fn own_variables(record: &InstanceRecord) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("CUTOVER_SERVICE", record.service.to_string()),
        ("CUTOVER_REVISION", record.revision.to_string()),
        (MARKER, record.id.to_string()),
    ];
    variables.extend(record.port.map(|port| ("PORT", port.to_string())));
    variables
}

fn spawn(command: &mut Command) -> io::Result<std::process::Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            // Another thread forked while this program's copy was being written, and its child holds the file
            // open until
            // it executes: a matter of a millisecond.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < 20 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

fn could_not_start(command: &Command, error: &io::Error) -> Fault {
    let program = command.get_program().to_string_lossy();
    let what = format!("could not start {program}: {error}");
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => Fault::platform(what),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Fault::new(
            Blame::Candidate,
            After::Final,
            what,
        )
        .hint(
            "The command runs in the revision's copy of the artifact; a script also needs its interpreter.",
        ),
        _ => Fault::candidate(what),
    }
}

fn search_path() -> String {
    std::env::var("PATH").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.into())
}

/// Tells whether the port is free on loopback at this moment.
pub(crate) fn port_is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_where_the_instance_will_find_it() {
        assert_eq!(find_program("sh", Path::new("/"), Some("/nowhere:/bin")), Some("/bin/sh".into()));
        assert_eq!(find_program("sh", Path::new("/"), Some("/nowhere")), None);
        assert_eq!(find_program("./sh", Path::new("/bin"), None), Some("/bin/./sh".into()));
    }
}
