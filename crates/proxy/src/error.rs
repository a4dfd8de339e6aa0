use std::io;

use serde::{Deserialize, Serialize};

/// What kind of failure a [`ProxyError`] is, with the facts a caller acts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nobody answers on the admin socket.
    Unreachable,
    /// The deadline of the call passed; a `set` may have been applied: observe.
    Timeout,
    /// The worker went away in the middle of the call; a `set` may have been applied: observe.
    Interrupted,
    /// The other side speaks another version of the protocol, or sent something unreadable.
    Protocol,
    /// The peer of the admin socket is another user.
    Denied,
    /// The table of a `set` contradicts itself or another service.
    Invalid,
    /// The service has another generation than the caller expected.
    Conflict {
        /// The generation the proxy has now (0: the service is unknown).
        actual: u64,
    },
    /// The caller's epoch is lower than the one the proxy has seen.
    Fenced {
        /// The epoch the proxy has seen.
        actual: u64,
    },
    /// The release was tripped, its candidate gets no more traffic than it has.
    Tripped {
        /// The tripped release.
        release: String,
    },
    /// The proxy has no such service.
    UnknownService,
    /// The service has no such revision.
    UnknownRevision,
    /// The service has no candidate of that release.
    UnknownRelease,
    /// A revision with weight above 0 cannot be drained.
    StillWeighted,
    /// A target that is in the table cannot be drained by itself.
    StillRouted,
    /// The drain ended because what was drained takes requests again.
    Cancelled,
    /// The folder could not be written; traffic goes on with the table as it was.
    Storage,
    /// A newer proxy has written the folder's files.
    Newer,
    /// A thread of the worker did not acknowledge in time: observe before going on.
    Unacknowledged,
    /// A listening address could not be opened.
    Address,
    /// Another proxy holds the folder or the address.
    Locked,
    /// The worker is on its way out; ask again in a moment.
    Closing,
    /// The operating system refused something the proxy needs.
    System,
    /// A failure that a newer proxy knows; its message says what it is.
    #[serde(other)]
    Other,
}

/// Failure of the proxy, of its admin protocol or of its client.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ProxyError {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<io::Error>,
}

impl ProxyError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn io(kind: ErrorKind, message: impl Into<String>, source: io::Error) -> Self {
        Self { kind, message: message.into(), source: Some(source) }
    }

    /// Returns what kind of failure this is.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Returns the text that goes over the admin socket, which has no `source()`.
    pub(crate) fn wire_message(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {source}", self.message),
            None => self.message.clone(),
        }
    }
}
