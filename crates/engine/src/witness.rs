//! Whoever wants to know what happens to releases as it happens: to count it, say. It changes nothing.

use cutover_core::{Machine, Record, Release, ServiceName};

/// A record that is in the journal, and what it made of its release.
#[derive(Clone, Copy, Debug)]
pub struct Happened<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// The release.
    pub release: &'a Release,
    /// What was journaled.
    pub record: &'a Record,
    /// The machine before it.
    pub before: &'a Machine,
    /// The machine after it.
    pub after: &'a Machine,
}

/// Told of every record that a driver of this engine journals, but the first: once, in the order of the journal. What a dead
/// driver journaled is not told again.
pub trait Witness: Send + Sync {
    /// A record was journaled. Called between the write and what follows from it, so it must not wait.
    fn happened(&self, happened: &Happened<'_>);
}

/// Nobody wants to know.
pub(crate) struct Nobody;

impl Witness for Nobody {
    fn happened(&self, _: &Happened<'_>) {}
}
