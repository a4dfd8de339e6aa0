//! What an image is, before anything is done with it.

use std::path::Path;

use cutover_core::Fault;
use cutover_core::file::{DockerPlatform, DockerPull};
use futures_util::FutureExt;
use hyper::Method;
use serde::{Deserialize, Serialize};

use super::Images;
use super::build::Recipe;
use super::reference::{Reference, is_digest, short};
use super::refusal::{Refusal, Trouble};
use super::wire::Ask;

/// An image that no tag can change any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// What was written, such as `registry.example/shop:1.4`; for people.
    pub(crate) written: String,
    pub(crate) source: Source,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// A repository of a registry, at this digest.
    Registry {
        /// Its name with the digest, such as `registry.example/shop@sha256:…`.
        at: String,
    },
    /// The engine alone: it was built or loaded there and is in no registry.
    Engine {
        /// Its id.
        id: String,
    },
    /// A build of these files with these settings.
    Build {
        /// The hash of all that goes into it.
        content: String,
        /// What to build.
        recipe: Recipe,
    },
}

impl Pinned {
    /// Returns what it is named by: the digest, the id or the hash of what it is built from, as `sha256:…`. Two images of
    /// the same name are the same; a revision is named by it.
    pub fn content(&self) -> &str {
        match &self.source {
            Source::Registry { at } => at.split_once('@').map_or(at, |(_, digest)| digest),
            Source::Engine { id } => id,
            Source::Build { content, .. } => content,
        }
    }

    /// Returns a line for people, such as `registry.example/shop:1.4 (sha256:0123456789ab)`.
    pub fn line(&self) -> String {
        format!("{} ({})", self.written, short(self.content()))
    }
}

/// What the engine knows about an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspected {
    pub(crate) id: String,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) repo_digests: Vec<String>,
    #[serde(default)]
    pub(crate) config: Option<ImageConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ImageConfig {
    #[serde(default)]
    pub(crate) labels: Option<std::collections::BTreeMap<String, String>>,
}

/// The engine writes `null` where a list is empty.
fn or_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Distribution {
    descriptor: Descriptor,
    #[serde(default)]
    platforms: Vec<Architecture>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

#[derive(Deserialize)]
struct Architecture {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EngineVersion {
    os: String,
    arch: String,
}

impl Images {
    /// Resolves what the release file names to what it is now. Changes nothing anywhere; `base` is the folder of the
    /// release file.
    ///
    /// An `image:` becomes the digest that its tag has in the engine or, as `pull:` says, in the registry. A `build:` is
    /// named by the hash of its context, Dockerfile, target, args and the names of its secrets.
    ///
    /// # Errors
    /// There is no such image, or its registry does not answer or does not let us in; the context cannot be read.
    pub async fn pin(&self, platform: &DockerPlatform, base: &Path) -> Result<Pinned, Fault> {
        match (&platform.image, &platform.build) {
            (Some(image), _) => self.pin_image(image, platform.pull).await,
            (None, Some(build)) => {
                let recipe = Recipe::new(build, base);
                let content = recipe.name().await?;
                Ok(Pinned { written: recipe.to_string(), source: Source::Build { content, recipe } })
            }
            (None, None) => Err(Fault::configuration("find the image: neither `image` nor `build` is given")
                .hint("Add platform.docker.image or platform.docker.build.")),
        }
    }

    async fn pin_image(&self, written: &str, pull: DockerPull) -> Result<Pinned, Fault> {
        if is_digest(written) {
            let id = self
                .inspect(written)
                .await
                .map_err(|refusal| refusal.fault(&format!("find {written}"), written))?;
            return Ok(Pinned { written: written.into(), source: Source::Engine { id: id.id } });
        }
        let reference = Reference::parse(written)?;
        let pinned = |source| Ok(Pinned { written: reference.to_string(), source });
        if let Some(digest) = &reference.digest {
            return pinned(Source::Registry { at: reference.at(digest) });
        }
        if pull != DockerPull::Always {
            let doing = format!("look for {reference} in the engine");
            match self.inspect(&reference.to_string()).await {
                Ok(found) => return pinned(found.source(&reference)),
                Err(refusal) if refusal.trouble() == Trouble::NoImage && pull == DockerPull::Missing => {}
                Err(refusal) => return Err(refusal.fault(&doing, &reference.registry)),
            }
        }
        let digest = self.ask_registry(&reference).await?;
        pinned(Source::Registry { at: reference.at(&digest) })
    }

    /// Asks the registry, through the engine, what the tag is now.
    async fn ask_registry(&self, reference: &Reference) -> Result<String, Fault> {
        let doing = format!("look for {reference} in the registry");
        let registry = &reference.registry;
        let login = self.login_header(registry).await?;
        let (login, path) = (login.as_deref(), &*format!("/distribution/{reference}/json"));
        let attempt = || {
            async move {
                let mut ask = Ask::new(Method::GET, path);
                if let Some(login) = login {
                    ask = ask.header("x-registry-auth", login);
                }
                self.wire.json(ask).await.map_err(unknown_here)
            }
            .boxed()
        };
        let found: Distribution = self.retry.run(&doing, registry, &super::Watch::nobody(), attempt).await?;
        self.fits(&found.platforms, reference).await?;
        Ok(found.descriptor.digest)
    }

    /// Tells apart early what would fail late: an image for other machines alone.
    async fn fits(&self, platforms: &[Architecture], reference: &Reference) -> Result<(), Fault> {
        let named: Vec<_> = platforms.iter().filter(|platform| !platform.architecture.is_empty()).collect();
        if named.is_empty() {
            return Ok(());
        }
        let doing = format!("look for {reference} in the registry");
        let engine: EngineVersion = self
            .wire
            .json(Ask::new(Method::GET, "/version"))
            .await
            .map_err(|refusal| refusal.fault("ask the engine for its version", "the engine"))?;
        if named.iter().any(|there| there.os == engine.os && there.architecture == engine.arch) {
            return Ok(());
        }
        let there: Vec<String> =
            named.iter().map(|there| format!("{}/{}", there.os, there.architecture)).collect();
        let said =
            format!("no matching manifest for {}/{}; there is {}", engine.os, engine.arch, there.join(", "));
        Err(Refusal::said(said).fault(&doing, &reference.registry))
    }

    /// Returns what the engine knows about an image by name, digest or id.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Inspected, Refusal> {
        self.wire.json(Ask::new(Method::GET, &format!("/images/{name}/json"))).await
    }
}

/// A 404 of the registry: the engine says it in words that name the engine's own images, or in none.
fn unknown_here(refusal: Refusal) -> Refusal {
    match (refusal.trouble(), refusal.status) {
        (Trouble::NoImage, Some(404)) => Refusal::said(format!("manifest unknown: {}", refusal.text)),
        _ => refusal,
    }
}

impl Inspected {
    /// Returns where it comes from: the repository that was asked for if it has a digest there, else the engine.
    fn source(&self, reference: &Reference) -> Source {
        let prefix = reference.at("");
        match self.repo_digests.iter().find(|at| at.starts_with(&prefix)) {
            Some(at) => Source::Registry { at: at.clone() },
            None => Source::Engine { id: self.id.clone() },
        }
    }
}
