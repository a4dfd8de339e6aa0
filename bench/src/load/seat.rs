//! What a client with a cookie remembers, and whether it was moved back.

use hyper::Response;
use hyper::header::{HeaderValue, SET_COOKIE};

/// After so many requests it is a new client, which nobody knows.
const VISIT: u64 = 60;

/// One visit.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    cookie: Option<HeaderValue>,
    asked: u64,
    /// Who has answered since it has its cookie; each once, in this order.
    seen: Vec<String>,
}

impl Seat {
    /// Returns the cookie to send.
    pub(crate) fn cookie(&mut self) -> Option<&HeaderValue> {
        self.asked += 1;
        if self.asked > VISIT {
            *self = Self::default();
        }
        self.cookie.as_ref()
    }

    /// Learns from an answer. With one cookie a client may be moved on, and never back to who has answered it before.
    pub(crate) fn learn<T>(&mut self, response: &Response<T>, version: &str) -> Result<(), String> {
        let said = response.headers().get(SET_COOKIE).and_then(|said| said.to_str().ok());
        if let Some(pair) = said.and_then(|said| said.split(';').next()) {
            self.cookie = HeaderValue::from_str(pair).ok();
            self.seen.clear();
        }
        if self.cookie.is_none() || self.seen.last().is_some_and(|last| last == version) {
            return Ok(());
        }
        if self.seen.iter().any(|seen| seen == version) {
            return Err(format!("moved back to {version}, after {}", self.seen.join(", ")));
        }
        self.seen.push(version.to_owned());
        Ok(())
    }
}
