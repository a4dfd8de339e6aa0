//! The exit codes, as design §7 lists them. Scripts depend on them; they do not change.

/// Released, or nothing to do.
pub(crate) const OK: u8 = 0;
/// cutover itself failed.
pub(crate) const FAILED: u8 = 1;
/// Bad usage, or a bad release file.
pub(crate) const USAGE: u8 = 2;
/// Refused, or failed before any traffic moved.
pub(crate) const REFUSED: u8 = 3;
/// A person ended it.
pub(crate) const WITHDRAWN: u8 = 7;
/// Detached or timed out; the release goes on.
pub(crate) const DETACHED: u8 = 8;
