//! What the proxy's errors mean for a release.

use cutover_core::{After, Blame, Fault};
use cutover_proxy::{ErrorKind, ProxyError};

/// Says whose fault an error of the proxy is, and whether the change may have happened.
pub(crate) fn fault(doing: &str, error: &ProxyError) -> Fault {
    let (blame, after, hint) = match error.kind() {
        ErrorKind::Unreachable => {
            (Blame::Platform, After::Retry, "is the proxy running? A server starts it: cutover server")
        }
        ErrorKind::Timeout | ErrorKind::Interrupted | ErrorKind::Unacknowledged => {
            (Blame::Platform, After::Unknown, "")
        }
        ErrorKind::Closing | ErrorKind::Conflict { .. } | ErrorKind::Cancelled | ErrorKind::System => {
            (Blame::Platform, After::Retry, "")
        }
        // The table is set again before the next try.
        ErrorKind::StillRouted => (Blame::Platform, After::Retry, ""),
        ErrorKind::Fenced { .. } => (Blame::Cutover, After::Fenced, ""),
        ErrorKind::Tripped { .. } => (Blame::Candidate, After::Final, ""),
        ErrorKind::Storage => {
            (Blame::Platform, After::Retry, "make the proxy's folder writable; traffic goes on as it is")
        }
        ErrorKind::Address | ErrorKind::Locked | ErrorKind::Invalid => {
            (Blame::Configuration, After::Final, "")
        }
        // The text of another version says what to do.
        ErrorKind::Protocol | ErrorKind::Newer => (Blame::Configuration, After::Final, ""),
        ErrorKind::Denied => {
            (Blame::Configuration, After::Final, "the proxy belongs to another user; work as that user")
        }
        _ => (Blame::Cutover, After::Retry, ""),
    };
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Fault::new(blame, after, format!("{doing}: {error}{cause}")).hint(hint)
}
