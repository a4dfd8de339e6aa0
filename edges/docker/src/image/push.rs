//! Brings an image to a registry.

use cutover_core::Fault;
use futures_util::FutureExt;
use hyper::Method;

use super::layers::Said;
use super::reference::{Reference, short};
use super::wire::Ask;
use super::{Images, Watch};

/// An image that a registry has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its digest there, `sha256:…`.
    pub digest: String,
    /// Its name with that digest, such as `registry.example/shop@sha256:…`: what another engine pulls.
    pub at: String,
    /// A line for people.
    pub line: String,
}

impl Images {
    /// Ensures that the registry has the image of this id as `to`, such as `registry.example/shop:1f3a`. A registry that is
    /// away for a while is waited for; layers that it has are not sent again. The image bears that name only meanwhile.
    ///
    /// # Cancel safety
    /// Dropping it breaks the push off; the layers that arrived whole are kept, and the next call goes on there.
    ///
    /// # Errors
    /// The registry or the network does not let it.
    pub async fn push(&self, id: &str, to: &str, watch: &Watch) -> Result<Pushed, Fault> {
        let reference = Reference::parse(to)?;
        let Some(tag) = reference.tag.clone().filter(|_| reference.digest.is_none()) else {
            return Err(Fault::configuration(format!(
                "push to {to}: a digest is what a push gives, not where it goes"
            ))
            .hint("Name the repository and a tag."));
        };
        let name = reference.to_string();
        self.tag(id, &name).await?;
        let registry = &reference.registry;
        // Without a login the engine still wants the header.
        let login = self.login_header(registry).await?.unwrap_or_else(|| "e30=".into());
        let doing = format!("push {name}");
        let path = format!("/images/{}/push", reference.repository);
        let (path, tag, login) = (path.as_str(), tag.as_str(), login.as_str());
        let attempt = || {
            async move {
                let ask = Ask::new(Method::POST, path).query("tag", tag).header("x-registry-auth", login);
                let mut digest = None;
                let layers = self.told(ask, watch, |said| digest = said.digest().or(digest.take())).await?;
                Ok((layers, digest))
            }
            .boxed()
        };
        let pushed = self.retry.run(&doing, registry, watch, attempt).await;
        let back = self.take_back(id, &name).await;
        // That a push failed says more than that its name could not be taken back.
        if pushed.is_ok() {
            back?;
        }
        let (layers, digest) = pushed?;
        let digest = digest.ok_or_else(|| {
            Fault::platform(format!("{doing}: the engine ended it without the digest"))
                .hint("Try again; look at the engine's log if it stays: journalctl -u docker.")
        })?;
        let line = format!("pushed {name} ({}): {}", short(&digest), layers.summary());
        Ok(Pushed { at: reference.at(&digest), digest, line })
    }

    /// Takes back the name that an image had for its push: with it, and the digest that came with it, the image would stay
    /// when its revision is gone.
    async fn take_back(&self, id: &str, name: &str) -> Result<(), Fault> {
        let others = self.has(id).await?.is_some_and(|image| image.repo_tags.iter().any(|tag| tag != name));
        // Without another name it would go with this one.
        if others { self.forget(name).await.map(|_| ()) } else { Ok(()) }
    }
}

impl Said {
    /// Returns the digest that the registry has the image under, if this says it.
    fn digest(&self) -> Option<String> {
        Some(self.aux.as_ref()?.get("Digest")?.as_str()?.to_owned())
    }
}
