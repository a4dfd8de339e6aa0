//! The revision store: immutable revisions named by their content, each complete or not there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover_core::{After, Blame, Cores, Fault, ProcessName, RevisionId, ServiceName, Size, Span, file};
use cutover_keep::{Values, Vault};
use cutover_ports::RevisionSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk;
use crate::tree::{self, Tree};

const SCHEMA: u32 = 1;

/// Keeps revisions under one folder.
pub(crate) struct Store {
    folder: PathBuf,
    vault: Vault,
    reserve: u64,
}

/// What is stored beside the copy; holds no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    schema: u32,
    revision: RevisionId,
    service: ServiceName,
    pub(crate) platform: file::LocalPlatform,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) processes: BTreeMap<ProcessName, file::Process>,
    base: PathBuf,
    /// The hash of all but the secrets.
    content: String,
}

impl Manifest {
    /// Returns the command of a process; of the routed one where none is named.
    pub(crate) fn command(&self, beside: Option<&ProcessName>) -> Result<&[String], Fault> {
        let Some(name) = beside else { return Ok(&self.platform.command) };
        let process = self.processes.get(name);
        process.map(|process| process.command.as_slice()).ok_or_else(|| {
            Fault::configuration(format!("start process {name}: {} has no such process", self.revision))
        })
    }

    /// Returns how long a process may take to stop.
    pub(crate) fn stop_grace(&self, beside: Option<&ProcessName>) -> Span {
        let own = beside.and_then(|name| self.processes.get(name)).and_then(|process| process.stop_grace);
        own.unwrap_or(self.platform.stop_grace)
    }

    /// Returns the longest that any of its processes may take to stop.
    pub(crate) fn longest_grace(&self) -> Span {
        let graces = self.processes.keys().map(|name| self.stop_grace(Some(name)));
        graces.chain([self.platform.stop_grace]).max().unwrap_or_default()
    }
}

/// Everything that makes a revision another one, save the secrets' values. Replicas and log size do not. Limits do: they
/// decide whether an instance lives, so a new one is checked beside the old one, and taken back with it. Left out where
/// they are not set: revisions of before keep their names.
#[derive(Serialize)]
struct Content<'a> {
    kind: &'static str,
    service: &'a ServiceName,
    command: &'a [String],
    env: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    settings: &'a str,
    secrets: Vec<&'a String>,
    user: &'a Option<String>,
    stop_signal: file::StopSignal,
    stop_grace_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<u32>,
    artifact: Option<String>,
    base: Option<&'a Path>,
    program: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    processes: BTreeMap<&'a ProcessName, ProcessContent<'a>>,
}

/// What makes a process beside the routed one another one. Whether revisions of it may overlap is the release's matter.
#[derive(Serialize)]
struct ProcessContent<'a> {
    command: &'a [String],
    stop_grace_ms: u64,
    program: Option<String>,
}

/// Returns the local section of the spec; a fault where it is another platform's.
pub(crate) fn local(spec: &RevisionSpec) -> Result<&file::LocalPlatform, Fault> {
    match &spec.platform {
        file::Platform::Local(local) => Ok(local),
        other @ file::Platform::Docker(_) => {
            let (service, name) = (&spec.service, other.name());
            Err(Fault::configuration(format!("run {service}: this build of cutover has no platform {name}"))
                .hint(format!("Build it with its feature `{name}`, which a release build has.")))
        }
    }
}

impl Store {
    /// Opens the store in `folder` and clears away half copies that a crash left.
    pub(crate) fn open(folder: PathBuf, vault: Vault, reserve: u64) -> Result<Store, Fault> {
        // Not 0700: instances that run as another user must reach their copy.
        disk::ensure_folder(&folder, 0o711)?;
        let entries = fs::read_dir(&folder).map_err(|error| disk::fault("read folder", &folder, &error))?;
        let left: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."))
            .map(|entry| entry.path())
            .collect();
        left.iter().for_each(|path| disk::remove_tree(path));
        Ok(Store { folder, vault, reserve })
    }

    /// Names the revision by its content and seals its secrets.
    pub(crate) fn identify(&self, spec: &RevisionSpec) -> Result<RevisionId, Fault> {
        let artifact = self.steady_hash(spec)?;
        let content = content(spec, artifact)?;
        let values = self.values(spec, &content)?;
        let revision = self.name(&content, &values)?;
        self.vault.seal(&spec.service, &revision, &content, &values)?;
        Ok(revision)
    }

    /// Stores the revision complete, or not at all. Returns a line for people.
    pub(crate) fn build(&self, spec: &RevisionSpec, revision: &RevisionId) -> Result<String, Fault> {
        if let Some(stored) = self.manifest(revision)? {
            let asked = local(spec)?;
            let mut platform = stored.platform.clone();
            (platform.replicas, platform.log_size) = (asked.replicas, asked.log_size);
            let processes = spec.processes.clone();
            if platform != stored.platform || processes != stored.processes {
                disk::write_json(&self.manifest_path(revision), &Manifest { platform, processes, ..stored })?;
            }
            return Ok(format!("{revision} is stored already"));
        }
        let draft = self.folder.join(format!(
            ".copy-{revision}-{}",
            disk::random_hex(4).map_err(|error| disk::fault("name a copy in", &self.folder, &error))?
        ));
        let built = self.build_in(&draft, spec, revision);
        if built.is_err() {
            disk::remove_tree(&draft);
        }
        built
    }

