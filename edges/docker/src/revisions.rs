//! The revision store: what each revision is made from, and which image it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cutover_core::{Fault, ProcessName, RevisionId, ServiceName, Span, file};
use cutover_keep::{Values, Vault, disk};
use cutover_ports::RevisionSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::content;
use crate::image::Pinned;
use crate::names::{self, Place};

const SCHEMA: u32 = 1;

/// Keeps what is known of revisions; their images are the engine's.
pub(crate) struct Revisions {
    folder: PathBuf,
    vault: Vault,
    /// What builds may read. Kept until the image is there: the server may die before.
    builds: Vault,
}

/// What is stored of a revision that was named; it holds no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Named {
    schema: u32,
    revision: RevisionId,
    pub(crate) service: ServiceName,
    /// What its image was resolved to when it was named.
    pub(crate) pinned: Pinned,
}

/// What is stored of a revision that was built; it holds no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    schema: u32,
    revision: RevisionId,
    pub(crate) service: ServiceName,
    pub(crate) platform: file::DockerPlatform,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) processes: BTreeMap<ProcessName, file::Process>,
    pub(crate) base: PathBuf,
    /// The id of its image in the engine.
    pub(crate) image: String,
    /// The port that its routed instances listen on inside.
    pub(crate) port: u16,
}

impl Manifest {
    /// Returns the words that replace the image's CMD; none where it stays.
    pub(crate) fn command(&self, beside: Option<&ProcessName>) -> Result<&[String], Fault> {
        let Some(name) = beside else { return Ok(&self.platform.command) };
        let process = self.processes.get(name);
        process.map(|process| process.command.as_slice()).ok_or_else(|| {
            Fault::configuration(format!("start process {name}: {} has no such process", self.revision))
        })
    }

    /// Tells whether the container of this place is published on a loopback port.
    pub(crate) fn publishes(&self, place: &Place) -> bool {
        place.beside.is_none() && self.platform.reach == file::DockerReach::Published
    }

    /// Returns how long a process may take to stop.
    pub(crate) fn stop_grace(&self, beside: Option<&ProcessName>) -> Span {
        let own = beside.and_then(|name| self.processes.get(name)).and_then(|process| process.stop_grace);
        own.unwrap_or(self.platform.stop_grace)
    }
}

/// Returns the docker section of the spec; a fault where it is another platform's.
pub(crate) fn docker(spec: &RevisionSpec) -> Result<&file::DockerPlatform, Fault> {
    match &spec.platform {
        file::Platform::Docker(docker) => Ok(docker),
        other @ file::Platform::Local(_) => {
            let what = format!("run {} as containers: its platform is {}", spec.service, other.name());
            Err(Fault::cutover(what).fatal())
        }
    }
}

