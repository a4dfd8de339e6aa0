//! What instances said: the engine keeps it while the container is there, then its end lies in the state folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::LogsOptionsBuilder;
use cutover_core::{Fault, InstanceId, RevisionId, ServiceName};
use cutover_keep::disk;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout_at};

use crate::container::Container;
use crate::containers::Containers;

/// So long a log is read.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many lines of a container that is removed are kept.
const KEPT_LINES: usize = 2000;
/// The logs of so many removed containers of a revision are kept.
const KEPT_LOGS: usize = 8;

/// Returns the last lines of a container, oldest first; of one that is gone none. An engine that stalls gives what it gave
/// until then: no stop waits for a log.
pub(crate) async fn tail(containers: &Containers, id: &str, lines: usize) -> Result<Vec<String>, Fault> {
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&lines.to_string()).build();
    let mut stream = containers.engine.docker().await?.logs(id, Some(options));
    let mut text = Vec::new();
    let end = Instant::now() + PATIENCE;
    while let Ok(Some(piece)) = timeout_at(end, stream.next()).await {
        match piece {
            Ok(piece) => text.extend_from_slice(piece.as_ref()),
            Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => break,
            Err(error) => {
                return Err(containers.engine.fault(format!("read the log of container {id}"), &error));
            }
        }
    }
    Ok(last(&text, lines))
}

fn last(text: &[u8], lines: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let all: Vec<&str> = text.lines().collect();
    all.iter().skip(all.len().saturating_sub(lines)).map(ToString::to_string).collect()
}

/// The logs of containers that were removed.
pub(crate) struct Kept {
    pub(crate) folder: PathBuf,
}

impl Kept {
    /// Keeps the end of a container's log, before the container is removed. It only explains: a log that cannot be kept
    /// keeps nothing from being stopped.
    pub(crate) async fn keep(&self, containers: &Containers, container: &Container) {
        let labels = &container.labels;
        let folder = self.of(&labels.service, &labels.place.revision);
        let kept = match tail(containers, &container.id, KEPT_LINES).await {
            Ok(lines) if lines.is_empty() => return,
            Ok(lines) => write(&folder, &labels.instance, &lines),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = kept {
            tracing::warn!(instance = %labels.instance, why = %fault, "log of a removed container not kept");
        }
    }

    /// Returns the last lines of each removed instance of the revision, but not of these.
    pub(crate) fn read(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        but: &BTreeSet<InstanceId>,
        lines: usize,
    ) -> Result<Vec<(InstanceId, Vec<String>)>, Fault> {
        let folder = self.of(service, revision);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let names = disk::names(&folder)?;
        let ids = names.iter().filter_map(|name| name.strip_suffix(".log").map(InstanceId::new));
        let read = |id: InstanceId| {
            let text = fs::read(folder.join(format!("{id}.log"))).unwrap_or_default();
            (id, last(&text, lines))
        };
        Ok(ids.filter(|id| !but.contains(id)).map(read).collect())
    }

    /// Forgets the logs of a revision.
    pub(crate) fn forget(&self, service: &ServiceName, revision: &RevisionId) {
        disk::remove_tree(&self.of(service, revision));
    }

    fn of(&self, service: &ServiceName, revision: &RevisionId) -> PathBuf {
        self.folder.join(service.as_str()).join(revision.as_str())
    }
}

fn write(folder: &Path, instance: &InstanceId, lines: &[String]) -> Result<(), Fault> {
    disk::ensure_folder(folder, 0o700)?;
    let path = folder.join(format!("{instance}.log"));
    let text = format!("{}\n", lines.join("\n"));
    disk::write(&path, text.as_bytes()).map_err(|error| disk::fault("write", &path, &error))?;
    let age = |name: &String| fs::metadata(folder.join(name)).and_then(|data| data.modified()).ok();
    let mut names = disk::names(folder)?;
    names.sort_by_key(age);
    for name in names.iter().rev().skip(KEPT_LOGS) {
        let path = folder.join(name);
        disk::remove(&path).map_err(|error| disk::fault("remove", &path, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_logs_are_kept_with_their_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept { folder: folder.path().into() };
        let (service, revision) = ("shop".into(), RevisionId::new("d-1"));
        for number in 0..10 {
            let lines = ["begins".to_string(), format!("ends {number}")];
            write(&kept.of(&service, &revision), &InstanceId::new(format!("i{number}")), &lines).unwrap();
        }
        let read = kept.read(&service, &revision, &BTreeSet::from([InstanceId::new("i9")]), 1).unwrap();
        assert_eq!(read.len(), 7);
        assert_eq!(read.last().unwrap(), &(InstanceId::new("i8"), vec!["ends 8".to_string()]));
        kept.forget(&service, &revision);
        assert_eq!(kept.read(&service, &revision, &BTreeSet::new(), 1).unwrap(), []);
    }
}
