//! Images: resolved to what they are, and obtained.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use cutover_core::file::DockerPlatform;
use cutover_core::{Fault, RevisionId, ServiceName};
use cutover_ports::Secret;
use serde::{Deserialize, Serialize};

use crate::Engine;

pub type BuildSecrets = BTreeMap<String, Secret>;
#[derive(Clone, Debug, Default)]
pub struct Credentials;
impl Credentials {
    pub fn of_environment() -> Self {
        Credentials
    }
}
#[derive(Clone, Debug, Default)]
pub struct Retry;
#[derive(Clone)]
pub struct Watch;
impl Watch {
    pub fn new(_: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Watch
    }
}
pub struct Obtained {
    pub id: String,
    pub line: String,
}
pub struct Pushed {
    pub digest: String,
    pub line: String,
}
pub struct Pruned;
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    written: String,
    id: String,
}
impl Pinned {
    pub fn content(&self) -> &str {
        &self.id
    }
    pub fn line(&self) -> String {
        self.written.clone()
    }
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(String);
impl Tag {
    pub fn new(service: &ServiceName, revision: &RevisionId) -> Tag {
        Tag(format!("cutover/{service}:{revision}"))
    }
}
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
pub struct Images(Engine);
impl Images {
    pub fn of(engine: &Engine, _: Credentials, _: Retry) -> Result<Images, Fault> {
        Ok(Images(engine.clone()))
    }
    pub async fn pin(&self, platform: &DockerPlatform, _: &Path) -> Result<Pinned, Fault> {
        let name = platform.image.clone().unwrap_or_default();
        let found = self.0.docker().await?.inspect_image(&name).await;
        let found = found.map_err(|error| self.0.fault(format!("find image {name}"), &error))?;
        Ok(Pinned { written: name, id: found.id.unwrap_or_default() })
    }
    pub async fn obtain(
        &self,
        pinned: &Pinned,
        tag: &Tag,
        _: &BuildSecrets,
        _: &Path,
        _: &Watch,
    ) -> Result<Obtained, Fault> {
        let docker = self.0.docker().await?;
        let (repo, word) = tag.0.split_once(':').unwrap_or_default();
        let options = bollard::query_parameters::TagImageOptionsBuilder::new().repo(repo).tag(word).build();
        let tagged = docker.tag_image(&pinned.id, Some(options)).await;
        tagged.map_err(|error| self.0.fault(format!("tag {}", pinned.id), &error))?;
        Ok(Obtained { id: pinned.id.clone(), line: format!("{} is in the engine", pinned.written) })
    }
    pub async fn push(&self, _: &str, to: &str, _: &Watch) -> Result<Pushed, Fault> {
        Err(Fault::configuration(format!("push {to}")))
    }
    pub async fn prune(&self, _: &ServiceName, _: &BTreeSet<RevisionId>) -> Result<Pruned, Fault> {
        Ok(Pruned)
    }
}
