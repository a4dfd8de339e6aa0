//! The output of a build: shown while it comes, and kept in a file, without the values of secrets.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cutover_core::Fault;
use cutover_ports::Secret;

use crate::image::watch::Watch;

/// What a secret's value is shown as.
const HIDDEN: &str = "***";
/// Shorter values are not looked for: they stand everywhere.
const SHORTEST: usize = 4;

/// Where the output goes.
pub(super) struct Log {
    file: File,
    path: PathBuf,
    watch: Watch,
    /// The longest first: one may be the beginning of another.
    hidden: Vec<String>,
}

impl Log {
    /// Opens the file to append to it; its folder is made if need be. Only its owner may read it.
    pub(super) fn open(path: &Path, secrets: &BTreeMap<String, Secret>, watch: &Watch) -> Result<Log, Fault> {
        let open = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            OpenOptions::new().append(true).create(true).mode(0o600).open(path)
        };
        let file = open().map_err(|error| unwritable(path, &error))?;
        let lines = secrets.values().flat_map(|secret| secret.expose().lines());
        let mut hidden: Vec<String> =
            lines.filter(|line| line.len() >= SHORTEST).map(str::to_owned).collect();
        hidden.sort_by_key(|line| std::cmp::Reverse(line.len()));
        Ok(Log { file, path: path.to_path_buf(), watch: watch.clone(), hidden })
    }

    pub(super) fn line(&mut self, line: &str) -> Result<(), Fault> {
        let line = self.hide(line);
        self.watch.line(&line);
        writeln!(self.file, "{line}").map_err(|error| unwritable(&self.path, &error))
    }

    /// Returns the text without the values of secrets.
    pub(super) fn hide(&self, text: &str) -> String {
        self.hidden.iter().fold(text.to_owned(), |text, hidden| text.replace(hidden, HIDDEN))
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Fault {
    Fault::platform(format!("write the output of the build to {}: {error}", path.display()))
        .hint("Make room, or let the user that runs cutover write there.")
}
