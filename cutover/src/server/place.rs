//! Where cutover's own processes live: outside of what started them, so that its end is not theirs.

use std::time::{Duration, Instant};

use cutover_local::{leave, shared_with, tidy};
use rustix::process::Pid;

use crate::exit;
use crate::failure::Failure;
use crate::state::StateDir;

/// Says where; for whoever keeps cutover in a unit or container of its own.
pub(crate) const VARIABLE: &str = "CUTOVER_CGROUP";

/// A process that has let go of everything ends within this.
const ENDING: Duration = Duration::from_secs(2);

/// What may be done with control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Server, proxy and instances get groups of their own.
    Own,
    /// The instances do; this process stays where it was started.
    Keep,
    /// Nothing is made or moved.
    None,
}

/// What came of it.
pub(crate) struct Place {
    /// Instances may get groups of their own.
    pub(crate) cgroups: bool,
    /// The group that is shared with whoever started this process, and how it ends is theirs to say.
    pub(crate) shared: Option<String>,
}

/// Moves this process into a control group of its own, where it may and is not told otherwise.
pub(crate) fn settle(state: &StateDir, who: &str) -> Result<Place, Failure> {
    let wish = wish(std::env::var(VARIABLE).ok().as_deref())?;
    if wish == Wish::Own {
        leave(state.path(), who);
    }
    let shared = if wish == Wish::Keep { None } else { shared_with() };
    Ok(Place { cgroups: wish != Wish::None, shared })
}

/// Removes the cgroups of a process that was told to stop, and all others that are empty: it holds its own until it has
/// ended, which is a moment after it let go of its locks and sockets.
pub(crate) async fn tidy_after(state: &StateDir, pid: Pid) {
    let begun = Instant::now();
    while runs(pid) && begun.elapsed() < ENDING {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tidy(state.path());
}

/// Tells whether the process runs. One that ended and that nobody asked for yet holds no group any more.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Says what sharing the group means, to whoever started the server.
pub(crate) fn warning(group: &str) -> String {
    format!(
        "it shares the cgroup {group} with what started it: whatever ends that ends the service too; to let it start with \
         the machine instead: cutover server install"
    )
}

fn wish(given: Option<&str>) -> Result<Wish, Failure> {
    match given {
        None | Some("" | "own") => Ok(Wish::Own),
        Some("keep") => Ok(Wish::Keep),
        Some("none") => Ok(Wish::None),
        Some(other) => Err(Failure::new(exit::USAGE, format!("{VARIABLE}={other} is not known")).hint(
            "own (the default), keep (this process stays where it was started) or none (no cgroup is made)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_one_of_three() {
        for (given, wished) in [(None, Wish::Own), (Some("keep"), Wish::Keep), (Some("none"), Wish::None)] {
            assert_eq!(wish(given).unwrap(), wished);
        }
        assert!(wish(Some("off")).unwrap_err().hint.contains("keep"));
    }
}
