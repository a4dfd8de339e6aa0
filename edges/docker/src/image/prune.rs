//! Removes the images of revisions that nobody needs any more.

use std::collections::BTreeSet;

use cutover_core::{Fault, RevisionId, ServiceName};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::refusal::Trouble;
use super::wire::Ask;
use super::{Images, OURS, PULLED};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The names that are gone, each a revision's.
    pub removed: Vec<String>,
    /// Images that nothing names but a container still uses: they go another time.
    pub in_use: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

impl Images {
    /// Ensures that of the service's images only those of the revisions in `keep` are there. Images that were in the engine
    /// before cutover used them, and names that others gave, stay.
    ///
    /// # Errors
    /// The engine does not answer or refuses; what was removed until then is.
    pub async fn prune(&self, service: &ServiceName, keep: &BTreeSet<RevisionId>) -> Result<Pruned, Fault> {
        let kept: BTreeSet<String> = keep.iter().map(|revision| self.name(service, revision)).collect();
        let mut pruned = Pruned::default();
        for name in self.names(OURS, service).await? {
            if kept.contains(&name) {
                continue;
            }
            match self.forget(&name).await? {
                true => pruned.removed.push(name),
                false => pruned.in_use.push(name),
            }
        }
        for mark in self.names(PULLED, service).await? {
            if !self.forget_pulled(&mark).await? {
                pruned.in_use.push(mark);
            }
        }
        Ok(pruned)
    }

    /// Returns the names of the service's images that begin so, in a fixed order.
    async fn names(&self, beginning: &str, service: &ServiceName) -> Result<Vec<String>, Fault> {
        let repository = self.repository(beginning, service);
        let filters = json!({"reference": [repository]}).to_string();
        let ask = Ask::new(Method::GET, "/images/json").query("filters", filters);
        let listed: Vec<Listed> = self
            .wire
            .json(ask)
            .await
            .map_err(|refusal| refusal.fault(&format!("list the images of {service}"), "the engine"))?;
        let prefix = format!("{repository}:");
        let names = listed.into_iter().flat_map(|image| image.repo_tags.unwrap_or_default());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(&prefix)).collect();
        names.sort();
        Ok(names)
    }

    /// Removes what was pulled for revisions that are all gone. False where a container uses it.
    async fn forget_pulled(&self, mark: &str) -> Result<bool, Fault> {
        let Some(image) = self.has(mark).await? else { return Ok(true) };
        // Those of other state folders count too.
        let is_mark = |tag: &String| tag.starts_with(PULLED);
        if image.repo_tags.iter().any(|tag| tag.starts_with(OURS) && !is_mark(tag)) {
            return Ok(true);
        }
        // The digest that it was pulled by is a name too. Whoever named it since wants to keep it.
        if image.repo_tags.iter().all(is_mark) {
            for at in image.repo_digests.iter().filter(|at| !at.starts_with("<none>")) {
                if !self.forget(at).await? {
                    return Ok(false);
                }
            }
        }
        // The mark is last: broken off before it, the next call finds the image again.
        self.forget(mark).await
    }

    /// Takes a name from an image; with its last one it goes. False where a container uses it.
    pub(crate) async fn forget(&self, name: &str) -> Result<bool, Fault> {
        let path = format!("/images/{name}");
        match self.wire.done(Ask::new(Method::DELETE, &path)).await {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.trouble() == Trouble::NoImage => Ok(true),
            Err(refusal) if refusal.trouble() == Trouble::InUse => Ok(false),
            Err(refusal) => Err(refusal.fault(&format!("remove the image {name}"), "the engine")),
        }
    }
}
