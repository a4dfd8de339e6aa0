//! Sees to it that the engine has an image.

use std::collections::BTreeMap;

use cutover_core::{Fault, RevisionId, ServiceName};
use cutover_ports::Secret;
use futures_util::FutureExt;
use hyper::Method;

use super::layers::{Layers, Said};
use super::pin::{Inspected, Pinned, Source};
use super::reference::{Reference, short};
use super::refusal::{Refusal, Trouble};
use super::wire::Ask;
use super::{Images, Watch};

/// The values of a build's secrets, by name.
pub type BuildSecrets = BTreeMap<String, Secret>;

/// An image that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obtained {
    /// Its id in the engine, `sha256:…`: containers are made from it.
    pub id: String,
    /// A line for people.
    pub line: String,
}

impl Images {
    /// Ensures that the engine has the image, and that it is tagged as the revision's. Pulls it with a line per layer, or
    /// builds it with its output line by line.
    ///
    /// # Cancel safety
    /// Dropping it breaks the pull or the build off; what is complete is kept by the engine, and the next call goes on there.
    ///
    /// # Errors
    /// The registry, the network or the disk does not let it; a step of the Dockerfile fails, with its last lines; a file of
    /// the context changed since it was pinned.
    pub async fn obtain(
        &self,
        pinned: &Pinned,
        (service, revision): (&ServiceName, &RevisionId),
        secrets: &BuildSecrets,
        watch: &Watch,
    ) -> Result<Obtained, Fault> {
        let name = self.name(service, revision);
        match &pinned.source {
            Source::Registry { at } => self.obtain_pulled(pinned, at, service, &name, watch).await,
            Source::Engine { id } => {
                let found = self.inspect(id).await.map_err(|refusal| gone(&refusal, pinned))?;
                self.tag(&found.id, &name).await?;
                Ok(Obtained { id: found.id, line: format!("{} is in the engine", pinned.line()) })
            }
            Source::Build { content, recipe } => {
                self.obtain_built(recipe, content, &name, secrets, watch).await
            }
        }
    }

    async fn obtain_pulled(
        &self,
        pinned: &Pinned,
        at: &str,
        service: &ServiceName,
        name: &str,
        watch: &Watch,
    ) -> Result<Obtained, Fault> {
        if let Some(found) = self.has(at).await? {
            self.tag(&found.id, name).await?;
            return Ok(Obtained { id: found.id, line: format!("{} is in the engine", pinned.line()) });
        }
        let layers = self.pull(pinned, at, watch).await?;
        let doing = format!("find {} after it was pulled", pinned.line());
        let found = self.inspect(at).await.map_err(|refusal| refusal.fault(&doing, "the registry"))?;
        // Nothing else tells that it came for a revision, and may go with the last one.
        self.tag(&found.id, &self.mark(service, &found.id)).await?;
        self.tag(&found.id, name).await?;
        Ok(Obtained { id: found.id, line: format!("pulled {}: {}", pinned.line(), layers.summary()) })
    }

    async fn pull(&self, pinned: &Pinned, at: &str, watch: &Watch) -> Result<Layers, Fault> {
        let reference = Reference::parse(at)?;
        let login = self.login_header(&reference.registry).await?;
        let login = login.as_deref();
        let doing = format!("pull {}", pinned.line());
        let attempt = || {
            async move {
                let mut ask = Ask::new(Method::POST, "/images/create").query("fromImage", at);
                if let Some(login) = login {
                    ask = ask.header("x-registry-auth", login);
                }
                self.told(ask, watch, |_| {}).await
            }
            .boxed()
        };
        self.retry.run(&doing, &reference.registry, watch, attempt).await
    }

    /// Asks for something, hands on what is said of its layers until it is done, and lets `each` look at it.
    pub(crate) async fn told(
        &self,
        ask: Ask<'_>,
        watch: &Watch,
        mut each: impl FnMut(&Said),
    ) -> Result<Layers, Refusal> {
        let mut layers = Layers::default();
        let mut lines = self.wire.lines(ask).await?;
        while let Some(said) = lines.next::<Said>().await? {
            if let Some(refusal) = said.refusal() {
                return Err(refusal);
            }
            each(&said);
            layers.hear(&said, watch);
        }
        Ok(layers)
    }

    /// Returns the image if the engine has it.
    pub(crate) async fn has(&self, name: &str) -> Result<Option<Inspected>, Fault> {
        match self.inspect(name).await {
            Ok(found) => Ok(Some(found)),
            Err(refusal) if refusal.trouble() == Trouble::NoImage => Ok(None),
            Err(refusal) => Err(refusal.fault(&format!("look for {name} in the engine"), "the engine")),
        }
    }

    /// Gives an image a name; one that it has already is kept.
    pub(crate) async fn tag(&self, id: &str, name: &str) -> Result<(), Fault> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let path = format!("/images/{id}/tag");
        let ask = Ask::new(Method::POST, &path).query("repo", repository).query("tag", tag);
        let doing = || format!("name the image {} {name}", short(id));
        self.wire.done(ask).await.map_err(|refusal| refusal.fault(&doing(), "the engine"))
    }
}

fn gone(refusal: &Refusal, pinned: &Pinned) -> Fault {
    let fault = refusal.fault(&format!("find {}", pinned.line()), "the engine");
    match refusal.trouble() {
        Trouble::NoImage => fault
            .hint("It was in the engine alone and was removed there. Build or load it again, and deploy."),
        _ => fault,
    }
}