    /// Returns what the stored revision was made from, without secrets: they are sealed.
    pub(crate) fn spec(&self, revision: &RevisionId) -> Result<RevisionSpec, Fault> {
        let manifest = self.stored(revision)?;
        Ok(RevisionSpec {
            service: manifest.service,
            platform: file::Platform::Local(manifest.platform),
            processes: manifest.processes,
            settings: String::new(),
            base: manifest.base,
            secrets: Values::new(),
        })
    }

    /// Returns the service's revisions, also those of which there is nothing but sealed values: they were named, and
    /// never built. One that cannot be read belongs to nobody: it stays for a person to look at.
    pub(crate) fn list(&self, service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        let revisions = disk::names(&self.folder)?.into_iter().map(RevisionId::new);
        let mine = |revision: &RevisionId| {
            self.manifest(revision)
                .is_ok_and(|found| found.is_some_and(|manifest| manifest.service == *service))
        };
        let mut all: Vec<RevisionId> = revisions.filter(mine).collect();
        let named = self.vault.of(service)?.into_iter();
        all.extend(named.filter(|revision| !self.folder.join(revision.as_str()).exists()));
        all.sort();
        Ok(all)
    }

    /// Takes a revision of the service out of the store, with its secrets. Returns the folder that is left to remove:
    /// should that be cut short, the next open does it.
    pub(crate) fn take_out(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
    ) -> Result<Option<PathBuf>, Fault> {
        let home = self.folder.join(revision.as_str());
        if !home.exists() && self.vault.of(service)?.contains(revision) {
            self.vault.forget(revision)?;
            return Ok(None);
        }
        if self.manifest(revision)?.is_none_or(|manifest| manifest.service != *service) {
            return Ok(None);
        }
        let random = disk::random_hex(4).map_err(|error| disk::fault("rename", &home, &error))?;
        let gone = self.folder.join(format!(".gone-{revision}-{random}"));
        fs::rename(&home, &gone)
            .and_then(|()| disk::sync_folder(&self.folder))
            .map_err(|error| disk::fault("rename", &home, &error))?;
        self.vault.forget(revision)?;
        Ok(Some(gone))
    }

    /// Returns the manifest of a stored revision; a fault where it is not stored.
    pub(crate) fn stored(&self, revision: &RevisionId) -> Result<Manifest, Fault> {
        self.manifest(revision)?.ok_or_else(|| {
            Fault::cutover(format!("find revision {revision}: it is not in the store"))
                .fatal()
                .hint("Build it first.")
        })
    }

    /// Returns the manifest, `None` where the revision is not stored.
    pub(crate) fn manifest(&self, revision: &RevisionId) -> Result<Option<Manifest>, Fault> {
        let Some(manifest) = disk::read_json::<Manifest>(&self.manifest_path(revision))? else {
            return Ok(None);
        };
        if manifest.schema == SCHEMA && manifest.revision == *revision {
            return Ok(Some(manifest));
        }
        let what = format!(
            "read revision {revision}: its manifest has schema {} and names {}",
            manifest.schema, manifest.revision
        );
        Err(Fault::cutover(what).fatal().hint("It was written by another version of cutover."))
    }

    /// Returns the sealed values of the revision.
    pub(crate) fn secrets(&self, revision: &RevisionId, manifest: &Manifest) -> Result<Values, Fault> {
        let values = self.vault.values(revision)?.unwrap_or_default();
        cutover_keep::complete(&manifest.platform.secrets, &values)?;
        Ok(values)
    }

    /// Returns where the revision's command runs.
    pub(crate) fn workdir(&self, revision: &RevisionId, manifest: &Manifest) -> PathBuf {
        match manifest.platform.artifact {
            Some(_) => self.folder.join(revision.as_str()).join("files"),
            None => manifest.base.clone(),
        }
    }

    /// Returns the folder that copies come to lie in.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads the spec's artifact, `None` where it names none.
    pub(crate) fn artifact(&self, spec: &RevisionSpec) -> Result<Option<Tree>, Fault> {
        let Some(artifact) = &local(spec)?.artifact else { return Ok(None) };
        let path = spec.base.join(artifact);
        if let (Ok(path), Ok(store)) = (path.canonicalize(), self.folder.canonicalize())
            && store.starts_with(&path)
        {
            let what = format!("copy artifact {}: cutover's state folder lies inside it", path.display());
            return Err(Fault::configuration(what)
                .hint("Name a smaller folder, or keep the state elsewhere: --state DIR."));
        }
        Tree::read(&path).map(Some)
    }

    /// Says whether `bytes` more fit on the disk beside the reserve.
    pub(crate) fn room_for(&self, bytes: u64) -> Result<(), Fault> {
        let free = disk::free_bytes(&self.folder)?;
        if free >= bytes.saturating_add(self.reserve) {
            return Ok(());
        }
        Err(Fault::platform(format!(
            "find disk space in {}: {} needed and {} kept free, {} available",
            self.folder.display(),
            disk::human(bytes),
            disk::human(self.reserve),
            disk::human(free)
        ))
        .hint("Free some space, or keep the state elsewhere: --state DIR."))
    }

