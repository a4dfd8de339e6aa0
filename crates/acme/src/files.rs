//! Files that only their owner reads, each replaced as a whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Proof that nobody else asks with the same folder; ends when it is dropped, or its process dies.
#[derive(Debug)]
pub struct Alone(#[allow(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl Alone {
    /// Takes the lock of a folder, which is made if need be; none: another process has it.
    pub fn take(folder: &Path) -> io::Result<Option<Self>> {
        make(folder)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(folder.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Writes a file of mode 0600 aside, syncs it and puts it in its place.
pub fn store_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    make(folder)?;
    let aside = path.with_added_extension("new");
    // One that a crash left behind may have another mode.
    forget(&aside)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(folder)?.sync_all()
}

/// Removes a file; one that is not there is no failure.
pub(crate) fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn store<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    store_private(path, &serde_json::to_vec_pretty(value)?)
}

/// Reads what [`store`] wrote. What is damaged counts as missing: all of it can be had again.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = fs::read(path).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "a file cannot be understood"))
        .ok()
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_stored_is_its_owners_alone_and_replaced_as_a_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("deep/a.pem");
        for content in ["first", "second"] {
            fs::create_dir_all(dir.path().join("deep")).expect("a folder");
            fs::write(dir.path().join("deep/a.pem.new"), "left by a crash").expect("a file");
            store_private(&path, content.as_bytes()).expect("it is written");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), content);
            let mode = fs::metadata(&path).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_folder_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Alone::take(dir.path()).expect("it can be locked");
        assert!(first.is_some() && Alone::take(dir.path()).expect("it can be asked for").is_none());
        drop(first);
        assert!(Alone::take(dir.path()).expect("it can be locked").is_some());
    }
}
