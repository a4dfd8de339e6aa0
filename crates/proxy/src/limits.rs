//! Limits of a service, all of them off unless the table says so.

use serde::{Deserialize, Serialize};

use crate::traffic::Waiting;

/// What a service takes at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most requests in flight to one target, WebSockets among them; over all threads.
    #[serde(default)]
    pub per_target: Option<u32>,
    /// Who waits while all targets of a track are full; none: nobody does, the answer is 503 at once.
    #[serde(default)]
    pub queue: Option<Waiting>,
}

impl Limits {
    /// Says what makes them impossible.
    pub(crate) fn mistake(&self) -> Option<String> {
        if self.per_target == Some(0) {
            return Some("a limit of 0 requests per target lets nothing through".into());
        }
        self.queue.as_ref().and_then(Waiting::mistake)
    }
}
