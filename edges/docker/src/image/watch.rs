//! Who is told what happens while an image is pulled, built or pushed.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cutover_core::Fault;

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
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let fault = Watch::nobody().kept_in(&path.join("below")).unwrap_err();
        assert!(fault.what.starts_with("keep the output of the build in "), "{fault:?}");
    }
}
