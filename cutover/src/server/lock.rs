//! One server per state folder: a second one is refused by name, not silently shared.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;
use crate::state::StateDir;

/// Holds the state folder for as long as it lives; the kernel lets go of it when the process dies.
pub(crate) struct ServerLock {
    _file: File,
}

impl ServerLock {
    /// Takes the lock and writes our pid into it.
    pub(crate) fn take(state: &StateDir) -> Result<ServerLock, Failure> {
        let path = state.server_lock();
        let failed = |error: std::io::Error| {
            Failure::own(format!("failed to lock {}: {error}", path.display()))
                .hint("is the state folder writable? Traffic goes on meanwhile")
        };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        // Somebody who only looks holds it for a moment.
        let mut tries = 0;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            tries += 1;
            if tries < 10 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            }
            let mut owner = String::new();
            file.read_to_string(&mut owner).map_err(failed)?;
            let what = format!("another server (pid {}) works on {}", owner.trim(), state.path().display());
            return Err(Failure::own(what).hint("use it, or stop it with: cutover server stop"));
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(ServerLock { _file: file })
    }

    /// Returns the pid of the server that holds the folder; none where none does.
    pub(crate) fn owner(state: &StateDir) -> Option<i32> {
        let file = OpenOptions::new().read(true).open(state.server_lock()).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        std::fs::read_to_string(state.server_lock()).ok()?.trim().parse().ok()
    }
}
