//! What can be wrong with the journal, and what a person does about it.

use std::fmt;
use std::path::{Path, PathBuf};

use cutover_core::ReleaseId;

/// What kind of trouble the journal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The file is not, or no longer, a whole journal.
    Damaged,
    /// A newer version of cutover wrote it.
    Newer,
    /// The file or its folder cannot be written.
    NotWritable,
    /// The disk is full.
    Full,
    /// Another process kept it locked for too long.
    Locked,
    /// A newer driver took the service over.
    Fenced,
    /// Another release was opened first.
    Conflict,
    /// Anything else.
    Other,
}

/// The journal could not be read or written.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    what: String,
    hint: String,
    holder: Option<(ReleaseId, String)>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// Makes an error of that kind.
    pub fn new(kind: StoreErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), hint: String::new(), holder: None, source: None }
    }

    /// Returns what kind of trouble it is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Returns what to do next; empty where nothing helps.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Returns the release that holds the service, and its driver, where that is the trouble.
    pub fn holder(&self) -> Option<&(ReleaseId, String)> {
        self.holder.as_ref()
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(crate) fn held(release: ReleaseId, owner: String) -> Self {
        let what = format!("{release} holds the service, driven by {owner}");
        let mut error = Self::new(StoreErrorKind::Conflict, what);
        error.holder = Some((release, owner));
        error
    }

    pub(crate) fn fenced(owner: &str) -> Self {
        Self::new(StoreErrorKind::Fenced, format!("{owner} took the service over"))
    }

    pub(crate) fn damaged(path: &Path, what: impl fmt::Display) -> Self {
        Self::new(StoreErrorKind::Damaged, format!("the journal {} is damaged: {what}", path.display()))
            .with_hint(damage_hint(path))
    }

    pub(crate) fn io(path: &Path, doing: &str, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreErrorKind::Full,
            _ => StoreErrorKind::NotWritable,
        };
        let what = format!("{doing} the journal {}", path.display());
        let mut error = Self::new(kind, what).with_hint(hint_of(kind, path));
        error.source = Some(Box::new(source));
        error
    }

    pub(crate) fn sql(path: &Path, source: sqlx::Error) -> Self {
        let code = match &source {
            sqlx::Error::Database(error) => {
                error.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0) & 0xff
            }
            _ => 0,
        };
        let kind = match code {
            11 | 26 => StoreErrorKind::Damaged,
            8 | 14 | 3 | 23 => StoreErrorKind::NotWritable,
            13 => StoreErrorKind::Full,
            5 | 6 => StoreErrorKind::Locked,
            _ => StoreErrorKind::Other,
        };
        let path_text = path.display();
        let what = match kind {
            StoreErrorKind::Damaged => format!("the journal {path_text} is damaged"),
            StoreErrorKind::NotWritable => format!("the journal {path_text} cannot be written"),
            StoreErrorKind::Full => format!("the disk of the journal {path_text} is full"),
            StoreErrorKind::Locked => format!("the journal {path_text} is locked by another process"),
            _ => format!("the journal {path_text} could not be used: {source}"),
        };
        let mut error = Self::new(kind, what).with_hint(hint_of(kind, path));
        error.source = Some(Box::new(source));
        error
    }

    pub(crate) fn because(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }
}

fn hint_of(kind: StoreErrorKind, path: &Path) -> String {
    let folder = path.parent().map(PathBuf::from).unwrap_or_default();
    match kind {
        StoreErrorKind::Damaged => damage_hint(path),
        StoreErrorKind::NotWritable => {
            format!("make the folder {} exist and belong to the user that runs cutover", folder.display())
        }
        StoreErrorKind::Full => {
            "free some space; traffic goes on as it is, and cutover goes on by itself once it can write"
                .into()
        }
        StoreErrorKind::Locked => "see who holds it: fuser, lsof; then try again".into(),
        _ => String::new(),
    }
}

fn damage_hint(path: &Path) -> String {
    format!(
        "traffic goes on as it is; restore a backup of {0}, or move {0} (with its -wal and -shm) away and \
         run cutover deploy again",
        path.display()
    )
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}
