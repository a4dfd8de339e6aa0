//! When to renew (RFC 9773): said of certificates that this server has signed, and of no others.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Response;
use http::header::{HeaderValue, RETRY_AFTER};
use rcgen::date_time_ymd;
use serde_json::json;
use x509_parser::extensions::ParsedExtension;
use x509_parser::parse_x509_certificate;

use crate::Shared;
use crate::http::Answer;
use crate::problem::Problem;

/// Answers for the certificate with this name.
pub(crate) fn suggest(shared: &Shared, name: &str) -> Result<Answer, Problem> {
    let mut book = shared.book();
    if !book.named.iter().any(|known| known == name) {
        return Err(Problem::new(404, "malformed", format!("no certificate is named {name}")));
    }
    book.seen.renewals += 1;
    let Some((from, to)) = shared.behaviour().renewal else {
        return Err(Problem::new(404, "malformed", "this server does not say when to renew"));
    };
    let window = json!({"start": time(from), "end": time(to)});
    let mut answer = Response::new(json!({ "suggestedWindow": window }));
    // As often as the client likes.
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("0"));
    Ok(answer)
}

/// Returns the name of a certificate: who signed it, and its number.
pub(crate) fn name_of(der: &[u8]) -> String {
    let (_, certificate) = parse_x509_certificate(der).unwrap();
    let key = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    });
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    format!("{}.{}", encode(key.unwrap()), encode(certificate.tbs_certificate.raw_serial()))
}

/// Writes a time as RFC 3339 does.
fn time(from_now_s: i64) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let at = date_time_ymd(1970, 1, 1) + Duration::from_secs((now_s + from_now_s).cast_unsigned());
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
}
