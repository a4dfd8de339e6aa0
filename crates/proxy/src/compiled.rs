//! The table as the threads use it: names resolved, weights added up, built once per change.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use cutover_judge::Arm as Side;
use http::HeaderValue;
use ipnet::IpNet;

use crate::access::ServiceLog;
use crate::clients::Clients;
use crate::doors::Doors;
use crate::gate::Gate;
use crate::judging::Bet;
use crate::limits::Limits;
use crate::passing::Passing;
use crate::paths;
use crate::retries::Retries;
use crate::room::{ServiceRoom, TrackRoom};
use crate::sticky::{Issuer, Sticky};
use crate::table::{ServiceTable, Table, Target, TargetProtocol, WHOLE, normal_hosts};
use crate::tls::{Listeners, TlsRoute};
use crate::trust::Balance;

/// Shared by all threads, immutable.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) services: Vec<CompiledService>,
    /// Services by host name; `*` serves the rest.
    hosts: HashMap<String, Vec<usize>>,
    /// No table could be read at boot.
    pub(crate) damaged: bool,
    /// Listeners that speak TLS.
    pub(crate) tls: Listeners,
    /// Listeners with a PROXY protocol header first, and who may send it; empty: anybody.
    pub(crate) bringers: HashMap<SocketAddr, Arc<[IpNet]>>,
    /// What holds for a connection before its service is known.
    pub(crate) doors: Doors,
    /// Connections of clients that are limited; of all tables.
    pub(crate) connected: Arc<Clients>,
    /// Some listener of some service redirects.
    pub(crate) redirects: bool,
    /// Where the answers to challenges lie; none: no certificate is asked for.
    pub(crate) challenges: Option<Arc<Path>>,
    /// Targets of an earlier worker's table that do not answer: asked only when no other is left.
    pub(crate) unverified: BTreeSet<SocketAddr>,
}

#[derive(Debug)]
pub(crate) struct CompiledService {
    pub(crate) name: Arc<str>,
    listen: Vec<SocketAddr>,
    paths: Vec<String>,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) mirror_bp: u16,
    pub(crate) preview: Vec<IpNet>,
    /// The candidate was taken back: nobody sees it for being invited, and it gets no copies.
    tripped: bool,
    pub(crate) former_pin_key: Option<String>,
    pub(crate) tracks: Vec<CompiledTrack>,
    /// Weights in force, by track.
    pub(crate) weights: Vec<u16>,
    /// Weights once the gate is closed; None: nobody could take over, the gate has no effect.
    pub(crate) fallback: Option<Vec<u16>>,
    /// Half for the candidate, while that tells its faults from those of both; None: nobody could take the other half, or
    /// clients would have to change sides.
    pub(crate) even: Option<Vec<u16>>,
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) candidate: Option<usize>,
    pub(crate) release: Option<Arc<str>>,
    pub(crate) pin_key: Option<String>,
    pub(crate) maintenance: Option<String>,
    pub(crate) response_timeout_ms: Option<u64>,
    pub(crate) trust_forwarded: bool,
    pub(crate) assets: Vec<String>,
    pub(crate) passing: Passing,
    /// Listeners that send clients to HTTPS, and its port.
    pub(crate) redirect: Vec<(SocketAddr, u16)>,
    /// What browsers are told of HTTPS, by listener.
    pub(crate) hsts: Vec<(SocketAddr, HeaderValue)>,
    pub(crate) balance: Balance,
    pub(crate) retries: Retries,
    pub(crate) limits: Arc<Limits>,
    pub(crate) log: Option<Arc<ServiceLog>>,
    pub(crate) room: Arc<ServiceRoom>,
    /// Targets that failed their checks: asked only when no other of their track is left.
    pub(crate) down: BTreeSet<SocketAddr>,
}

#[derive(Debug)]
pub(crate) struct CompiledTrack {
    pub(crate) revision: Arc<str>,
    pub(crate) targets: Vec<Target>,
    pub(crate) room: Arc<TrackRoom>,
    pub(crate) http2: bool,
}