impl Revisions {
    /// Opens the store below `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Revisions, Fault> {
        let revisions = folder.join("revisions");
        disk::ensure_folder(&revisions, 0o700)?;
        let vault = Vault::open(folder.join("secrets"))?;
        let builds = Vault::open(folder.join("build-secrets"))?;
        Ok(Revisions { folder: revisions, vault, builds })
    }

    /// Names the revision with this image by its content, notes it, and seals its secrets.
    pub(crate) fn name(&self, spec: &RevisionSpec, pinned: &Pinned) -> Result<RevisionId, Fault> {
        let docker = docker(spec)?;
        let content = content::of(spec, docker, pinned)?;
        let values = self.vault.choose(&docker.secrets, &spec.secrets, &content)?;
        let secrets = self.vault.hash(&values)?;
        let revision = names::revision(&disk::hex(&Sha256::digest(format!("{content}{secrets}"))));
        self.vault.seal(&spec.service, &revision, &content, &values)?;
        if self.manifest(&revision)?.is_none() {
            // They do not name the revision: a wrong one is corrected by another deploy.
            self.builds.reseal(&spec.service, &revision, &content, &build_secrets(docker, spec))?;
        }
        disk::ensure_folder(&self.home(&revision), 0o700)?;
        let named = Named {
            schema: SCHEMA,
            revision: revision.clone(),
            service: spec.service.clone(),
            pinned: pinned.clone(),
        };
        disk::write_json(&self.home(&revision).join("named.json"), &named)?;
        Ok(revision)
    }

    /// Returns what the image of a named revision was resolved to, and what its build may read; none where it was not named, or
    /// was thrown away since.
    pub(crate) fn named(&self, revision: &RevisionId) -> Result<Option<(Named, Values)>, Fault> {
        let named = disk::read_json::<Named>(&self.home(revision).join("named.json"))?;
        let named = named.filter(|named| named.schema == SCHEMA && named.revision == *revision);
        let Some(named) = named else { return Ok(None) };
        Ok(Some((named, self.builds.values(revision)?.unwrap_or_default())))
    }

    /// Stores the revision, whose image the engine has.
    pub(crate) fn store(
        &self,
        spec: &RevisionSpec,
        revision: &RevisionId,
        image: String,
        port: u16,
    ) -> Result<(), Fault> {
        let manifest = Manifest {
            schema: SCHEMA,
            revision: revision.clone(),
            service: spec.service.clone(),
            platform: docker(spec)?.clone(),
            processes: spec.processes.clone(),
            base: spec.base.clone(),
            image,
            port,
        };
        disk::write_json(&self.home(revision).join("manifest.json"), &manifest)?;
        self.builds.forget(revision)
    }

    /// Returns the manifest of a stored revision; a fault where it is not stored.
    pub(crate) fn stored(&self, revision: &RevisionId) -> Result<Manifest, Fault> {
        self.manifest(revision)?.ok_or_else(|| {
            Fault::cutover(format!("find revision {revision}: it is not in the store"))
                .fatal()
                .hint("Build it first.")
        })
    }

    /// Returns the manifest, none where the revision is not stored.
    pub(crate) fn manifest(&self, revision: &RevisionId) -> Result<Option<Manifest>, Fault> {
        let path = self.home(revision).join("manifest.json");
        let Some(manifest) = disk::read_json::<Manifest>(&path)? else { return Ok(None) };
        if manifest.schema == SCHEMA && manifest.revision == *revision {
            return Ok(Some(manifest));
        }
        let what = format!(
            "read revision {revision}: its manifest has schema {} and names {}",
            manifest.schema, manifest.revision
        );
        Err(Fault::cutover(what).fatal().hint("It was written by another version of cutover."))
    }

    /// Returns the sealed values that instances of the revision get.
    pub(crate) fn secrets(&self, revision: &RevisionId, manifest: &Manifest) -> Result<Values, Fault> {
        let values = self.vault.values(revision)?.unwrap_or_default();
        cutover_keep::complete(&manifest.platform.secrets, &values)?;
        Ok(values)
    }

    /// Returns the service's revisions, also those that were named and never built. One that cannot be read belongs to
    /// nobody: it stays for a person to look at.
    pub(crate) fn list(&self, service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        let mine = |revision: &RevisionId| {
            let path = self.home(revision).join("named.json");
            disk::read_json::<Named>(&path)
                .is_ok_and(|named| named.is_some_and(|named| named.service == *service))
        };
        Ok(disk::names(&self.folder)?.into_iter().map(RevisionId::new).filter(mine).collect())
    }

    /// Returns all revisions of this state folder, of whichever service, those included that cannot be read.
    pub(crate) fn all(&self) -> Result<BTreeSet<RevisionId>, Fault> {
        Ok(disk::names(&self.folder)?.into_iter().map(RevisionId::new).collect())
    }

    /// Forgets a revision with its secrets.
    pub(crate) fn forget(&self, revision: &RevisionId) -> Result<(), Fault> {
        self.vault.forget(revision)?;
        self.builds.forget(revision)?;
        let home = self.home(revision);
        match fs::remove_dir_all(&home) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(disk::fault("remove", &home, &error))
            }
            _ => Ok(()),
        }
    }

    fn home(&self, revision: &RevisionId) -> PathBuf {
        self.folder.join(revision.as_str())
    }
}

fn build_secrets(docker: &file::DockerPlatform, spec: &RevisionSpec) -> Values {
    let names = docker.build.iter().flat_map(|build| &build.secrets);
    names.filter_map(|name| Some((name.clone(), spec.secrets.get(name)?.clone()))).collect()
}
