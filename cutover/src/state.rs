//! The state folder: journal, revisions, sockets, logs. Everything that cutover remembers on this machine.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A log of cutover's own that is larger starts anew with the next process, in bytes.
const LARGE_LOG: u64 = 8 << 20;

/// A state folder, existing and private.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    scratch: bool,
}

impl StateDir {
    /// Finds the folder: `--state`, else `$CUTOVER_STATE`, else the user's state folder.
    pub(crate) fn find(given: Option<&Path>) -> Result<StateDir, Failure> {
        let path = given.map(Path::to_path_buf).or_else(|| env_path("CUTOVER_STATE")).or_else(default_dir);
        let path = path.ok_or_else(|| {
            Failure::own(
                "failed to find a state folder: neither $CUTOVER_STATE, $XDG_STATE_HOME nor $HOME is set",
            )
            .hint("name one with --state DIR")
        })?;
        let path = std::path::absolute(&path)
            .map_err(|error| Failure::own(format!("failed to resolve {}: {error}", path.display())))?;
        Ok(StateDir { path, scratch: false })
    }

    /// Says that it is thrown away soon: what works on it may as well end with whoever started it.
    pub(crate) fn scratch(self) -> StateDir {
        StateDir { scratch: true, ..self }
    }

    pub(crate) fn is_scratch(&self) -> bool {
        self.scratch
    }

    /// Makes the folder, private to this user.
    pub(crate) fn create(&self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::own(format!("failed to create the state folder {}: {error}", self.path.display()))
                .hint("make it writable, or name another with --state DIR")
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(failed)?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700)).map_err(failed)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal.db")
    }

    pub(crate) fn server_socket(&self) -> PathBuf {
        self.path.join("server.sock")
    }

    pub(crate) fn server_lock(&self) -> PathBuf {
        self.path.join("server.lock")
    }

    pub(crate) fn server_log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// Opens a log of cutover's own for appending; one that has grown large becomes the `.1` of the next.
    pub(crate) fn open_log(path: &Path) -> std::io::Result<fs::File> {
        if fs::metadata(path).is_ok_and(|found| found.len() > LARGE_LOG) {
            let mut older = path.as_os_str().to_owned();
            older.push(".1");
            // Whoever still has it open, an orphaned worker say, goes on writing to it there.
            fs::rename(path, older)?;
        }
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
    }

    pub(crate) fn proxy(&self) -> PathBuf {
        self.path.join("proxy")
    }

    pub(crate) fn proxy_log(&self) -> PathBuf {
        self.path.join("proxy.log")
    }
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn default_dir() -> Option<PathBuf> {
    let base =
        env_path("XDG_STATE_HOME").or_else(|| env_path("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join("cutover"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_starts_anew_and_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        for round in 0..3 {
            assert_eq!(StateDir::open_log(&path).unwrap().metadata().unwrap().len(), 0, "round {round}");
            fs::File::create(&path).unwrap().set_len(LARGE_LOG + 1).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        fs::write(&path, "short").unwrap();
        assert_eq!(StateDir::open_log(&path).unwrap().metadata().unwrap().len(), 5);
    }
}
