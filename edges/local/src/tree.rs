//! The artifact as a sorted tree: what is hashed is what is copied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cutover_core::{After, Blame, Fault};
use sha2::{Digest, Sha256};

use crate::disk;

/// A file or folder, and everything in it.
#[derive(Debug)]
pub(crate) struct Tree {
    /// What was asked for: looked at again after a pass.
    given: PathBuf,
    /// The folder that the entries' paths start from.
    root: PathBuf,
    /// Sorted by path, so folders come before what is in them.
    entries: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    mode: u32,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File { bytes: u64, stamp: Stamp },
    Link { to: PathBuf },
}

/// What tells a file from one that was written since: inode, and the time of the last write. Without it, a linker that
/// pauses while both the naming and the copying pass by would get half a program released.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(u64, i64, i64);

impl Kind {
    fn file(metadata: &fs::Metadata) -> Kind {
        let stamp = Stamp(metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        Kind::File { bytes: metadata.len(), stamp }
    }
}

impl Tree {
    /// Reads what is at `path`: a file, or a folder with all in it. A link at `path` itself is followed,
    /// others are kept.
    pub(crate) fn read(path: &Path) -> Result<Tree, Fault> {
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Fault::configuration(format!("find artifact {}: no such file or folder", path.display()))
                    .hint("Build it first, or correct platform.local.artifact.")
            }
            _ => disk::fault("read artifact", path, &error),
        })?;
        if metadata.is_file() {
            let name = path.file_name().map(PathBuf::from).unwrap_or_default();
            let root = path.parent().unwrap_or(Path::new("/")).to_path_buf();
            let entry = Entry { path: name, mode: metadata.mode() & 0o777, kind: Kind::file(&metadata) };
            return Ok(Tree { given: path.to_path_buf(), root, entries: vec![entry] });
        }
        if !metadata.is_dir() {
            return Err(Fault::configuration(format!(
                "read artifact {}: neither a file nor a folder",
                path.display()
            )));
        }
        let mut tree = Tree { given: path.to_path_buf(), root: path.to_path_buf(), entries: Vec::new() };
        tree.read_folder(Path::new(""))?;
        tree.entries.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        Ok(tree)
    }

    /// Returns the bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match entry.kind {
                Kind::File { bytes, .. } => bytes,
                _ => 4096,
            })
            .sum()
    }

    /// Returns the links that lead out of the tree, which a copy does not hold.
    pub(crate) fn links_out(&self) -> Vec<String> {
        let leads_out = |entry: &&Entry| match &entry.kind {
            Kind::Link { to } => {
                let mut depth = entry.path.components().count() as i64 - 1;
                to.is_absolute()
                    || to.components().any(|part| {
                        depth += if part == std::path::Component::ParentDir { -1 } else { 1 };
                        depth < 0
                    })
            }
            _ => false,
        };
        self.entries.iter().filter(leads_out).map(|entry| entry.path.display().to_string()).collect()
    }

    /// Hashes the tree: paths, modes, bytes, where links lead. A fault where it was written to meanwhile.
    pub(crate) fn hash(&self) -> Result<String, Fault> {
        let hash = self.pass(None).map_err(|fault| self.changed().err().unwrap_or(fault))?;
        self.changed().map(|()| hash)
    }

    /// Copies the tree into the folder `to`, synced, and returns the hash of exactly the bytes that were
    /// written. A fault where it was written to meanwhile.
    pub(crate) fn copy(&self, to: &Path) -> Result<String, Fault> {
        let hash = self.pass(Some(to)).map_err(|fault| self.changed().err().unwrap_or(fault))?;
        self.changed()?;
        // Folders get their modes last: a read-only one could not be filled. The deepest first.
        for entry in self.entries.iter().rev().filter(|entry| matches!(entry.kind, Kind::Folder)) {
            let path = to.join(&entry.path);
            disk::sync_folder(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)))
                .map_err(|error| disk::fault("finish", &path, &error))?;
        }
        disk::sync_folder(to).map_err(|error| disk::fault("sync", to, &error))?;
        Ok(hash)
    }

    /// Looks at everything again: a fault where anything was written, added or taken away since it was read.
    fn changed(&self) -> Result<(), Fault> {
        let now = Tree::read(&self.given);
        let different = match &now {
            Ok(now) if now.entries == self.entries => return Ok(()),
            Ok(now) => {
                let stays = |entry: &&Entry| now.entries.contains(entry);
                let gone = self.entries.iter().find(|entry| !stays(entry));
                gone.or_else(|| now.entries.iter().find(|entry| !self.entries.contains(entry)))
                    .map(|entry| self.root.join(&entry.path))
            }
            Err(_) => None,
        };
        let which = different.unwrap_or_else(|| self.given.clone());
        let what =
            format!("read artifact {}: it is being written: {}", self.given.display(), which.display());
        Err(Fault::new(Blame::Configuration, After::Retry, what)
            .hint("Wait until nothing writes to the artifact, then deploy again."))
    }

    fn read_folder(&mut self, folder: &Path) -> Result<(), Fault> {
        let full = self.root.join(folder);
        let read = |error: io::Error| disk::fault("read artifact folder", &full, &error);
        for entry in fs::read_dir(&full).map_err(read)? {
            let entry = entry.map_err(read)?;
            let path = folder.join(entry.file_name());
            let metadata = entry.metadata().map_err(read)?;
            let file_type = metadata.file_type();
            let kind = if file_type.is_dir() {
                Kind::Folder
            } else if file_type.is_file() {
                Kind::file(&metadata)
            } else if file_type.is_symlink() {
                Kind::Link { to: fs::read_link(entry.path()).map_err(read)? }
            } else {
                let what = format!(
                    "copy {}: a socket, pipe or device cannot be part of a revision",
                    entry.path().display()
                );
                return Err(Fault::configuration(what));
            };
            let is_folder = matches!(kind, Kind::Folder);
            self.entries.push(Entry { path: path.clone(), mode: metadata.mode() & 0o777, kind });
            if is_folder {
                self.read_folder(&path)?;
            }
        }
        Ok(())
    }

    fn pass(&self, to: Option<&Path>) -> Result<String, Fault> {
        let mut hash = Sha256::new();
        for entry in &self.entries {
            field(&mut hash, entry.path.as_os_str().as_bytes());
            let target = to.map(|to| to.join(&entry.path));
            match &entry.kind {
                Kind::Folder => {
                    hash.update(b"folder");
                    hash.update(entry.mode.to_le_bytes());
                    if let Some(target) = &target {
                        fs::create_dir(target)
                            .map_err(|error| disk::fault("create folder", target, &error))?;
                    }
                }
                Kind::File { .. } => {
                    hash.update(b"file");
                    hash.update(entry.mode.to_le_bytes());
                    let (bytes, digest) =
                        pass_file(&self.root.join(&entry.path), target.as_deref(), entry.mode)?;
                    hash.update(bytes.to_le_bytes());
                    hash.update(digest);
                }
                Kind::Link { to: link } => {
                    hash.update(b"link");
                    field(&mut hash, link.as_os_str().as_bytes());
                    if let Some(target) = &target {
                        std::os::unix::fs::symlink(link, target)
                            .map_err(|error| disk::fault("create link", target, &error))?;
                    }
                }
            }
        }
        Ok(disk::hex(&hash.finalize()))
    }
}

