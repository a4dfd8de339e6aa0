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

use std::fmt;

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

/// The images of one engine.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) wire: Wire,
    pub(crate) credentials: Credentials,
    pub(crate) retry: Retry,
}

impl Images {
    /// Names the images of this engine. Connects to nothing yet.
    ///
    /// # Errors
    /// It is not an engine of this machine.
    pub fn of(engine: &Engine, credentials: Credentials, retry: Retry) -> Result<Images, Fault> {
        Ok(Images { wire: Wire::to(&engine.to_string())?, credentials, retry })
    }

    /// Returns what stands for the login in a question to the engine.
    pub(crate) async fn login_header(&self, registry: &str) -> Result<Option<String>, Fault> {
        Ok(self.credentials.login(registry).await?.map(|login| login.header(registry)))
    }
}

/// The name of a revision's image in the engine. It keeps the image from being cleaned up as one without a name, and tells
/// ours from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    service: ServiceName,
    revision: RevisionId,
}

/// The first word of the repositories that name the images of revisions.
const OURS: &str = "cutover";
/// The same for what was pulled for them: with the last revision it goes, where an image that was there before stays.
const PULLED: &str = "cutover-pulled";

impl Tag {
    /// Names the image of a service's revision.
    pub fn new(service: &ServiceName, revision: &RevisionId) -> Tag {
        Tag { service: service.clone(), revision: revision.clone() }
    }

    /// Names an image that was pulled for the service.
    fn pulled(&self, id: &str) -> String {
        let hex = id.trim_start_matches("sha256:");
        format!("{PULLED}/{}:{}", self.service, hex.get(..24).unwrap_or(hex))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{OURS}/{}:{}", self.service, self.revision)
    }
}
