//! The context of a build: the files that a Dockerfile may take, in the order in which they are hashed and sent.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cutover_core::{After, Blame, Fault};
use sha2::{Digest, Sha256};

use super::ignore::{Fits, Ignore};

/// The largest Dockerfile: it is held in memory.
const DOCKERFILE: u64 = 4 << 20;
/// A list of patterns is smaller.
const IGNORE: u64 = 4 << 20;

/// A folder of files, without those that `.dockerignore` names, and a Dockerfile from anywhere.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) root: PathBuf,
    /// A folder comes before what is in it, and what is in one is sorted by name.
    pub(super) entries: Vec<Entry>,
    pub(super) dockerfile: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the context's folder, with `/` between names.
    pub(super) path: String,
    /// Permissions, with the set-user, set-group and sticky bits.
    pub(super) mode: u32,
    pub(super) modified_ns: i64,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File { bytes: u64 },
    Link { to: String },
}

impl Context {
    /// Reads which files there are. `DOCKERFILE.dockerignore` beside the Dockerfile goes before the `.dockerignore` of the
    /// context. Pipes, sockets and devices are left out.
    pub(super) fn read(root: &Path, dockerfile: &Path) -> Result<Context, Fault> {
        if !root.is_dir() {
            return Err(Fault::configuration(format!(
                "read the context {}: it is no folder",
                root.display()
            ))
            .hint("Correct platform.docker.build.context; it starts from the release file's folder."));
        }
        let text = read_dockerfile(dockerfile)?;
        let ignore = read_ignore(root, dockerfile)?;
        let mut context = Context { root: root.to_path_buf(), entries: Vec::new(), dockerfile: text };
        context.walk("", &ignore, &ignore.nothing())?;
        Ok(context)
    }

    fn walk(&mut self, folder: &str, ignore: &Ignore, fits: &Fits) -> Result<(), Fault> {
        let full = self.root.join(folder);
        let mut names = Vec::new();
        for found in fs::read_dir(&full).map_err(|error| unreadable(&full, &error))? {
            let found = found.map_err(|error| unreadable(&full, &error))?;
            names.push(found.file_name().into_string().map_err(|name| {
                Fault::configuration(format!("read {}: its name is no UTF-8", full.join(&name).display()))
                    .hint("Rename it, or name its folder in .dockerignore.")
            })?);
        }
        names.sort_unstable();
        for name in names {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let (ignored, fits) = ignore.look(&path, fits);
            if ignored && !ignore.may_keep_in(&path) {
                continue;
            }
            let full = self.root.join(&path);
            let metadata = match fs::symlink_metadata(&full) {
                Ok(metadata) => metadata,
                // It was there a moment ago: a context that changes is found out by its hash.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(&full, &error)),
            };
            let Some(entry) = Entry::read(path, &full, &metadata)? else { continue };
            let inside = matches!(entry.kind, Kind::Folder).then(|| entry.path.clone());
            let at = self.entries.len();
            if !ignored || inside.is_some() {
                self.entries.push(entry);
            }
            if let Some(inside) = inside {
                self.walk(&inside, ignore, &fits)?;
                // An ignored folder is there only for what is kept in it.
                if ignored && self.entries.len() == at + 1 {
                    self.entries.pop();
                }
            }
        }
        Ok(())
    }

    /// Hashes paths, permissions, bytes, and where links lead. When a file was written counts for nothing.
    pub(super) fn hash(&self, hash: &mut Sha256) -> Result<(), Fault> {
        let mut buffer = vec![0; 1 << 18];
        for entry in &self.entries {
            let (letter, bytes) = match &entry.kind {
                Kind::Folder => (b'd', 0),
                Kind::File { bytes } => (b'f', *bytes),
                Kind::Link { to } => (b'l', to.len() as u64),
            };
            hash.update([letter]);
            hash.update(entry.mode.to_be_bytes());
            hash.update((entry.path.len() as u64).to_be_bytes());
            hash.update(&entry.path);
            hash.update(bytes.to_be_bytes());
            match &entry.kind {
                Kind::Folder => {}
                Kind::Link { to } => hash.update(to),
                Kind::File { bytes } => self.hash_file(&entry.path, *bytes, hash, &mut buffer)?,
            }
        }
        Ok(())
    }

