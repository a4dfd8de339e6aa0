//! What a change is refused for: a driver whose time is over, a stale generation, a candidate that was tripped.

use crate::error::{ErrorKind, ProxyError};
use crate::store::Stored;
use crate::table::ServiceTable;

pub(crate) fn unknown(name: &str) -> ProxyError {
    ProxyError::new(ErrorKind::UnknownService, format!("the proxy has no service \"{name}\""))
}

pub(super) fn tripped(name: &str, release: &str) -> ProxyError {
    let text = format!(
        "service \"{name}\": the candidate of release \"{release}\" was tripped and gets no more traffic than it \
         has; start a new release"
    );
    ProxyError::new(ErrorKind::Tripped { release: release.to_owned() }, text)
}

pub(super) fn fenced(name: &str, epoch: u64, actual: u64) -> ProxyError {
    let text = format!(
        "service \"{name}\": epoch {epoch} is over, the proxy has seen {actual}; another driver took over"
    );
    ProxyError::new(ErrorKind::Fenced { actual }, text)
}

/// Refuses a driver whose time is over; returns the generation that the service has.
pub(crate) fn fence_epoch(stored: &Stored, name: &str, epoch: u64) -> Result<u64, ProxyError> {
    let known = stored.table.services.get(name).map(|service| (service.generation, service.epoch));
    let (generation, seen) = known.or_else(|| stored.removed.get(name).copied()).unwrap_or((0, 0));
    if epoch < seen {
        return Err(fenced(name, epoch, seen));
    }
    Ok(generation)
}

pub(super) fn fence(stored: &Stored, name: &str, expected: u64, epoch: u64) -> Result<(), ProxyError> {
    let generation = fence_epoch(stored, name, epoch)?;
    if generation != expected {
        let text = format!(
            "service \"{name}\" has generation {generation}, not {expected}; observe and decide anew"
        );
        return Err(ProxyError::new(ErrorKind::Conflict { actual: generation }, text));
    }
    Ok(())
}

/// Refuses more weight than it has for what was tripped: the way back lowers it. A new release with the same revision
/// begins anew.
pub(super) fn refuse_tripped(
    stored: &mut Stored,
    name: &str,
    before: Option<&ServiceTable>,
    table: &ServiceTable,
) -> Result<(), ProxyError> {
    let weight = |table: &ServiceTable, revision: &str| table.track(revision).map_or(0, |t| t.weight_bp);
    let Some(trips) = stored.trips.get_mut(name) else { return Ok(()) };
    if let Some(candidate) = &table.candidate
        && !trips.contains_key(&candidate.release)
    {
        trips.retain(|_, revision| *revision != candidate.revision);
    }
    for (release, revision) in trips.iter() {
        if weight(table, revision) > before.map_or(0, |before| weight(before, revision)) {
            return Err(tripped(name, release));
        }
    }
    // Once a revision is gone from the table its trips are history.
    trips.retain(|_, revision| table.track(revision).is_some());
    Ok(())
}
