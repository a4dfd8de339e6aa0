//! The choice of a target within its track.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use crate::cells::TargetCell;
use crate::room::Slot;
use crate::trust::second_is_better;

/// What the choice came to.
pub(crate) enum Picked {
    /// A target, and its place there where places are limited.
    Target(Rc<TargetCell>, Option<Slot>),
    /// Those that could be asked have as many requests as they may.
    Full,
    /// Nobody is left to be asked.
    Nobody,
}

/// Picks the better of two random targets; one that is down or failed a moment ago only when there is no other, and a
/// full one never: who may not be asked is waited for.
pub(crate) fn pick(targets: &[(Rc<TargetCell>, bool)], tried: &[SocketAddr], now: Instant) -> Picked {
    let open = || targets.iter().filter(|(cell, ready)| *ready && !tried.contains(&cell.address));
    let trusted = open().any(|(cell, _)| !cell.is_suspect(now));
    let usable = || open().map(|(cell, _)| cell).filter(|cell| !trusted || !cell.is_suspect(now));
    loop {
        let free = || usable().filter(|cell| !cell.is_full());
        let picked = match free().count() {
            0 if usable().next().is_some() => return Picked::Full,
            0 => return Picked::Nobody,
            1 => free().next(),
            count => {
                let one = fastrand::usize(0..count);
                let other = (one + fastrand::usize(1..count)) % count;
                better(free().nth(one), free().nth(other), now)
            }
        };
        // A target that another thread has just filled is not free in the next round.
        match picked.map(|cell| (cell, cell.take_slot())) {
            Some((cell, Ok(slot))) => return Picked::Target(cell.clone(), slot),
            Some((_, Err(()))) | None => {}
        }
    }
}

fn better<'cells>(
    one: Option<&'cells Rc<TargetCell>>,
    other: Option<&'cells Rc<TargetCell>>,
    now: Instant,
) -> Option<&'cells Rc<TargetCell>> {
    let (Some(one), Some(other)) = (one, other) else { return one.or(other) };
    let balance = one.revision.balance.get();
    let known = |cell: &'cells Rc<TargetCell>| (&cell.trust, cell.in_flight.get());
    Some(if second_is_better(known(one), known(other), now, balance) { other } else { one })
}
