//! What the proxy routes: services, tracks with weights, targets, and the lease of a candidate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::access::AccessLog;
use crate::checks::TargetChecks;
use crate::error::{ErrorKind, ProxyError};
use crate::limits::Limits;
use crate::passing::Passing;
use crate::paths;
use crate::retries::Retries;
use crate::sticky::Sticky;
use crate::tls::TlsRoute;
use crate::trust::Balance;

/// Schema version of the table on disk and on the admin socket.
pub const SCHEMA: u32 = 1;

/// Sum of all weights of a service that takes traffic, in basis points.
pub const WHOLE: u16 = 10_000;

/// Everything the proxy routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Schema version, [`SCHEMA`].
    pub schema: u32,
    /// Addresses the holder listens on, as bound.
    #[serde(default)]
    pub listeners: Vec<SocketAddr>,
    /// Services by name.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceTable>,
}

impl Default for Table {
    fn default() -> Self {
        Self { schema: SCHEMA, listeners: Vec::new(), services: BTreeMap::new() }
    }
}

/// Routing of one service. Generation and epoch are the proxy's: a `set` carries them beside the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTable {
    /// Raised by one with every change, also by a trip.
    #[serde(default)]
    pub generation: u64,
    /// Highest epoch of a driver that has written here.
    #[serde(default)]
    pub epoch: u64,
    /// Host names served; empty or `*`: any host.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Path prefixes served, in whole segments; empty: all paths. The longest prefix of all services wins.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Listeners served; empty: all of them.
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// Revisions with their weights and targets.
    #[serde(default)]
    pub tracks: Vec<Track>,
    /// The candidate, when a release is under way.
    #[serde(default)]
    pub candidate: Option<CandidateLease>,
    /// Key that signs pin headers; `observe` hides it, a `set` without one keeps it.
    #[serde(default)]
    pub pin_key: Option<PinKey>,
    /// The key before this one, which is still believed; the proxy's own, as the generation is.
    #[serde(default)]
    pub former_pin_key: Option<PinKey>,
    /// How clients stay with their revision while a release is under way; none: each request is drawn anew.
    #[serde(default)]
    pub sticky: Option<Sticky>,
    /// Clients of these networks are given to the candidate while there is one, whatever its weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preview: Vec<IpNet>,
    /// Share of the safe requests to other revisions that the candidate gets a copy of, in basis points.
    #[serde(default)]
    pub mirror_bp: u16,
    /// Text for a 503 to every request without a pin; none: the service is open.
    #[serde(default)]
    pub maintenance: Option<String>,
    /// Longest silence of a target after the request was sent; none: no limit.
    #[serde(default)]
    pub response_timeout_ms: Option<u64>,
    /// Keep `X-Forwarded-Proto` and `X-Forwarded-Host` of the client: it is a load balancer of ours.
    #[serde(default)]
    pub trust_forwarded: bool,
    /// Path prefixes of static files: what one revision answers with 404 is asked of the others in the table.
    #[serde(default)]
    pub assets: Vec<String>,
    /// What is said of the requests, and who is believed.
    #[serde(default, skip_serializing_if = "Passing::is_default")]
    pub passing: Passing,
    /// Listeners that speak TLS, and with which certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<TlsRoute>,
    /// Listeners that answer with a redirect to HTTPS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redirect: Vec<SocketAddr>,
    /// How requests are spread over the targets of a track.
    #[serde(default)]
    pub balance: Balance,
    /// How many requests may be sent twice.
    #[serde(default)]
    pub retries: Retries,
    /// What the service takes at most.
    #[serde(default)]
    pub limits: Limits,
    /// What is logged of its requests; none: nothing.
    #[serde(default)]
    pub access_log: Option<AccessLog>,
}

/// One revision of a service and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// Name of the revision.
    pub revision: String,
    /// Share of requests in basis points, 0..=10000.
    pub weight_bp: u16,
    /// Where its instances listen.
    #[serde(default)]
    pub targets: Vec<Target>,
    /// What they are asked all the time; none: nothing, they count as up.
    #[serde(default)]
    pub checks: Option<TargetChecks>,
    /// What they speak.
    #[serde(default, skip_serializing_if = "TargetProtocol::is_http1")]
    pub protocol: TargetProtocol,
}

/// How a target is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetProtocol {
    /// HTTP/1.1, a request at a time on each connection.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge; what upgrades the connection still goes by HTTP/1.1.
    H2c,
}

impl TargetProtocol {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_http1(&self) -> bool {
        *self == Self::Http1
    }
}