/// Hashes one file's name, mode and bytes.
pub(crate) fn hash_file(path: &Path) -> Result<String, Fault> {
    Tree::read(path)?.hash()
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn pass_file(from: &Path, to: Option<&Path>, mode: u32) -> Result<(u64, [u8; 32]), Fault> {
    let read = |error: io::Error| disk::fault("read artifact file", from, &error);
    let mut source = File::open(from).map_err(read)?;
    let mut copy = match to {
        Some(path) => {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Some((file.map_err(|error| disk::fault("create", path, &error))?, path))
        }
        None => None,
    };
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0; 256 << 10]);
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read(error)),
        };
        hash.update(&buffer[..count]);
        bytes += count as u64;
        if let Some((file, path)) = &mut copy {
            file.write_all(&buffer[..count]).map_err(|error| disk::fault("write", path, &error))?;
        }
    }
    if let Some((file, path)) = copy {
        file.set_permissions(fs::Permissions::from_mode(mode))
            .and_then(|()| file.sync_all())
            .map_err(|error| disk::fault("finish", path, &error))?;
    }
    Ok((bytes, hash.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/empty")).unwrap();
        fs::write(root.join("a/run"), "#!/bin/sh").unwrap();
        fs::set_permissions(root.join("a/run"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("run", root.join("a/link")).unwrap();
        folder
    }

    #[test]
    fn a_copy_hashes_to_the_same() {
        let (from, to) = (sample(), tempfile::tempdir().unwrap());
        let tree = Tree::read(from.path()).unwrap();
        let hash = tree.hash().unwrap();
        assert_eq!(tree.copy(to.path()).unwrap(), hash);
        assert_eq!(Tree::read(to.path()).unwrap().hash().unwrap(), hash);
    }

    #[test]
    fn bytes_modes_names_links_and_empty_folders_count() {
        let hash = |change: &dyn Fn(&Path)| {
            let folder = sample();
            change(folder.path());
            Tree::read(folder.path()).unwrap().hash().unwrap()
        };
        let same = hash(&|_| ());
        assert_eq!(hash(&|_| ()), same);
        let chmod =
            |path: PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let changes: [&dyn Fn(&Path); 6] = [
            &|root| fs::write(root.join("a/run"), "#!/bin/sg").unwrap(),
            &|root| chmod(root.join("a/run"), 0o644),
            &|root| fs::rename(root.join("a/run"), root.join("a/ran")).unwrap(),
            &|root| fs::remove_dir(root.join("a/empty")).unwrap(),
            &|root| fs::write(root.join("b"), "").unwrap(),
            &|root| {
                fs::remove_file(root.join("a/link")).unwrap();
                std::os::unix::fs::symlink("../a/run", root.join("a/link")).unwrap();
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            assert_ne!(hash(change), same, "change {number}");
        }
    }

    #[test]
    fn what_is_written_while_it_is_read_is_noticed() {
        type Change = (fn(&Path), &'static str);
        let changes: [Change; 4] = [
            // The same bytes again: what is being written may be at any point of it.
            (|root| fs::write(root.join("a/run"), "#!/bin/sh").unwrap(), "a/run"),
            (|root| fs::write(root.join("a/new"), "").unwrap(), "a/new"),
            (|root| fs::remove_file(root.join("a/run")).unwrap(), "a/run"),
            (|root| fs::remove_dir_all(root).unwrap(), ""),
        ];
        for (change, which) in changes {
            let (folder, to) = (sample(), tempfile::tempdir().unwrap());
            let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
            File::open(folder.path().join("a/run")).unwrap().set_modified(old).unwrap();
            let tree = Tree::read(folder.path()).unwrap();
            tree.hash().unwrap();
            change(folder.path());
            for fault in [tree.hash().unwrap_err(), tree.copy(to.path()).unwrap_err()] {
                assert_eq!((fault.blame, fault.after), (Blame::Configuration, After::Retry));
                assert!(fault.what.contains("is being written") && fault.what.ends_with(which), "{fault}");
            }
        }
    }

    #[test]
    fn links_that_lead_out_are_found() {
        let folder = sample();
        for (name, to) in [("a/out", "../../etc"), ("a/abs", "/etc/passwd"), ("a/in", "../a/run")] {
            std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
        }
        assert_eq!(Tree::read(folder.path()).unwrap().links_out(), ["a/abs", "a/out"]);
    }
}
