//! What an error of the SDK means: whose fault it is, and whether the same request may succeed a little later.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_cloudwatch::config::http::HttpResponse;
use aws_sdk_cloudwatch::error::{ProvideErrorMetadata, SdkError};
use cutover_sources::AskError;

/// An error, and whether to try again.
pub(crate) struct Trouble {
    pub(crate) error: AskError,
    pub(crate) again: bool,
}

/// What AWS' services call it when they are asked too often.
const THROTTLED: [&str; 8] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "SlowDown",
];

/// Who asks is not known there, or not any more.
const UNKNOWN: [&str; 9] = [
    "UnrecognizedClientException",
    "UnrecognizedClient",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "IncompleteSignature",
    "MissingAuthenticationToken",
];

/// Who asks may not.
const DENIED: [&str; 4] = ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"];

const CREDENTIALS: &str = "give `cutover deploy` credentials as the AWS command line has them: AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
                           AWS_SECRET_ACCESS_KEY, or a role of this machine";

/// Tells what it means that `who` did not do `action`.
pub(crate) fn of<E>(who: &str, action: &str, error: &SdkError<E, HttpResponse>) -> Trouble
where
    E: Error + ProvideErrorMetadata + 'static,
{
    match error {
        SdkError::ServiceError(_) | SdkError::ResponseError(_) => {
            let status = error.raw_response().map_or(0, |response| response.status().as_u16());
            answered(who, action, status, error.code(), error.message())
        }
        _ => unanswered(who, error),
    }
}

fn answered(who: &str, action: &str, status: u16, code: Option<&str>, message: Option<&str>) -> Trouble {
    let said = match (code, message) {
        (Some(code), Some(message)) => format!("{code}: {}", one_line(message)),
        (Some(code), None) => code.to_string(),
        _ => format!("status {status}"),
    };
    let code = code.unwrap_or_default();
    let (error, again) = if THROTTLED.contains(&code) || status == 429 {
        (AskError::down(format!("{who} throttles this account ({said})")), true)
    } else if status >= 500 {
        (AskError::down(format!("{who} answers with an error of its own ({said})")), true)
    } else if DENIED.contains(&code) {
        let hint = format!("allow {action} to who asks; docs/metrics.md has the whole policy");
        (AskError::wrong(format!("{who} denies {action} ({said})"), hint), false)
    } else if UNKNOWN.contains(&code) {
        (AskError::wrong(format!("{who} does not accept the credentials ({said})"), CREDENTIALS), false)
    } else if code.is_empty() {
        // A proxy's page, say, or a server that is none of CloudWatch's.
        let hint = "look at `endpoint` and AWS_ENDPOINT_URL";
        let what = format!("{who} answers with what CloudWatch does not say ({said})");
        (AskError { hint: hint.into(), ..AskError::down(what) }, false)
    } else {
        (AskError::wrong(format!("{who} refuses the question ({said})"), "look at the metric's keys"), false)
    };
    Trouble { error, again }
}

fn unanswered(who: &str, error: &(dyn Error + 'static)) -> Trouble {
    let why = last_cause(error);
    if has_credentials_error(error) {
        let what = format!("{who} cannot be asked: no credentials ({why})");
        return Trouble { error: AskError::wrong(what, CREDENTIALS), again: false };
    }
    Trouble { error: AskError::down(format!("{who} does not answer: {why}")), again: true }
}

fn has_credentials_error(error: &(dyn Error + 'static)) -> bool {
    // What only did not answer may answer later.
    let certain = |error: &CredentialsError| !matches!(error, CredentialsError::ProviderTimedOut(_));
    causes(error).any(|cause| cause.downcast_ref::<CredentialsError>().is_some_and(certain))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The causes above say only that something failed.
fn last_cause(error: &(dyn Error + 'static)) -> String {
    let last = causes(error).last().map(ToString::to_string).unwrap_or_default();
    one_line(&last.replace("(os error ", "(errno "))
}

/// What somebody else's server said, in one line that disturbs no terminal.
pub(crate) fn one_line(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut letters = line.chars().filter(|letter| !letter.is_control());
    let first: String = letters.by_ref().take(300).collect();
    if letters.next().is_some() { format!("{first}…") } else { first }
}

#[cfg(test)]
mod tests {
    use cutover_sources::AskErrorKind;

    use super::*;

    fn said(status: u16, code: Option<&str>) -> (AskErrorKind, bool, String) {
        let trouble = answered("CloudWatch in r", "cloudwatch:X", status, code, Some("why\nnot"));
        (trouble.error.kind, trouble.again, trouble.error.what)
    }

    #[test]
    fn whose_fault_it_is_and_whether_it_passes() {
        use AskErrorKind::{Down, Wrong};
        for (status, code, kind, again, words) in [
            (
                400,
                Some("Throttling"),
                Down,
                true,
                "CloudWatch in r throttles this account (Throttling: why not)",
            ),
            (429, None, Down, true, "CloudWatch in r throttles this account (status 429)"),
            (
                500,
                Some("InternalServiceFault"),
                Down,
                true,
                "CloudWatch in r answers with an error of its own (InternalServiceFault: why not)",
            ),
            (503, None, Down, true, "CloudWatch in r answers with an error of its own (status 503)"),
            (
                403,
                Some("AccessDenied"),
                Wrong,
                false,
                "CloudWatch in r denies cloudwatch:X (AccessDenied: why not)",
            ),
            (
                403,
                Some("ExpiredToken"),
                Wrong,
                false,
                "CloudWatch in r does not accept the credentials (ExpiredToken: why not)",
            ),
            (
                400,
                Some("ValidationError"),
                Wrong,
                false,
                "CloudWatch in r refuses the question (ValidationError: why not)",
            ),
            (
                404,
                None,
                Down,
                false,
                "CloudWatch in r answers with what CloudWatch does not say (status 404)",
            ),
        ] {
            assert_eq!(said(status, code), (kind, again, words.to_string()));
        }
    }
}