/// Address of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Name of the instance.
    pub instance: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Takes new requests.
    pub ready: bool,
}

/// Permission of a candidate to take traffic, which ends unless it is renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateLease {
    /// The release whose candidate this is.
    pub release: String,
    /// Its revision, one of the tracks.
    pub revision: String,
    /// How long one renewal lasts, on boot time.
    pub lease_ms: u64,
    /// Revisions and weights after a lapse or a trip. An entry of the candidate itself, at most its weight, is what it
    /// keeps; the others share the rest in proportion. Without any other: the other tracks by their ready targets.
    #[serde(default)]
    pub fallback: Vec<(String, u16)>,
    /// Limits that trip the candidate.
    #[serde(default)]
    pub guard: Option<Guard>,
}

/// Limits for the first attempts at the candidate since the last `set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// No judgement before this many requests.
    pub min_requests: u64,
    /// Highest share of errors (5xx, connect failure, reset, truncated), basis points.
    #[serde(default)]
    pub max_error_bp: Option<u16>,
    /// Highest mean time until the response head.
    #[serde(default)]
    pub max_mean_ms: Option<u64>,
    /// Highest 95th percentile of the time until the response head.
    #[serde(default)]
    pub max_p95_ms: Option<u64>,
}

/// Key of pin headers, hex; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PinKey(pub String);

impl fmt::Debug for PinKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinKey(…)")
    }
}

impl ServiceTable {
    /// Returns the track of a revision.
    pub fn track(&self, revision: &str) -> Option<&Track> {
        self.tracks.iter().find(|track| track.revision == revision)
    }

    /// Tells whether both route the same, whatever their generation and epoch.
    pub(crate) fn same_routing(&self, other: &Self) -> bool {
        let mut other = other.clone();
        other.generation = self.generation;
        other.epoch = self.epoch;
        *self == other
    }

    /// Returns the weights once the candidate has lost its lease: what it keeps, and the stored fallback of the others,
    /// restricted to revisions for which `ready` holds and scaled to the rest. None: nobody could take the traffic.
    pub(crate) fn fallback_weights(&self, ready: impl Fn(&Track) -> bool) -> Option<Vec<u16>> {
        let candidate = self.candidate.as_ref()?;
        let by_targets = candidate.fallback.iter().all(|(revision, _)| *revision == candidate.revision);
        let wanted: Vec<u64> = self
            .tracks
            .iter()
            .map(|track| {
                if track.revision == candidate.revision || !ready(track) {
                    return 0;
                }
                if by_targets {
                    return track.targets.iter().filter(|target| target.ready).count() as u64;
                }
                let stored = candidate.fallback.iter().find(|(revision, _)| *revision == track.revision);
                stored.map_or(0, |(_, weight)| u64::from(*weight))
            })
            .collect();
        let at = self.tracks.iter().position(|track| track.revision == candidate.revision);
        let kept = at.filter(|at| ready(&self.tracks[*at])).map_or(0, |_| candidate.retained());
        let mut weights = scale(&wanted, WHOLE.saturating_sub(kept))?;
        if let Some(at) = at {
            weights[at] = kept;
        }
        Some(weights)
    }
}

impl CandidateLease {
    /// Returns the weight that the candidate keeps after a lapse or a trip, in basis points.
    pub(crate) fn retained(&self) -> u16 {
        let own = self.fallback.iter().find(|(revision, _)| *revision == self.revision);
        own.map_or(0, |(_, weight)| *weight)
    }

    /// Lets the candidate keep no more than `most`.
    pub(crate) fn retain_at_most(&mut self, most: u16) {
        for (revision, weight) in &mut self.fallback {
            if *revision == self.revision {
                *weight = most.min(*weight);
            }
        }
    }
}

/// Scales weights to `whole`, the rounding rest going to the largest; None when all are 0, or nothing is to be given.
fn scale(wanted: &[u64], whole: u16) -> Option<Vec<u16>> {
    let sum: u64 = wanted.iter().sum();
    if sum == 0 || whole == 0 {
        return None;
    }
    let mut scaled: Vec<u16> =
        wanted.iter().map(|weight| u16::try_from(weight * u64::from(whole) / sum).unwrap_or(whole)).collect();
    let rest = whole.saturating_sub(scaled.iter().sum());
    if let Some(largest) = (0..wanted.len()).max_by_key(|index| wanted[*index]) {
        scaled[largest] += rest;
    }
    Some(scaled)
}

