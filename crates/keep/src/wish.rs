//! What was asked for a service, and by whom.

use std::collections::BTreeMap;
use std::path::Path;

use cutover_core::{Fault, Fence, ProcessCounts, ProcessName, RevisionId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::disk;

const SCHEMA: u32 = 1;

/// What was asked for a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wish {
    schema: u32,
    /// The highest fence seen.
    pub fence: Fence,
    /// How many routed instances of each revision shall be kept running.
    pub desired: BTreeMap<RevisionId, u32>,
    /// How many of each process beside them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: BTreeMap<RevisionId, ProcessCounts>,
}

impl Wish {
    /// Reads what was asked; none where nothing ever was.
    pub fn read(path: &Path) -> Result<Option<Wish>, Fault> {
        match disk::read_json::<Wish>(path)? {
            Some(wish) if wish.schema != SCHEMA => {
                Err(Fault::cutover(format!("read {}: schema {}", path.display(), wish.schema)).fatal())
            }
            found => Ok(found),
        }
    }

    /// Writes it, complete or not at all.
    pub fn write(&self, path: &Path) -> Result<(), Fault> {
        disk::write_json(path, self)
    }

    /// Returns what it is once a driver with this fence has acted; refused where a newer one did.
    pub fn admit(&self, fence: Fence, service: &ServiceName) -> Result<Wish, Fault> {
        if fence < self.fence {
            let seen = self.fence;
            return Err(Fault::fenced(format!(
                "act on {service}: this driver's fence {fence} is lower than {seen}"
            )));
        }
        Ok(Wish { fence, ..self.clone() })
    }

    /// Tells whether instances of this kind are wanted.
    pub fn wants(&self, revision: &RevisionId, beside: Option<&ProcessName>) -> bool {
        match beside {
            None => self.desired.contains_key(revision),
            Some(name) => self.processes.get(revision).is_some_and(|run| run.contains_key(name)),
        }
    }

    /// Returns all that is wanted: revision, process, how many.
    pub fn wishes(&self) -> Vec<(RevisionId, Option<ProcessName>, u32)> {
        let routed = self.desired.iter().map(|(revision, count)| (revision.clone(), None, *count));
        let beside = self.processes.iter().flat_map(|(revision, run)| {
            run.iter().map(|(name, count)| (revision.clone(), Some(name.clone()), *count))
        });
        routed.chain(beside).collect()
    }
}

impl Default for Wish {
    fn default() -> Self {
        Wish { schema: SCHEMA, fence: Fence::default(), desired: BTreeMap::new(), processes: BTreeMap::new() }
    }
}
