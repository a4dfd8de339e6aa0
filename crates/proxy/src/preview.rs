//! Who tries the candidate before anyone else: by a signed header or cookie, or by where they come from.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::COOKIE;

use crate::compiled::CompiledService;
use crate::pin::{PIN_COOKIE, PIN_HEADER, verify};
use crate::sticky::take_cookie;

/// Returns the revision that a request is pinned to. Whatever the client said, the target sees neither header nor cookie:
/// it is not for it to believe.
pub(crate) fn pinned(service: &CompiledService, headers: &mut HeaderMap, client: IpAddr) -> Option<String> {
    let header = headers.remove(PIN_HEADER);
    let cookie = if headers.contains_key(COOKIE) { take_cookie(headers, PIN_COOKIE) } else { None };
    let said = header.as_ref().and_then(|header| header.to_str().ok()).or(cookie.as_deref());
    let signed = said.and_then(|said| {
        let keys = [service.pin_key.as_deref(), service.former_pin_key.as_deref()];
        keys.into_iter().flatten().find_map(|key| verify(key, &service.name, said)).map(str::to_owned)
    });
    signed.or_else(|| guest(service, client))
}

/// Returns the candidate, where the client is one of those who see it first.
fn guest(service: &CompiledService, client: IpAddr) -> Option<String> {
    let candidate = &service.tracks[service.candidate?];
    let client = client.to_canonical();
    let ready = candidate.targets.iter().any(|target| target.ready);
    let invited = service.preview.iter().any(|network| network.contains(&client));
    (invited && ready && !service.is_withdrawn()).then(|| candidate.revision.to_string())
}
