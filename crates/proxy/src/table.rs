//! What the proxy routes: services, tracks with weights, targets, and the lease of a candidate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::access::AccessLog;
use crate::checks::TargetChecks;
use crate::limits::Limits;
use crate::passing::Passing;
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
    /// How it is compared with stable; none: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeTerms>,
}

/// What the judge of a release is to prove; the first table of the release decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeTerms {
    /// How often a candidate that is as good as stable may be taken back, in basis points of releases.
    pub alpha_bp: u16,
    /// How often a candidate that is worse by a margin may pass, in basis points.
    pub beta_bp: u16,
    /// Margins of the error rate that may be asked for, in parts per billion of requests; 6 at most.
    pub margins_ppb: Vec<u64>,
    /// How long latency is left out after new targets of the candidate took their first requests.
    pub warm_up_ms: u64,
    /// How long the candidate is watched once it has all requests.
    #[serde(default)]
    pub watch_ms: u64,
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
    use crate::error::ErrorKind;
    use crate::validate::validate;

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
            judge: None,
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
        table.candidate =
            Some(CandidateLease { release, revision, lease_ms: 1, fallback, guard: None, judge: None });
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
