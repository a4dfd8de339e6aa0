//! What became of the last attempt; on disk, so that a worker that dies again and again does not ask again and again.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files;

/// Failures in a row, and when to ask again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Attempts in a row that came to nothing, one under way among them.
    pub failures: u32,
    /// Not before this, in milliseconds since 1970.
    pub next_ms: u64,
    /// It was begun and has not ended: it is under way, or its process died.
    pub open: bool,
    /// Why the last one failed.
    pub problem: Option<String>,
}

impl Attempt {
    /// Reads what is known; nothing: none has failed.
    pub fn load(path: &Path) -> Self {
        files::load(path).unwrap_or_default()
    }

    /// Writes it down; one without a failure needs no file.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        if *self == Self::default() { files::forget(path) } else { files::store(path, self) }
    }
}