    fn hash_file(&self, path: &str, bytes: u64, hash: &mut Sha256, buffer: &mut [u8]) -> Result<(), Fault> {
        let full = self.root.join(path);
        let mut file = File::open(&full).map_err(|error| unreadable(&full, &error))?;
        let mut left = bytes;
        loop {
            let read = file.read(buffer).map_err(|error| unreadable(&full, &error))?;
            if read == 0 && left == 0 {
                return Ok(());
            }
            left = left.checked_sub(read as u64).filter(|_| read > 0).ok_or_else(|| changed(&full))?;
            hash.update(&buffer[..read]);
        }
    }
}

impl Entry {
    fn read(path: String, full: &Path, metadata: &Metadata) -> Result<Option<Entry>, Fault> {
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            Kind::Folder
        } else if kind.is_file() {
            Kind::File { bytes: metadata.len() }
        } else if kind.is_symlink() {
            let to = fs::read_link(full).map_err(|error| unreadable(full, &error))?;
            let to = to.into_os_string().into_string().map_err(|_| {
                Fault::configuration(format!("read the link {}: where it leads is no UTF-8", full.display()))
                    .hint("Change the link, or name it in .dockerignore.")
            })?;
            Kind::Link { to }
        } else {
            debug_assert!(
                kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device()
            );
            return Ok(None);
        };
        let modified_ns =
            metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        // A link has no permissions of its own.
        let mode = if matches!(kind, Kind::Link { .. }) { 0o777 } else { metadata.mode() & 0o7777 };
        Ok(Some(Entry { path, mode, modified_ns, kind }))
    }
}

fn read_dockerfile(path: &Path) -> Result<Vec<u8>, Fault> {
    let doing = format!("read {}", path.display());
    let metadata = fs::metadata(path).map_err(|error| {
        Fault::configuration(format!("{doing}: {error}"))
            .hint("Correct platform.docker.build.dockerfile; it starts from the context's folder.")
    })?;
    if !metadata.is_file() || metadata.len() > DOCKERFILE {
        return Err(Fault::configuration(format!(
            "{doing}: it is no file, or larger than {} MB",
            DOCKERFILE >> 20
        ))
        .hint("Correct platform.docker.build.dockerfile."));
    }
    fs::read(path).map_err(|error| unreadable(path, &error))
}

fn read_ignore(root: &Path, dockerfile: &Path) -> Result<Ignore, Fault> {
    let mut beside = dockerfile.as_os_str().to_owned();
    beside.push(".dockerignore");
    for path in [PathBuf::from(beside), root.join(".dockerignore")] {
        match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() || metadata.len() > IGNORE => {
                let what =
                    format!("read {}: it is no file, or larger than {} MB", path.display(), IGNORE >> 20);
                return Err(Fault::configuration(what).hint("Correct it: a line for each pattern."));
            }
            _ => {}
        }
        match fs::read(&path) {
            Ok(text) => return Ignore::read(&String::from_utf8_lossy(&text), &path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&path, &error)),
        }
    }
    Ok(Ignore::default())
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault::configuration(format!("read {}: {error}", path.display()))
        .hint("Let the user that runs cutover read it, or name it in .dockerignore.")
}

/// A file that is written to while it is read.
pub(super) fn changed(path: &Path) -> Fault {
    let what = format!("read {}: it is being written", path.display());
    Fault::new(Blame::Configuration, After::Retry, what).hint(
        "Wait until nothing writes to the context, or name the file in .dockerignore; then deploy again.",
    )
}
