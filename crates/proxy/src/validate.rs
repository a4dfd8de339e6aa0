//! What a table must hold before it is taken: each service by itself, and beside the others.

use std::collections::BTreeSet;

use cutover_judge::{History, Judge, Settings};

use crate::checks::TargetChecks;
use crate::error::{ErrorKind, ProxyError};
use crate::paths;
use crate::sticky::Sticky;
use crate::table::{ServiceTable, Table, WHOLE, normal_hosts};
use crate::tls::TlsRoute;

/// Checks one service against itself and against the rest of the table.
pub(crate) fn validate(name: &str, service: &ServiceTable, rest: &Table) -> Result<(), ProxyError> {
    let unnamed = name.is_empty() || name.len() > 200;
    let mistake = unnamed
        .then(|| "its name must have 1 to 200 characters".to_owned())
        .or_else(|| tracks(service))
        .or_else(|| candidate(service))
        .or_else(|| settings(name, service))
        .or_else(|| listeners(service, rest))
        .or_else(|| neighbours(name, service, rest));
    match mistake {
        Some(what) => Err(ProxyError::new(ErrorKind::Invalid, format!("service \"{name}\": {what}"))),
        None => Ok(()),
    }
}

fn tracks(service: &ServiceTable) -> Option<String> {
    let mut revisions = BTreeSet::new();
    let mut sum = 0_u32;
    for track in &service.tracks {
        if !revisions.insert(track.revision.as_str()) {
            return Some(format!("revision \"{}\" is listed twice; merge the two tracks", track.revision));
        }
        if track.weight_bp > WHOLE {
            return Some(format!(
                "revision \"{}\" has weight {} of at most {WHOLE} basis points",
                track.revision, track.weight_bp
            ));
        }
        if track.weight_bp > 0 && track.targets.is_empty() {
            return Some(format!("revision \"{}\" has weight but no target; add one first", track.revision));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = track.targets.iter().find(|target| !seen.insert(target.address)) {
            return Some(format!("revision \"{}\" lists target {} twice", track.revision, twice.address));
        }
        if let Some(mistake) = track.checks.as_ref().and_then(TargetChecks::mistake) {
            return Some(format!("revision \"{}\": {mistake}", track.revision));
        }
        sum += u32::from(track.weight_bp);
    }
    if sum != 0 && sum != u32::from(WHOLE) {
        return Some(format!("its weights add up to {sum}, not to {WHOLE} basis points (or 0: answer 503)"));
    }
    None
}

fn candidate(service: &ServiceTable) -> Option<String> {
    let candidate = service.candidate.as_ref()?;
    let is_listed = |revision: &str| service.track(revision).is_some();
    if !is_listed(&candidate.revision) {
        return Some(format!("candidate \"{}\" has no track", candidate.revision));
    }
    if candidate.lease_ms == 0 {
        return Some("the candidate's lease must last longer than 0 ms".into());
    }
    if let Some((unknown, _)) = candidate.fallback.iter().find(|(revision, _)| !is_listed(revision)) {
        return Some(format!("fallback names revision \"{unknown}\", which has no track"));
    }
    let weight = service.track(&candidate.revision).map_or(0, |track| track.weight_bp);
    if candidate.retained() > weight {
        // A lapse would send the candidate more than anybody has decided to send it.
        return Some(format!(
            "the fallback leaves the candidate {} basis points, which is more than its weight {weight}",
            candidate.retained()
        ));
    }
    let terms = candidate.judge.clone()?;
    let settings =
        Settings { alpha_bp: terms.alpha_bp, beta_bp: terms.beta_bp, margins_ppb: terms.margins_ppb };
    Judge::new(settings, History::default()).err().map(|why| format!("the judge: {why}"))
}

/// What is said of the service as a whole.
fn settings(name: &str, service: &ServiceTable) -> Option<String> {
    if let Some(mistake) = service.access_log.as_ref().and_then(|log| log.mistake(name)) {
        return Some(mistake);
    }
    if let Some(mistake) = service.limits.mistake() {
        return Some(mistake);
    }
    if let Some(key) = &service.pin_key
        && crate::pin::decode_hex(&key.0).is_none_or(|key| key.len() < 16)
    {
        return Some("pin key must be hex of at least 16 bytes".into());
    }
    if let Some(what) = service.paths.iter().find_map(|prefix| paths::mistake(prefix)) {
        return Some(what);
    }
    if service.mirror_bp > WHOLE {
        return Some(format!("it mirrors {} of at most {WHOLE} basis points", service.mirror_bp));
    }
    if let Some(what) = service.sticky.as_ref().and_then(Sticky::mistake) {
        return Some(what);
    }
    if let Some(prefix) = service.assets.iter().find(|prefix| !prefix.starts_with('/')) {
        return Some(format!("assets below \"{prefix}\": a path begins with /"));
    }
    None
}

fn listeners(service: &ServiceTable, rest: &Table) -> Option<String> {
    if let Some(address) = service.redirect.iter().find(|redirect| {
        let speaks = |service: &ServiceTable| service.tls.iter().any(|route| route.listen == **redirect);
        speaks(service) || rest.services.values().any(speaks)
    }) {
        return Some(format!("{address} redirects to HTTPS and speaks it; redirect from another listener"));
    }
    if !service.redirect.is_empty() && service.tls.is_empty() {
        return Some("it redirects to HTTPS, which it has no certificate for".into());
    }
    let acme = |route: &TlsRoute| route.acme.as_ref().and_then(|issuer| issuer.mistake(route));
    if let Some(mistake) = service.tls.iter().find_map(acme) {
        return Some(mistake);
    }
    for address in service
        .listen
        .iter()
        .chain(service.tls.iter().map(|route| &route.listen))
        .chain(&service.redirect)
        .chain(&service.passing.proxy_protocol)
    {
        if !rest.listeners.contains(address) {
            return Some(format!(
                "it listens on {address}, which is not open; ask for it with `listen` first"
            ));
        }
    }
    None
}

/// No two services may claim the same request.
fn neighbours(name: &str, service: &ServiceTable, rest: &Table) -> Option<String> {
    for (other_name, other) in rest.services.iter().filter(|(other, _)| *other != name) {
        let shared = service.listen.is_empty()
            || other.listen.is_empty()
            || service.listen.iter().any(|address| other.listen.contains(address));
        let (ours, theirs) = (normal_hosts(&service.hosts), normal_hosts(&other.hosts));
        if let Some(host) = ours.intersection(&theirs).next()
            && shared
            && let Some(path) = paths::shared(&service.paths, &other.paths)
        {
            let place = if path == "/" { String::new() } else { format!(" with path \"{path}\"") };
            return Some(format!(
                "host \"{host}\"{place} is already served by service \"{other_name}\" on the same listener; \
                 give one of them another host, path or listener"
            ));
        }
    }
    None
}
