//! What is remembered of services and instances across the death of the server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cutover_core::{Fault, Fence, InstanceId, ProcessCounts, ProcessName, RevisionId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::disk;

const SCHEMA: u32 = 1;

/// What was asked for a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    schema: u32,
    /// The highest fence seen.
    pub(crate) fence: Fence,
    /// How many routed instances of each revision shall be kept running.
    pub(crate) desired: BTreeMap<RevisionId, u32>,
    /// How many of each process beside them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) processes: BTreeMap<RevisionId, ProcessCounts>,
}

impl ServiceRecord {
    /// Tells whether instances of this kind are wanted.
    pub(crate) fn wants(&self, revision: &RevisionId, beside: Option<&ProcessName>) -> bool {
        match beside {
            None => self.desired.contains_key(revision),
            Some(name) => self.processes.get(revision).is_some_and(|run| run.contains_key(name)),
        }
    }

    /// Returns all that is wanted: revision, process, how many.
    pub(crate) fn wishes(&self) -> Vec<(RevisionId, Option<ProcessName>, u32)> {
        let routed = self.desired.iter().map(|(revision, count)| (revision.clone(), None, *count));
        let beside = self.processes.iter().flat_map(|(revision, run)| {
            run.iter().map(|(name, count)| (revision.clone(), Some(name.clone()), *count))
        });
        routed.chain(beside).collect()
    }
}

impl Default for ServiceRecord {
    fn default() -> Self {
        ServiceRecord {
            schema: SCHEMA,
            fence: Fence::default(),
            desired: BTreeMap::new(),
            processes: BTreeMap::new(),
        }
    }
}

/// One instance. Without a process it is an intent: written before the process starts, so that none is
/// orphaned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    pub(crate) schema: u32,
    pub(crate) id: InstanceId,
    pub(crate) service: ServiceName,
    pub(crate) revision: RevisionId,
    /// The process beside the routed one that it runs; none of a routed instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) beside: Option<ProcessName>,
    /// Its number among the instances of its revision and process, from 1.
    pub(crate) slot: u32,
    /// Where it is reached; routed instances alone are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    pub(crate) restarts: u32,
    /// Set before the stop signal, so that a crash finishes the stop.
    pub(crate) stopping: bool,
    pub(crate) process: Option<ProcessRecord>,
}

/// A process that no other can be taken for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRecord {
    pub(crate) pid: u32,
    /// Its start in clock ticks since boot, field 22 of /proc/PID/stat.
    pub(crate) start: u64,
    /// The boot that both are counted in.
    pub(crate) boot: String,
}

/// Where the records of all services lie.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    folder: PathBuf,
}

impl Records {
    /// Opens the folder of all services.
    pub(crate) fn open(folder: PathBuf) -> Result<Records, Fault> {
        disk::ensure_folder(&folder, 0o700)?;
        Ok(Records { folder })
    }

    /// Returns the services that were ever asked for.
    pub(crate) fn services(&self) -> Result<Vec<ServiceName>, Fault> {
        Ok(disk::names(&self.folder)?.into_iter().map(ServiceName::new).collect())
    }

    /// Reads what was asked for the service, and its instances.
    pub(crate) fn read(&self, service: &ServiceName) -> Result<(ServiceRecord, Vec<InstanceRecord>), Fault> {
        let folder = self.instances(service);
        let mut instances = Vec::new();
        for name in disk::names(&folder)?.iter().filter(|name| name.ends_with(".json")) {
            instances.extend(disk::read_json::<InstanceRecord>(&folder.join(name))?);
        }
        instances.sort_by_key(|record| record.slot);
        let path = self.service_path(service);
        match disk::read_json::<ServiceRecord>(&path)? {
            Some(record) if record.schema == SCHEMA => Ok((record, instances)),
            Some(record) => {
                Err(Fault::cutover(format!("read {}: schema {}", path.display(), record.schema)).fatal())
            }
            None if instances.is_empty() => Ok((ServiceRecord::default(), instances)),
            // Taking the file for empty would stop instances that take traffic.
            None => Err(Fault::cutover(format!(
                "read {}: it is missing, but the service has instances",
                path.display()
            ))
            .fatal()),
        }
    }

    /// Makes the service's folders.
    pub(crate) fn prepare(&self, service: &ServiceName) -> Result<(), Fault> {
        let name = service.as_str();
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Fault::configuration(format!("use \"{name}\" as the name of a service")));
        }
        disk::ensure_folder(&self.folder.join(name), 0o700)?;
        disk::ensure_folder(&self.instances(service), 0o700)
    }

    /// Writes what was asked for the service.
    pub(crate) fn write_service(&self, service: &ServiceName, record: &ServiceRecord) -> Result<(), Fault> {
        disk::write_json(&self.service_path(service), record)
    }

    /// Writes one instance.
    pub(crate) fn write(&self, record: &InstanceRecord) -> Result<(), Fault> {
        disk::write_json(&self.path(record), record)
    }

    /// Forgets one instance.
    pub(crate) fn remove(&self, record: &InstanceRecord) -> Result<(), Fault> {
        let path = self.path(record);
        disk::remove(&path).map_err(|error| disk::fault("remove", &path, &error))
    }

    /// Returns the folder of the logs of a revision's instances.
    pub(crate) fn logs(&self, service: &ServiceName, revision: &RevisionId) -> PathBuf {
        self.folder.join(service.as_str()).join("logs").join(revision.as_str())
    }

    /// Returns where the instance's output goes.
    pub(crate) fn log(&self, record: &InstanceRecord) -> PathBuf {
        self.logs(&record.service, &record.revision).join(format!("{}.log", record.id))
    }

    fn service_path(&self, service: &ServiceName) -> PathBuf {
        self.folder.join(service.as_str()).join("service.json")
    }

    fn instances(&self, service: &ServiceName) -> PathBuf {
        self.folder.join(service.as_str()).join("instances")
    }

    fn path(&self, record: &InstanceRecord) -> PathBuf {
        self.instances(&record.service).join(Path::new(&format!("{}.json", record.id)))
    }
}

impl InstanceRecord {
    /// Makes the intent to start an instance.
    pub(crate) fn intend(
        service: &ServiceName,
        revision: &RevisionId,
        beside: Option<&ProcessName>,
        slot: u32,
        port: Option<u16>,
    ) -> Result<Self, Fault> {
        let random =
            disk::random_hex(4).map_err(|error| Fault::platform(format!("name an instance: {error}")))?;
        let short = revision.as_str().trim_start_matches("r-").get(..6).unwrap_or(revision.as_str());
        // Logs and messages show the id: it says which process it is.
        let process = beside.map(|name| format!("{name}-")).unwrap_or_default();
        Ok(InstanceRecord {
            schema: SCHEMA,
            id: InstanceId::new(format!("{short}-{process}{slot}-{random}")),
            service: service.clone(),
            revision: revision.clone(),
            beside: beside.cloned(),
            slot,
            port,
            restarts: 0,
            stopping: false,
            process: None,
        })
    }
}
