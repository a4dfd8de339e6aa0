//! What is remembered of services and instances across the death of the server.

use std::path::{Path, PathBuf};

use cutover_core::{Fault, InstanceId, ProcessName, RevisionId, ServiceName};
use cutover_keep::Wish;
use serde::{Deserialize, Serialize};

use crate::disk;

const SCHEMA: u32 = 1;

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
    pub(crate) fn read(&self, service: &ServiceName) -> Result<(Wish, Vec<InstanceRecord>), Fault> {
        let folder = self.instances(service);
        let mut instances = Vec::new();
        for name in disk::names(&folder)?.iter().filter(|name| name.ends_with(".json")) {
            instances.extend(disk::read_json::<InstanceRecord>(&folder.join(name))?);
        }
        instances.sort_by_key(|record| record.slot);
        let path = self.service_path(service);
        match Wish::read(&path)? {
            Some(wish) => Ok((wish, instances)),
            None if instances.is_empty() => Ok((Wish::default(), instances)),
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
    pub(crate) fn write_service(&self, service: &ServiceName, record: &Wish) -> Result<(), Fault> {
        record.write(&self.service_path(service))
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