/// Checks one service against itself and against the rest of the table.
pub(crate) fn validate(name: &str, service: &ServiceTable, rest: &Table) -> Result<(), ProxyError> {
    let invalid =
        |what: String| Err(ProxyError::new(ErrorKind::Invalid, format!("service \"{name}\": {what}")));
    if name.is_empty() || name.len() > 200 {
        return invalid("its name must have 1 to 200 characters".into());
    }
    let mut revisions = BTreeSet::new();
    let mut sum = 0_u32;
    for track in &service.tracks {
        if !revisions.insert(track.revision.as_str()) {
            return invalid(format!("revision \"{}\" is listed twice; merge the two tracks", track.revision));
        }
        if track.weight_bp > WHOLE {
            return invalid(format!(
                "revision \"{}\" has weight {} of at most {WHOLE} basis points",
                track.revision, track.weight_bp
            ));
        }
        if track.weight_bp > 0 && track.targets.is_empty() {
            return invalid(format!(
                "revision \"{}\" has weight but no target; add one first",
                track.revision
            ));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = track.targets.iter().find(|target| !seen.insert(target.address)) {
            return invalid(format!("revision \"{}\" lists target {} twice", track.revision, twice.address));
        }
        if let Some(mistake) = track.checks.as_ref().and_then(TargetChecks::mistake) {
            return invalid(format!("revision \"{}\": {mistake}", track.revision));
        }
        sum += u32::from(track.weight_bp);
    }
    if sum != 0 && sum != u32::from(WHOLE) {
        return invalid(format!(
            "its weights add up to {sum}, not to {WHOLE} basis points (or 0: answer 503)"
        ));
    }
    if let Some(candidate) = &service.candidate {
        if !revisions.contains(candidate.revision.as_str()) {
            return invalid(format!("candidate \"{}\" has no track", candidate.revision));
        }
        if candidate.lease_ms == 0 {
            return invalid("the candidate's lease must last longer than 0 ms".into());
        }
        if let Some((unknown, _)) =
            candidate.fallback.iter().find(|(revision, _)| !revisions.contains(revision.as_str()))
        {
            return invalid(format!("fallback names revision \"{unknown}\", which has no track"));
        }
        let weight = service.track(&candidate.revision).map_or(0, |track| track.weight_bp);
        if candidate.retained() > weight {
            // A lapse would send the candidate more than anybody has decided to send it.
            return invalid(format!(
                "the fallback leaves the candidate {} basis points, which is more than its weight {weight}",
                candidate.retained()
            ));
        }
    }
    if let Some(mistake) = service.access_log.as_ref().and_then(|log| log.mistake(name)) {
        return invalid(mistake);
    }
    if let Some(mistake) = service.limits.mistake() {
        return invalid(mistake);
    }
    if let Some(key) = &service.pin_key
        && crate::pin::decode_hex(&key.0).is_none_or(|key| key.len() < 16)
    {
        return invalid("pin key must be hex of at least 16 bytes".into());
    }
    if let Some(what) = service.paths.iter().find_map(|prefix| paths::mistake(prefix)) {
        return invalid(what);
    }
    if service.mirror_bp > WHOLE {
        return invalid(format!("it mirrors {} of at most {WHOLE} basis points", service.mirror_bp));
    }
    if let Some(what) = service.sticky.as_ref().and_then(Sticky::mistake) {
        return invalid(what);
    }
    if let Some(prefix) = service.assets.iter().find(|prefix| !prefix.starts_with('/')) {
        return invalid(format!("assets below \"{prefix}\": a path begins with /"));
    }
    if let Some(address) = service.redirect.iter().find(|redirect| {
        let speaks = |service: &ServiceTable| service.tls.iter().any(|route| route.listen == **redirect);
        speaks(service) || rest.services.values().any(speaks)
    }) {
        return invalid(format!(
            "{address} redirects to HTTPS and speaks it; redirect from another listener"
        ));
    }
    if !service.redirect.is_empty() && service.tls.is_empty() {
        return invalid("it redirects to HTTPS, which it has no certificate for".into());
    }
    for address in service
        .listen
        .iter()
        .chain(service.tls.iter().map(|route| &route.listen))
        .chain(&service.redirect)
        .chain(&service.passing.proxy_protocol)
    {
        if !rest.listeners.contains(address) {
            return invalid(format!(
                "it listens on {address}, which is not open; ask for it with `listen` first"
            ));
        }
    }
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
            return invalid(format!(
                "host \"{host}\"{place} is already served by service \"{other_name}\" on the same listener; \
                 give one of them another host, path or listener"
            ));
        }
    }
    Ok(())
}