/// What the control thread knows beside the table.
pub(crate) struct Live {
    pub(crate) gate: Option<Arc<Gate>>,
    /// The candidate waits for the first renewal since boot.
    pub(crate) suspended: bool,
    /// The candidate was taken back.
    pub(crate) tripped: bool,
    /// Targets that failed their checks.
    pub(crate) down: BTreeSet<SocketAddr>,
    pub(crate) room: Arc<ServiceRoom>,
    pub(crate) log: Option<Arc<ServiceLog>>,
}

impl Compiled {
    pub(crate) fn build(
        table: &Table,
        damaged: bool,
        unverified: BTreeSet<SocketAddr>,
        live: impl Fn(&str) -> Live,
    ) -> Self {
        let mut compiled = Self { damaged, unverified, ..Self::default() };
        for (name, service) in &table.services {
            let at = compiled.services.len();
            for host in normal_hosts(&service.hosts) {
                compiled.hosts.entry(host).or_default().push(at);
            }
            compiled.doors.add(service);
            compiled.redirects |= !service.redirect.is_empty();
            compiled.services.push(CompiledService::build(name, service, live(name)));
        }
        compiled.bringers = bringers(table);
        compiled
    }

    /// Finds the service of a request on a listener; a named host wins over `*`, then the longest prefix of the path.
    pub(crate) fn find(&self, host: &str, path: &str, listener: SocketAddr) -> Option<usize> {
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            &lower
        } else {
            host
        };
        let matching = |host: &str| {
            let found = self.hosts.get(host)?;
            let here = |at: &usize| {
                let listen = &self.services[*at].listen;
                listen.is_empty() || listen.contains(&listener)
            };
            let covered = |at: usize| Some((at, paths::longest(&self.services[at].paths, path)?));
            let best =
                found.iter().copied().filter(here).filter_map(covered).max_by_key(|(_, covered)| *covered);
            best.map(|(at, _)| at)
        };
        matching(host).or_else(|| matching("*"))
    }

    /// Revisions that have any weight, also as a fallback.
    pub(crate) fn weighted(&self) -> BTreeSet<(Arc<str>, Arc<str>)> {
        let mut weighted = BTreeSet::new();
        for service in &self.services {
            for (track, weight) in service.tracks.iter().zip(&service.weights) {
                if *weight > 0 {
                    weighted.insert((service.name.clone(), track.revision.clone()));
                }
            }
        }
        weighted
    }
}

