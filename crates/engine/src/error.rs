//! Why the engine did not do what was asked.

use std::fmt;

use cutover_core::machine::Illegal;
use cutover_core::{Fault, PlanError, ReleaseId, ServiceName};

use crate::store::{StoreError, StoreErrorKind};

/// What kind of refusal it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// Another release holds the service.
    Busy,
    /// There is nothing to do: the revision is stable already.
    UpToDate,
    /// There is no plan, or an edge refused before the release was opened.
    Refused,
    /// No release holds the service.
    NothingUnderWay,
    /// The release cannot do that in its state.
    Illegal,
    /// There is no predecessor to return to.
    NoPredecessor,
    /// There is no such release or service.
    NotFound,
    /// The journal is damaged.
    Damaged,
    /// A newer version of cutover wrote the journal.
    NewerJournal,
    /// The journal could not be read or written.
    Store,
    /// Another driver took the service over.
    Fenced,
    /// The engine is being shut down.
    ShuttingDown,
}

/// The engine did not do what was asked: nothing was changed by the call that returns it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct EngineError {
    kind: EngineErrorKind,
    what: String,
    hint: String,
    holder: Option<(ReleaseId, String)>,
    fault: Option<Box<Fault>>,
    source: Option<Box<StoreError>>,
}

impl EngineError {
    pub(crate) fn new(kind: EngineErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), hint: String::new(), holder: None, fault: None, source: None }
    }

    pub(crate) fn hinting(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    pub(crate) fn busy(service: &ServiceName, release: ReleaseId, by: &str, owner: String) -> Self {
        let what = format!("{release} holds {service}, begun by {by}, driven by {owner}");
        let hint = format!("wait for it, or say --supersede; see: cutover status {service}");
        let mut error = Self::new(EngineErrorKind::Busy, what).hinting(hint);
        error.holder = Some((release, owner));
        error
    }

    pub(crate) fn refused(fault: Fault) -> Self {
        let mut error = Self::new(EngineErrorKind::Refused, fault.what.clone()).hinting(fault.hint.clone());
        error.fault = Some(Box::new(fault));
        error
    }

    pub(crate) fn nothing_under_way(service: &ServiceName) -> Self {
        Self::new(EngineErrorKind::NothingUnderWay, format!("no release of {service} is under way"))
            .hinting("see what happened last: cutover history")
    }

    pub(crate) fn not_found(what: impl fmt::Display) -> Self {
        Self::new(EngineErrorKind::NotFound, format!("{what} is not in the journal"))
            .hinting("see: cutover history")
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(EngineErrorKind::ShuttingDown, "cutover is being shut down")
            .hinting("ask again in a moment")
    }

    /// Returns what kind of refusal it is.
    pub fn kind(&self) -> EngineErrorKind {
        self.kind
    }

    /// Returns what to do next; empty where nothing helps.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Returns the release that holds the service, and its driver, where that is the reason.
    pub fn holder(&self) -> Option<(&ReleaseId, &str)> {
        self.holder.as_ref().map(|(release, owner)| (release, owner.as_str()))
    }

    /// Returns the edge's fault, where that is the reason.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_deref()
    }

    /// Returns lines that show it: the last output of an instance, say.
    pub fn lines(&self) -> &[String] {
        self.fault.as_ref().map_or(&[], |fault| &fault.lines)
    }

    /// Returns the exit code of the design's §7.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            EngineErrorKind::UpToDate => 0,
            EngineErrorKind::Busy => 6,
            EngineErrorKind::Refused | EngineErrorKind::NoPredecessor => 3,
            EngineErrorKind::NothingUnderWay | EngineErrorKind::Illegal | EngineErrorKind::NotFound => 2,
            _ => 1,
        }
    }
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind() {
            StoreErrorKind::Damaged => EngineErrorKind::Damaged,
            StoreErrorKind::Newer => EngineErrorKind::NewerJournal,
            StoreErrorKind::Fenced => EngineErrorKind::Fenced,
            StoreErrorKind::Conflict => EngineErrorKind::Busy,
            _ => EngineErrorKind::Store,
        };
        let mut new = Self::new(kind, error.to_string()).hinting(error.hint());
        new.holder = error.holder().cloned();
        new.source = Some(Box::new(error));
        new
    }
}

impl From<PlanError> for EngineError {
    fn from(error: PlanError) -> Self {
        let kind = match error {
            PlanError::AlreadyStable { .. } => EngineErrorKind::UpToDate,
            PlanError::RolledBackBefore { .. } => EngineErrorKind::Refused,
        };
        Self::new(kind, error.to_string()).hinting(error.hint())
    }
}

impl From<Illegal> for EngineError {
    fn from(illegal: Illegal) -> Self {
        Self::new(EngineErrorKind::Illegal, illegal.to_string()).hinting(illegal.hint())
    }
}
