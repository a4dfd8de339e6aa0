//! Limits of a service, all of them off unless the table says so.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::clients::PerClient;
use crate::traffic::Waiting;
use crate::upload::Pace;

/// What a service takes at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most requests in flight to one target, WebSockets among them; over all threads.
    #[serde(default)]
    pub per_target: Option<u32>,
    /// Who waits while all targets of a track are full; none: nobody does, the answer is 503 at once.
    #[serde(default)]
    pub queue: Option<Waiting>,
    /// Most bytes of a request body.
    #[serde(default)]
    pub body: Option<u64>,
    /// Most of what a request may have in its head.
    #[serde(default)]
    pub headers: Option<HeaderLimit>,
    /// What one client may have.
    #[serde(default)]
    pub per_client: Option<PerClient>,
    /// The least that a client must send of a body while it is waited for.
    #[serde(default)]
    pub upload: Option<Pace>,
    /// The least that a client must take of what is sent to it, on all listeners of the service.
    #[serde(default)]
    pub download: Option<Pace>,
    /// Most WebSockets and event streams that a drain closes in a second; what that leaves for the end of the window is
    /// closed then. None: they are spread over its last half.
    #[serde(default)]
    pub closes: Option<u32>,
}

/// Returns the length that a request says its body has.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Most of what a request may have in its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderLimit {
    /// Fields.
    pub count: u32,
    /// Bytes of their names and values.
    pub bytes: u64,
}

impl HeaderLimit {
    /// Tells whether a head has more.
    pub(crate) fn is_exceeded(self, headers: &HeaderMap) -> bool {
        let bytes = |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().len() + value.len()) as u64;
        headers.len() as u64 > u64::from(self.count) || headers.iter().map(bytes).sum::<u64>() > self.bytes
    }
}

impl Limits {
    /// Says what makes them impossible.
    pub(crate) fn mistake(&self) -> Option<String> {
        if self.closes == Some(0) {
            return Some("a drain that may close 0 connections a second never ends".into());
        }
        if self.per_target == Some(0) {
            return Some("a limit of 0 requests per target lets nothing through".into());
        }
        let nothing = |pace: &Pace| pace.bytes == 0 || pace.within_ms == 0;
        if self.upload.iter().chain(&self.download).any(nothing) {
            return Some("the least of an upload or download needs bytes and a time".into());
        }
        let queue = self.queue.as_ref().and_then(Waiting::mistake);
        queue.or_else(|| self.per_client.as_ref().and_then(PerClient::mistake))
    }
}
