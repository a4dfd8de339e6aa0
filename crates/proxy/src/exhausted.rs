//! Out of descriptors or memory: what is under way comes first, new clients wait in the kernel's queue.
//!
//! It is the machine's trouble and the proxy's, never the target's: nobody is suspected or judged for it.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// The machine-readable reason.
pub const EXHAUSTED: &str = "proxy-exhausted";
/// For so long after the last time nobody new is accepted and nothing is kept idle.
const PRESSED_FOR: Duration = Duration::from_millis(100);
/// How long a request waits for a descriptor: others give theirs back when they end.
pub(crate) const WAIT: Duration = Duration::from_secs(10);
/// The pause between two tries.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

thread_local! {
    static UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Tells whether an error is of this kind, and remembers it for this thread.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    let kinds = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    let exhausted =
        error.raw_os_error().is_some_and(|code| kinds.iter().any(|kind| kind.raw_os_error() == code));
    if exhausted {
        UNTIL.set(Some(Instant::now() + PRESSED_FOR));
    }
    exhausted
}

/// Tells whether this thread ran out of something a moment ago.
pub(crate) fn is_pressed() -> bool {
    UNTIL.get().is_some_and(|until| Instant::now() < until)
}
