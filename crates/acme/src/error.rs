//! Why a certificate could not be had: in words, with what to do, and when to ask again.

use std::time::Duration;

use instant_acme::{Error, Problem};
use thiserror::Error as ThisError;

/// What went wrong, where, why, and what to do.
#[derive(Debug, ThisError)]
#[error("{text}")]
pub struct AcmeError {
    text: String,
    again_after: Option<Duration>,
}

impl AcmeError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), again_after: None }
    }

    /// Returns how long the authority wants to be left alone, if it said so.
    pub fn again_after(&self) -> Option<Duration> {
        self.again_after
    }

    pub(crate) fn with_again_after(mut self, pause: Option<Duration>) -> Self {
        self.again_after = pause;
        self
    }

    /// Says what came of talking to the authority; `doing` continues "failed to …".
    pub(crate) fn of(doing: &str, error: &Error) -> Self {
        Self::new(match error {
            Error::Api(problem) => format!("{doing}: {}", said(problem)),
            Error::Json(why) => {
                format!(
                    "{doing}: the answer is none of an ACME server ({why}); see whether `directory` is right"
                )
            }
            other => format!("{doing}: {}", with_causes(other)),
        })
    }
}

/// Returns the last part of a problem's type, such as `rateLimited`.
pub(crate) fn kind(problem: &Problem) -> &str {
    problem.r#type.as_deref().and_then(|name| name.rsplit(':').next()).unwrap_or("unknown")
}

/// Says what a problem is, and what can be done about it.
pub(crate) fn said(problem: &Problem) -> String {
    let detail = problem.detail.clone().or_else(|| problem.subproblems.first()?.detail.clone());
    let detail = detail.unwrap_or_else(|| "the authority gives no details".to_owned());
    let detail = detail.trim_end_matches(['.', ';']);
    let what = kind(problem);
    // RFC 8555, 6.7.
    let to_do = match what {
        "dns" => "let the name lead to this machine (its A and AAAA records)",
        "connection" | "tls" => "let port 80 of the name reach a plain listener of this proxy",
        "unauthorized" | "incorrectResponse" => {
            "something else answers for the name on port 80: let it reach a plain listener of this proxy"
        }
        "caa" => "let the CAA records of the name allow this authority",
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            "this authority does not sign for the name: give `cert` and `key`, or another `directory`"
        }
        "rateLimited" => {
            "it is asked again when it wants to be; until then give `cert` and `key`, if you have them"
        }
        "invalidContact" | "unsupportedContact" => "give another `email`, or none",
        "externalAccountRequired" => {
            "this authority wants to know you first, which is not supported: choose another"
        }
        "userActionRequired" => "agree to its terms anew, as the address in the text says",
        _ => "it is asked again",
    };
    format!("the authority says {what}: {detail}; {to_do}")
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
