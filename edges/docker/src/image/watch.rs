//! Who is told what happens while an image is pulled, built or pushed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cutover_core::Fault;

/// As much output as one answer carries.
const PART: u64 = 64 << 10;

/// Takes a line for people at a time.
#[derive(Clone)]
pub struct Watch {
    take: Arc<dyn Fn(&str) + Send + Sync>,
    file: Option<Arc<Mutex<File>>>,
}

impl Watch {
    /// Hands each line to `take`, which must not block.
    pub fn new(take: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { take: Arc::new(take), file: None }
    }

    /// Tells nobody.
    pub fn nobody() -> Self {
        Self::new(|_| {})
    }

    /// Keeps each line in a file too, which begins anew, and which only its owner may read. Its folder is made if need be.
    ///
    /// # Errors
    /// The file cannot be made. What cannot be written later is shown and not kept: no build fails for its log.
    pub fn kept_in(mut self, path: &Path) -> Result<Self, Fault> {
        let open = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
        };
        let file = open().map_err(|error| {
            Fault::platform(format!("keep the output of the build in {}: {error}", path.display()))
                .hint("Make room, or let the user that runs cutover write there.")
        })?;
        self.file = Some(Arc::new(Mutex::new(file)));
        Ok(self)
    }

    pub(crate) fn line(&self, line: &str) {
        (self.take)(line);
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // In one piece: whoever reads along meanwhile sees whole lines.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    }
}

/// Returns what was kept in the file of a [`Watch`] from byte `from` on, at most 64 KiB; nothing where it has not begun.
///
/// # Errors
/// It cannot be read.
pub fn output(path: &Path, from: u64) -> Result<Vec<u8>, Fault> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut part = Vec::new();
        file.take(PART).read_to_end(&mut part)?;
        Ok(part)
    };
    match read() {
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| {
            Fault::platform(format!("read the output of the build in {}: {error}", path.display()))
        }),
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_kept_and_the_next_time_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/r-1.log");
        for _ in 0..2 {
            let watch = Watch::nobody().kept_in(&path).unwrap();
            watch.line("one");
            watch.clone().line("two");
        }
        assert_eq!(output(&path, 0).unwrap(), b"one\ntwo\n");
        assert_eq!((output(&path, 4).unwrap(), output(&path, 100).unwrap()), (b"two\n".to_vec(), Vec::new()));
        assert_eq!(output(&folder.path().join("none"), 0).unwrap(), b"");
        let fault = Watch::nobody().kept_in(&path.join("below")).unwrap_err();
        assert!(fault.what.starts_with("keep the output of the build in "), "{fault:?}");
    }
}