    /// Hashes the spec's artifact; one that is just being written is looked at again a moment later.
    fn steady_hash(&self, spec: &RevisionSpec) -> Result<Option<String>, Fault> {
        let mut tries = 0;
        loop {
            let hash = self.artifact(spec)?.map(|tree| tree.hash()).transpose();
            match hash {
                Err(fault) if fault.after == After::Retry && tries < 3 => tries += 1,
                answer => return answer,
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn build_in(&self, draft: &Path, spec: &RevisionSpec, revision: &RevisionId) -> Result<String, Fault> {
        let tree = self.artifact(spec)?;
        self.room_for(tree.as_ref().map_or(0, Tree::bytes))?;
        disk::ensure_folder(draft, 0o711)?;
        let files = draft.join("files");
        disk::ensure_folder(&files, 0o755)?;
        let artifact = tree.as_ref().map(|tree| tree.copy(&files)).transpose()?;
        let content = content(spec, artifact)?;
        let values = match self.vault.values(revision)? {
            Some(values) => values,
            None => self.values(spec, &content)?,
        };
        let copied = self.name(&content, &values)?;
        if copied != *revision {
            let what = format!(
                "store {revision}: what lies in {} changed since it was named, it is {copied} now",
                spec.base.display()
            );
            return Err(Fault::new(Blame::Configuration, After::Retry, what)
                .hint("Wait until nothing writes to the artifact, then deploy again."));
        }
        self.vault.seal(&spec.service, revision, &content, &values)?;
        let manifest = Manifest {
            schema: SCHEMA,
            revision: revision.clone(),
            service: spec.service.clone(),
            platform: local(spec)?.clone(),
            processes: spec.processes.clone(),
            base: spec.base.clone(),
            content,
        };
        disk::write_json(&draft.join("manifest.json"), &manifest)?;
        let home = self.folder.join(revision.as_str());
        // A folder without a manifest is damage, not a revision: it makes room.
        if home.exists() && self.manifest(revision)?.is_none() {
            disk::remove_tree(&home);
        }
        fs::rename(draft, &home)
            .and_then(|()| disk::sync_folder(&self.folder))
            .map_err(|error| disk::fault("put into place", &home, &error))?;
        Ok(match tree {
            Some(tree) => format!("stored {revision}, {}", disk::human(tree.bytes())),
            None => format!("stored {revision}; its files stay in {}", spec.base.display()),
        })
    }

    fn values(&self, spec: &RevisionSpec, content: &str) -> Result<Values, Fault> {
        self.vault.choose(&local(spec)?.secrets, &spec.secrets, content)
    }

    fn name(&self, content: &str, values: &Values) -> Result<RevisionId, Fault> {
        let secrets = self.vault.hash(values)?;
        let digest = Sha256::digest(format!("{content}{secrets}"));
        Ok(RevisionId::new(format!("r-{}", &disk::hex(&digest)[..12])))
    }

    fn manifest_path(&self, revision: &RevisionId) -> PathBuf {
        self.folder.join(revision.as_str()).join("manifest.json")
    }
}

fn content(spec: &RevisionSpec, artifact: Option<String>) -> Result<String, Fault> {
    let local = local(spec)?;
    if !spec.base.is_absolute() {
        // The next server may start in another folder.
        return Err(Fault::cutover(format!(
            "name a revision of {}: the folder is not absolute",
            spec.base.display()
        ))
        .fatal());
    }
    let own = |command: &[String]| {
        let own = command.first().filter(|_| artifact.is_none()).filter(|program| program.contains('/'));
        let program = own.map(|program| spec.base.join(program)).filter(|path| path.is_file());
        program.map(|path| tree::hash_file(&path)).transpose()
    };
    let mut processes = BTreeMap::new();
    for (name, process) in &spec.processes {
        let stop_grace_ms = process.stop_grace.unwrap_or(local.stop_grace).ms();
        let (command, program) = (process.command.as_slice(), own(&process.command)?);
        processes.insert(name, ProcessContent { command, stop_grace_ms, program });
    }
    let mut secrets: Vec<&String> = local.secrets.iter().collect();
    secrets.sort();
    let content = Content {
        kind: "cutover local revision 1",
        service: &spec.service,
        command: &local.command,
        env: &local.env,
        settings: &spec.settings,
        secrets,
        user: &local.user,
        stop_signal: local.stop_signal,
        stop_grace_ms: local.stop_grace.ms(),
        memory: local.memory,
        cpu: local.cpu,
        pids: local.pids,
        base: artifact.is_none().then_some(spec.base.as_path()),
        program: own(&local.command)?,
        processes,
        artifact,
    };
    let bytes = serde_json::to_vec(&content)
        .map_err(|error| Fault::cutover(format!("encode the revision's content: {error}")).fatal())?;
    Ok(disk::hex(&Sha256::digest(bytes)))
}