/// Returns the hosts as they are compared: lower case, `*` for any.
pub(crate) fn normal_hosts(hosts: &[String]) -> BTreeSet<String> {
    if hosts.is_empty() {
        return BTreeSet::from(["*".to_owned()]);
    }
    hosts.iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(revision: &str, weight_bp: u16) -> Track {
        let address = "127.0.0.1:1".parse().unwrap();
        Track {
            revision: revision.into(),
            weight_bp,
            targets: vec![Target { instance: "a".into(), address, ready: true }],
            protocol: TargetProtocol::Http1,
            checks: None,
        }
    }

    fn service(tracks: Vec<Track>) -> ServiceTable {
        ServiceTable { tracks, ..ServiceTable::default() }
    }

    #[test]
    fn weights_add_up_to_the_whole_or_to_nothing() {
        let rest = Table::default();
        assert!(validate("s", &service(vec![track("a", 9_000), track("b", 1_000)]), &rest).is_ok());
        assert!(validate("s", &service(vec![track("a", 0)]), &rest).is_ok());
        let error = validate("s", &service(vec![track("a", 9_000)]), &rest).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Invalid);
        assert!(error.to_string().contains("add up to 9000"), "{error}");
    }

    #[test]
    fn a_weight_needs_a_target_and_a_host_one_service() {
        let mut empty = track("a", WHOLE);
        empty.targets.clear();
        assert!(validate("s", &service(vec![empty]), &Table::default()).is_err());
        let mut rest = Table::default();
        rest.services
            .insert("other".into(), ServiceTable { hosts: vec!["Shop.test".into()], ..Default::default() });
        let mut mine = service(vec![track("a", WHOLE)]);
        mine.hosts = vec!["shop.test".into()];
        assert!(validate("s", &mine, &rest).unwrap_err().to_string().contains("other"));
        mine.hosts = vec!["shop2.test".into()];
        assert!(validate("s", &mine, &rest).is_ok());
    }

    #[test]
    fn fallback_is_scaled_to_who_is_ready() {
        let mut table = service(vec![track("a", 4_000), track("b", 4_000), track("c", 2_000)]);
        table.candidate = Some(CandidateLease {
            release: "r".into(),
            revision: "c".into(),
            lease_ms: 1,
            fallback: vec![("a".into(), 5_000), ("b".into(), 5_000)],
            guard: None,
        });
        assert_eq!(table.fallback_weights(|_| true), Some(vec![5_000, 5_000, 0]));
        assert_eq!(table.fallback_weights(|track| track.revision == "b"), Some(vec![0, WHOLE, 0]));
        assert_eq!(table.fallback_weights(|_| false), None);
    }

    #[test]
    fn the_candidate_keeps_what_the_fallback_leaves_it() {
        let mut table = service(vec![track("a", 2_000), track("b", 1_000), track("c", 7_000)]);
        let fallback = vec![("a".into(), 2_000), ("b".into(), 1_000), ("c".into(), 4_000)];
        let (release, revision) = ("r".into(), "c".into());
        table.candidate = Some(CandidateLease { release, revision, lease_ms: 1, fallback, guard: None });
        assert!(validate("s", &table, &Table::default()).is_ok());
        assert_eq!(table.fallback_weights(|_| true), Some(vec![4_000, 2_000, 4_000]));
        assert_eq!(table.fallback_weights(|track| track.revision != "a"), Some(vec![0, 6_000, 4_000]));
        assert_eq!(table.fallback_weights(|track| track.revision != "c"), Some(vec![6_667, 3_333, 0]));
        assert_eq!(table.fallback_weights(|track| track.revision == "c"), None, "nobody takes the rest");
        table.candidate.as_mut().unwrap().fallback = vec![("c".into(), 4_000)];
        assert_eq!(
            table.fallback_weights(|_| true),
            Some(vec![3_000, 3_000, 4_000]),
            "the others by targets"
        );
        table.candidate.as_mut().unwrap().fallback = vec![("a".into(), 0), ("c".into(), 7_000)];
        assert_eq!(table.fallback_weights(|_| true), None, "nobody is meant to take the rest");
        table.candidate.as_mut().unwrap().fallback = vec![("a".into(), 2_000), ("c".into(), 7_001)];
        let error = validate("s", &table, &Table::default()).unwrap_err();
        assert!(error.to_string().contains("more than its weight 7000"), "{error}");
    }
}
