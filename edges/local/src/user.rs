//! The `user:` that instances run as.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cutover_core::Fault;
use nix::unistd::{Uid, User, getgrouplist};

use crate::session::Credentials;

/// A user of this machine.
pub(crate) struct Runner {
    pub(crate) name: String,
    pub(crate) home: PathBuf,
    pub(crate) credentials: Credentials,
}

impl Runner {
    /// Finds the user; a fault where it does not exist, or this process may not become another.
    pub(crate) fn find(name: &str) -> Result<Runner, Fault> {
        let fail = |why: String| Fault::configuration(format!("run as user \"{name}\": {why}"));
        let user = User::from_name(name).map_err(|error| fail(error.to_string()))?.ok_or_else(|| {
            fail("no such user on this machine".into()).hint("Correct platform.local.user, or add the user.")
        })?;
        let me = Uid::effective();
        if !me.is_root() && me != user.uid {
            let why = format!("cutover runs as user id {me} and may not become another");
            return Err(fail(why).hint("Run cutover server as root, or leave platform.local.user out."));
        }
        let groups = std::ffi::CString::new(name).map_err(|error| fail(error.to_string()))?;
        let groups = getgrouplist(&groups, user.gid).map_err(|error| fail(error.to_string()))?;
        let credentials = Credentials {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.iter().map(|group| group.as_raw()).collect(),
        };
        Ok(Runner { name: name.to_string(), home: user.dir, credentials })
    }

    /// Returns the credentials to take on, `None` where the process has them already.
    pub(crate) fn become_other(&self) -> Option<Credentials> {
        Uid::effective().is_root().then(|| self.credentials.clone())
    }

    /// Says whether the user may execute the file or enter the folder, by its mode.
    pub(crate) fn may_execute(&self, metadata: &Metadata) -> bool {
        let Credentials { uid, gid, groups } = &self.credentials;
        let group = metadata.gid() == *gid || groups.contains(&metadata.gid());
        let bit = if metadata.uid() == *uid {
            0o100
        } else if group {
            0o010
        } else {
            0o001
        };
        metadata.mode() & if *uid == 0 { 0o111 } else { bit } != 0
    }

    /// Returns the first folder on the way to `path` that the user may not enter.
    pub(crate) fn shut_out<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let mut folders: Vec<&Path> = path.ancestors().collect();
        folders.reverse();
        folders.into_iter().find(|folder| {
            std::fs::metadata(folder).is_ok_and(|metadata| metadata.is_dir() && !self.may_execute(&metadata))
        })
    }
}
