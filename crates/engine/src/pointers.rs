//! Stable, previous and rolled back: derived from the service's releases, never stored.

use cutover_core::machine::BackReason;
use cutover_core::{Ending, ReleaseId, ReleaseKind, RevisionId};

use crate::store::ReleaseRow;

/// The pointers of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointers {
    /// The revision that takes traffic, and the release that made it stable.
    pub(crate) stable: Option<(RevisionId, ReleaseId)>,
    /// The revision to return to, and the release that once made it stable.
    pub(crate) previous: Option<(RevisionId, ReleaseId)>,
    /// The revision that was taken back last.
    pub(crate) rolled_back: Option<RevisionId>,
    /// Why there is no predecessor.
    pub(crate) why_no_previous: String,
    /// How long the service took to become ready the last time.
    pub(crate) ready_ms: Option<u64>,
    /// The highest number in use.
    pub(crate) number: u64,
}

impl Pointers {
    /// Derives the pointers from all releases of a service, newest first.
    pub(crate) fn of(newest_first: &[ReleaseRow]) -> Pointers {
        let mut pointers =
            Pointers { why_no_previous: "nothing was released yet".into(), ..Pointers::default() };
        for (index, row) in newest_first.iter().enumerate().rev() {
            pointers.number = row.number;
            if row.gone {
                pointers.why_no_previous = "it was destroyed since".into();
                continue;
            }
            pointers.ready_ms = row.ready_ms.or(pointers.ready_ms);
            if row.decided_ms.is_some() {
                let before = &newest_first[index + 1..];
                pointers.decided(row, before);
            } else if let Some(Ending::RolledBack { why }) = &row.ending
                // What failed with stable was taken out for everybody's sake: it may come again unchanged.
                && !matches!(why, BackReason::Tripped { shared: true, .. })
            {
                pointers.rolled_back = Some(row.candidate.clone());
            }
        }
        pointers
    }

    fn decided(&mut self, row: &ReleaseRow, before: &[ReleaseRow]) {
        let releaser = |revision: &RevisionId| {
            before
                .iter()
                .find(|row| row.decided_ms.is_some() && !row.gone && &row.candidate == revision)
                .map(|row| row.id.clone())
        };
        self.stable = Some((row.candidate.clone(), row.id.clone()));
        match row.kind {
            ReleaseKind::Deploy => {
                self.rolled_back = None;
                self.previous =
                    row.replaced.clone().and_then(|old| releaser(&old).map(|release| (old, release)));
                self.why_no_previous = format!("{} was the first release", row.id);
            }
            // Rolling back twice would only bring the revision again that was just left.
            ReleaseKind::Rollback => {
                self.rolled_back = row.replaced.clone();
                self.previous = None;
                self.why_no_previous = format!(
                    "{} returned to {} already, and what was before is not kept",
                    row.id, row.candidate
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::{Fault, ServiceName};

    use super::*;

    fn row(number: u64, kind: ReleaseKind, from: Option<&str>, to: &str, released: bool) -> ReleaseRow {
        let back = Ending::RolledBack { why: BackReason::Fault { fault: Fault::candidate("it broke") } };
        let service = ServiceName::new("shop");
        ReleaseRow {
            id: ReleaseId::numbered(&service, number),
            service,
            number,
            kind,
            candidate: to.into(),
            replaced: from.map(RevisionId::from),
            by: "ann".into(),
            opened_ms: number,
            decided_ms: released.then_some(number),
            ended_ms: Some(number),
            ending: Some(if released { Ending::Released } else { back }),
            ready_ms: Some(number * 100),
            gone: false,
        }
    }

    fn names(rows: &[ReleaseRow]) -> (String, String, String) {
        let newest_first: Vec<ReleaseRow> = rows.iter().rev().cloned().collect();
        let pointers = Pointers::of(&newest_first);
        let name = |pointer: Option<(RevisionId, ReleaseId)>| {
            pointer.map_or("-".into(), |(r, id)| format!("{r} by {id}"))
        };
        let rolled_back = pointers.rolled_back.map_or("-".into(), |revision| revision.to_string());
        (name(pointers.stable), name(pointers.previous), rolled_back)
    }

    #[test]
    fn pointers_follow_the_releases() {
        use ReleaseKind::{Deploy, Rollback};
        let mut rows = vec![row(1, Deploy, None, "r-a", true)];
        let said = |a: &str, b: &str, c: &str| (a.to_string(), b.to_string(), c.to_string());
        assert_eq!(names(&rows), said("r-a by shop-1", "-", "-"));
        rows.push(row(2, Deploy, Some("r-a"), "r-b", true));
        assert_eq!(names(&rows), said("r-b by shop-2", "r-a by shop-1", "-"));
        rows.push(row(3, Deploy, Some("r-b"), "r-c", false));
        assert_eq!(names(&rows), said("r-b by shop-2", "r-a by shop-1", "r-c"));
        rows.push(row(4, Rollback, Some("r-b"), "r-a", true));
        assert_eq!(names(&rows), said("r-a by shop-4", "-", "r-b"));
        rows.push(row(5, Deploy, Some("r-a"), "r-d", true));
        assert_eq!(names(&rows), said("r-d by shop-5", "r-a by shop-4", "-"));
    }
}
