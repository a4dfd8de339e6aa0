//! Images: resolved to what they are, pulled or built, pushed, and removed when nobody needs them.
//!
//! [`Images::pin`] says what an image is and changes nothing; [`Images::obtain`] sees to it that the engine has exactly that.
//! Both name the end state: they may be repeated, at the same time too, and broken off anywhere.

mod build;
mod credentials;
mod layers;
mod obtain;
mod pin;
mod prune;
mod push;
mod reference;
mod refusal;
mod retry;
mod watch;
mod wire;

use cutover_core::{Fault, RevisionId, ServiceName};

pub use credentials::Credentials;
pub use obtain::{BuildSecrets, Obtained};
pub use pin::Pinned;
pub use prune::Pruned;
pub use push::Pushed;
pub use retry::Retry;
pub use watch::{Watch, output};

use self::wire::Wire;
use crate::Engine;

/// The images of one engine that one state folder knows of.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) wire: Wire,
    /// Tells our images from those of another state folder.
    owner: String,
    pub(crate) credentials: Credentials,
    pub(crate) retry: Retry,
}

/// The beginning of the names of revisions' images. A name keeps an image from being cleaned up as one without.
const OURS: &str = "cutover-";
/// The same for what was pulled for them: with the last revision it goes, where an image that was there before stays.
const PULLED: &str = "cutover-pulled-";
/// How much of the owner stands in a name.
const OWNER: usize = 8;

impl Images {
    /// Names the images of this engine. Connects to nothing yet. `owner` are lower-case letters and digits that no other
    /// state folder has.
    ///
    /// # Errors
    /// It is not an engine of this machine.
    pub fn of(engine: &Engine, owner: &str, credentials: Credentials, retry: Retry) -> Result<Images, Fault> {
        let owner = owner.get(..OWNER).unwrap_or(owner).to_owned();
        Ok(Images { wire: Wire::to(engine.place())?, owner, credentials, retry })
    }

    /// Returns what the image of a service's revision is called in the engine, such as `cutover-0a1b2c3d/shop:d-0123`.
    pub fn name(&self, service: &ServiceName, revision: &RevisionId) -> String {
        format!("{}:{revision}", self.repository(OURS, service))
    }

    /// Returns the mark of an image that was pulled for the service.
    fn mark(&self, service: &ServiceName, id: &str) -> String {
        let hex = id.trim_start_matches("sha256:");
        format!("{}:{}", self.repository(PULLED, service), hex.get(..24).unwrap_or(hex))
    }

    fn repository(&self, beginning: &str, service: &ServiceName) -> String {
        format!("{beginning}{}/{service}", self.owner)
    }

    /// Returns what stands for the login in a question to the engine.
    pub(crate) async fn login_header(&self, registry: &str) -> Result<Option<String>, Fault> {
        Ok(self.credentials.login(registry).await?.map(|login| login.header(registry)))
    }
}
