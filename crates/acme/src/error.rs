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

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        said(&serde_json::from_str(text).expect("a problem"))
    }

    #[test]
    fn a_problem_says_what_to_do() {
        let dns =
            r#"{"type": "urn:ietf:params:acme:error:dns", "detail": "NXDOMAIN looking up A for a.test."}"#;
        assert_eq!(
            problem(dns),
            "the authority says dns: NXDOMAIN looking up A for a.test; let the name lead to this machine (its A and \
             AAAA records)"
        );
        for (kind, to_do) in [
            ("connection", "port 80"),
            ("unauthorized", "something else answers"),
            ("caa", "CAA records"),
            ("rejectedIdentifier", "does not sign for the name"),
            ("rateLimited", "when it wants to be"),
            ("externalAccountRequired", "choose another"),
            ("serverInternal", "it is asked again"),
        ] {
            let said = problem(&format!(r#"{{"type": "urn:ietf:params:acme:error:{kind}", "detail": "x"}}"#));
            assert!(said.contains(to_do) && said.contains(kind), "{said}");
        }
    }

    #[test]
    fn a_problem_without_words_is_told_all_the_same() {
        assert_eq!(
            problem("{}"),
            "the authority says unknown: the authority gives no details; it is asked again"
        );
        let nested =
            r#"{"type": "urn:ietf:params:acme:error:compound", "subproblems": [{"detail": "no such name"}]}"#;
        assert!(problem(nested).contains("no such name"));
    }
}
