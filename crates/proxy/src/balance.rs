//! The choice of a target within its track.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use crate::cells::TargetCell;
use crate::trust::second_is_better;

/// Picks the better of two random targets; one that is down or failed a moment ago only when there is no other.
pub(crate) fn pick(
    targets: &[(Rc<TargetCell>, bool)],
    tried: &[SocketAddr],
    now: Instant,
) -> Option<Rc<TargetCell>> {
    let open = || targets.iter().filter(|(cell, ready)| *ready && !tried.contains(&cell.address));
    let trusted = open().filter(|(cell, _)| !cell.is_suspect(now)).count();
    let usable = |cell: &TargetCell| trusted == 0 || !cell.is_suspect(now);
    let count = if trusted == 0 { open().count() } else { trusted };
    let nth = |n: usize| open().filter(|(cell, _)| usable(cell)).nth(n).map(|(cell, _)| cell);
    match count {
        0 => None,
        1 => nth(0).cloned(),
        _ => {
            let one = fastrand::usize(0..count);
            let other = (one + fastrand::usize(1..count)) % count;
            let (one, other) = (nth(one)?, nth(other)?);
            let known = |cell: &TargetCell| cell.in_flight.get();
            let balance = one.revision.balance.get();
            let second =
                second_is_better((&one.trust, known(one)), (&other.trust, known(other)), now, balance);
            Some(if second { other } else { one }.clone())
        }
    }
}