impl CompiledService {
    /// Tells whether the candidate was taken back.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.tripped || self.gate.as_ref().is_some_and(|gate| gate.is_closed())
    }

    /// Counts a request that was drawn for a track, if requests are compared.
    pub(crate) fn bet(&self, gate: &Gate, weights: &[u16], drawn: usize, seat: Option<u16>) -> Option<Bet> {
        let candidate = self.candidate?;
        let side = if drawn == candidate { Side::Candidate } else { Side::Stable };
        let halves = self.even.as_deref().is_some_and(|even| std::ptr::eq(even, weights));
        gate.desk.as_ref()?.assign(side, seat, weights[candidate], halves)
    }

    /// Tells whether requests that come in there may be this service's.
    pub(crate) fn listens(&self, listener: SocketAddr) -> bool {
        self.listen.is_empty() || self.listen.contains(&listener)
    }

    /// Returns the weights that requests are drawn by now.
    pub(crate) fn drawn_by(&self) -> &[u16] {
        let other = match &self.gate {
            Some(gate) if gate.is_closed() => self.fallback.as_deref(),
            Some(gate) if gate.is_probing() => self.even.as_deref(),
            _ => None,
        };
        other.unwrap_or(&self.weights)
    }

    /// Returns who gives seats to clients; none while no release is under way: then all requests go one way.
    pub(crate) fn issuer(&self, secure: bool) -> Option<Issuer<'_>> {
        let keys = [self.pin_key.as_deref(), self.former_pin_key.as_deref()];
        Some(Issuer { service: &self.name, release: self.release.as_deref()?, keys, secure })
    }

    fn build(name: &str, service: &ServiceTable, live: Live) -> Self {
        let candidate = service.candidate.as_ref();
        let at = candidate.and_then(|candidate| {
            service.tracks.iter().position(|track| track.revision == candidate.revision)
        });
        let fallback = service.fallback_weights(|track| track.targets.iter().any(|target| target.ready));
        Self {
            name: name.into(),
            listen: service.listen.clone(),
            paths: service.paths.clone(),
            sticky: service.sticky.clone(),
            mirror_bp: service.mirror_bp,
            preview: service.preview.clone(),
            tripped: live.tripped,
            former_pin_key: service.former_pin_key.as_ref().map(|key| key.0.clone()),
            tracks: service
                .tracks
                .iter()
                .map(|track| CompiledTrack {
                    revision: track.revision.as_str().into(),
                    targets: track.targets.clone(),
                    room: live.room.track(&track.revision),
                    http2: track.protocol == TargetProtocol::H2c,
                })
                .collect(),
            weights: effective(service, live.suspended),
            even: fallback
                .as_deref()
                .zip(at)
                .filter(|_| service.sticky.is_none() && !live.suspended)
                .and_then(even)
                .inspect(|_| live.gate.iter().for_each(|gate| gate.let_probe(true))),
            fallback,
            gate: live.gate,
            candidate: at,
            release: candidate.map(|candidate| candidate.release.as_str().into()),
            pin_key: service.pin_key.as_ref().map(|key| key.0.clone()),
            maintenance: service.maintenance.clone(),
            response_timeout_ms: service.response_timeout_ms,
            trust_forwarded: service.trust_forwarded,
            assets: service.assets.clone(),
            passing: service.passing.clone(),
            redirect: redirects(service),
            hsts: service.tls.iter().filter_map(hsts).collect(),
            balance: service.balance,
            retries: service.retries,
            limits: Arc::new(service.limits.clone()),
            log: live.log,
            room: live.room.clone(),
            down: live.down,
        }
    }
}

/// Splits evenly between the candidate and those who would take over from it.
fn even((fallback, candidate): (&[u16], usize)) -> Option<Vec<u16>> {
    if fallback[candidate] > 0 {
        // It keeps some even then: the others could not carry half.
        return None;
    }
    let mut even: Vec<u16> = fallback.iter().map(|weight| weight / 2).collect();
    even[candidate] = WHOLE - even.iter().sum::<u16>();
    Some(even)
}

/// The standard port, where it speaks TLS; else the first that does.
fn redirects(service: &ServiceTable) -> Vec<(SocketAddr, u16)> {
    let mut ports = service.tls.iter().map(|route| route.listen.port());
    let first = ports.next().unwrap_or(443);
    let port = if ports.any(|port| port == 443) { 443 } else { first };
    service.redirect.iter().map(|listener| (*listener, port)).collect()
}

/// Who may bring connections of others: whom each service of the listener trusts.
fn bringers(table: &Table) -> HashMap<SocketAddr, Arc<[IpNet]>> {
    let mut found: HashMap<SocketAddr, Vec<IpNet>> = HashMap::new();
    for service in table.services.values() {
        for listener in &service.passing.proxy_protocol {
            found.entry(*listener).or_default().extend(&service.passing.trust);
        }
    }
    found.into_iter().map(|(listener, trusted)| (listener, trusted.into())).collect()
}

fn hsts(route: &TlsRoute) -> Option<(SocketAddr, HeaderValue)> {
    let value = HeaderValue::try_from(format!("max-age={}", route.hsts_s?)).ok()?;
    Some((route.listen, value))
}

/// Returns the weights in force by track.
pub(crate) fn effective(service: &ServiceTable, suspended: bool) -> Vec<u16> {
    let configured = || service.tracks.iter().map(|track| track.weight_bp).collect::<Vec<_>>();
    let candidate_weighted = service
        .candidate
        .as_ref()
        .and_then(|candidate| service.track(&candidate.revision))
        .is_some_and(|track| track.weight_bp > 0);
    if suspended && candidate_weighted {
        let ready = |track: &crate::table::Track| track.targets.iter().any(|target| target.ready);
        return service.fallback_weights(ready).unwrap_or_else(configured);
    }
    configured()
}
