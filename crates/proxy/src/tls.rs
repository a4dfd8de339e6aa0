//! TLS: which listeners speak it, and which certificate answers whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::acme::{AcmeIssuer, AcmeObservation};
use crate::certificate::{Files, Stamp, Time};
use crate::names::{Names, configure};
use crate::table::Table;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A listener of a service that speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsRoute {
    /// The listener.
    pub listen: SocketAddr,
    /// The name that clients ask for (SNI); none: whoever asks for no other.
    #[serde(default)]
    pub host: Option<String>,
    /// File of the certificate chain, PEM; empty where it is asked for by ACME.
    #[serde(default)]
    pub cert: String,
    /// File of its private key, PEM. Only the path is ever stored.
    #[serde(default)]
    pub key: String,
    /// Who signs the certificate; none: it comes from the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeIssuer>,
    /// For how long browsers shall use TLS only, in seconds; none: they are not told.
    #[serde(default)]
    pub hsts_s: Option<u64>,
}

/// What is known of a certificate in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateObservation {
    /// The listener.
    pub listen: SocketAddr,
    /// The name it is for.
    pub host: Option<String>,
    /// Its file.
    pub cert: String,
    /// Last second in which it is valid, since 1970; none: there is no usable one.
    pub not_after: Option<i64>,
    /// Why the files as they are now are not used; the certificate before is.
    pub problem: Option<String>,
    /// Who is asked for it, and how far that is; none: it comes from files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeObservation>,
}

/// Configurations by listener.
pub(crate) type Listeners = HashMap<SocketAddr, Arc<ServerConfig>>;

/// The certificates of the table, as far as they could be read. Owned by the control thread.
#[derive(Debug)]
pub(crate) struct Certificates {
    provider: Arc<CryptoProvider>,
    /// Where those lie that are asked for.
    acme: PathBuf,
    /// By files, and by the host that they must be for.
    known: BTreeMap<(Files, Option<String>), Known>,
    built: HashMap<SocketAddr, (Names, Arc<ServerConfig>)>,
    looked: Instant,
}

#[derive(Debug, Default)]
struct Known {
    loaded: Option<(Arc<CertifiedKey>, i64)>,
    stamp: Stamp,
    problem: Option<String>,
    /// The problem has been told, or is too new to be.
    told: bool,
}

impl TlsRoute {
    /// Reads the files as the proxy would; the error says what is wrong with which, and what to do.
    ///
    /// What is asked for by ACME need not be there yet.
    pub fn check(&self) -> Result<(), String> {
        if let Some(issuer) = &self.acme {
            return issuer.mistake(self).map_or(Ok(()), Err);
        }
        let provider = rustls::crypto::ring::default_provider();
        self.files(Path::new("")).load(self.host.as_deref(), Time::MustFit, &provider).map(drop)
    }

    /// Returns where the certificate lies; `acme` is the folder of those that are asked for.
    fn files(&self, acme: &Path) -> Files {
        match (&self.acme, &self.host) {
            (Some(issuer), Some(host)) => {
                // One file for both: no moment at which they are no pair.
                let path = issuer.certificate(acme, host).display().to_string();
                Files { cert: path.clone(), key: path }
            }
            _ => Files { cert: self.cert.clone(), key: self.key.clone() },
        }
    }
}

impl Certificates {
    pub(crate) fn new(acme: PathBuf) -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            acme,
            known: BTreeMap::new(),
            built: HashMap::new(),
            looked: Instant::now(),
        }
    }

    fn id(&self, route: &TlsRoute) -> (Files, Option<String>) {
        (route.files(&self.acme), route.host.clone())
    }

    /// Reads what is not known yet. Only a route that is new is refused for its files: a change of weights, on a way back
    /// say, must not fail for a certificate. What is in use stays in use, whatever its files say now.
    pub(crate) fn admit(&mut self, routes: &[TlsRoute], before: &[TlsRoute]) -> Result<(), String> {
        for route in routes {
            let id = self.id(route);
            if self.known.get(&id).is_some_and(|known| known.loaded.is_some()) {
                continue;
            }
            let stamp = id.0.stamp();
            if route.acme.is_some() && stamp[0].is_none() {
                // Until it is there, the clients see the one that they have seen so far.
                let loaded = self.served_before(route, before);
                self.known.insert(id, Known { loaded, stamp, ..Known::default() });
                continue;
            }
            // One that was asked for and has expired is better than none, until the next is there.
            let time = if route.acme.is_some() { Time::Any } else { Time::MustFit };
            match id.0.load(route.host.as_deref(), time, &self.provider) {
                Ok(loaded) => {
                    let known = Known { loaded: Some(loaded), stamp, ..Known::default() };
                    self.known.insert(id, known);
                }
                // One that was asked for is asked for again.
                Err(_) if route.acme.is_some() => {
                    self.known.insert(id, Known { stamp, ..Known::default() });
                }
                Err(problem) if !before.contains(route) => {
                    let host = route.host.as_deref().unwrap_or("any host");
                    return Err(format!("TLS for {host} on {}: {problem}", route.listen));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn served_before(&self, route: &TlsRoute, before: &[TlsRoute]) -> Option<(Arc<CertifiedKey>, i64)> {
        let same = |other: &&TlsRoute| (other.listen, &other.host) == (route.listen, &route.host);
        self.known.get(&self.id(before.iter().find(same)?))?.loaded.clone()
    }

    /// Reads the certificates of the last worker's table; returns what is wrong. A listener whose certificates are all
    /// unusable refuses its clients: it must not fall back to plain text.
    pub(crate) fn boot(&mut self, table: &Table) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        for (name, service) in &table.services {
            for route in &service.tls {
                let id = self.id(route);
                let mut known = Known { stamp: id.0.stamp(), ..Known::default() };
                match id.0.load(route.host.as_deref(), Time::Any, &self.provider) {
                    Ok(loaded) => known.loaded = Some(loaded),
                    // It has not been had yet.
                    Err(_) if route.acme.is_some() && known.stamp[0].is_none() => {}
                    Err(problem) => {
                        problems.push((name.clone(), problem.clone()));
                        (known.problem, known.told) = (Some(problem), true);
                    }
                }
                self.known.insert(id, known);
            }
        }
        problems
    }

    /// Returns the files of a table's certificates that cannot be read, and why.
    pub(crate) fn unreadable(&self, table: &Table) -> Vec<(String, String)> {
        let read = |route: &TlsRoute| {
            let files = route.files(&self.acme);
            let read = files.load(route.host.as_deref(), Time::Any, &self.provider);
            read.err().map(|why| (files.cert, why))
        };
        table.services.values().flat_map(|service| &service.tls).filter_map(read).collect()
    }

    /// Returns the files of a table's certificates that this worker does without.
    pub(crate) fn lacking(&self, table: &Table) -> Vec<String> {
        let lacks = |route: &TlsRoute| {
            let id = self.id(route);
            let known = self.known.get(&id).is_some_and(|known| known.loaded.is_some());
            (!known).then_some(id.0.cert)
        };
        table.services.values().flat_map(|service| &service.tls).filter_map(lacks).collect()
    }

    /// Looks whether files have changed, once a second; returns whether new certificates are to be used, and the
    /// problems that are to be told.
    pub(crate) fn look(&mut self) -> (bool, Vec<String>) {
        if self.known.is_empty() || self.looked.elapsed() < LOOK_EVERY {
            return (false, Vec::new());
        }
        self.looked = Instant::now();
        let (mut renewed, mut problems) = (false, Vec::new());
        for ((files, host), known) in &mut self.known {
            let stamp = files.stamp();
            if stamp == known.stamp {
                // Certificate and key are seldom replaced in the same moment: told when it is still so at the next look.
                if let Some(problem) =
                    known.problem.as_ref().filter(|_| !std::mem::replace(&mut known.told, true))
                {
                    let instead = match &known.loaded {
                        Some(_) => "the certificate before stays in use",
                        None => "there is no other, its clients are refused",
                    };
                    problems.push(format!("{problem}; {instead}"));
                }
                continue;
            }
            known.stamp = stamp;
            match files.load(host.as_deref(), Time::MustFit, &self.provider) {
                Ok(loaded) => {
                    *known = Known { loaded: Some(loaded), stamp, problem: None, told: false };
                    renewed = true;
                    tracing::info!(cert = files.cert, "certificate renewed");
                }
                Err(problem) => (known.problem, known.told) = (Some(problem), false),
            }
        }
        (renewed, problems)
    }

    /// Returns the configurations of all listeners that speak TLS; those of which nothing changed are the same.
    pub(crate) fn listeners(&mut self, table: &Table) -> Listeners {
        let routes = || table.services.values().flat_map(|service| &service.tls);
        let used: BTreeSet<_> = routes().map(|route| self.id(route)).collect();
        self.known.retain(|id, _| used.contains(id));
        let mut names: HashMap<SocketAddr, Names> = HashMap::new();
        for route in routes() {
            let names = names.entry(route.listen).or_default();
            let loaded = self.known.get(&self.id(route)).and_then(|known| known.loaded.as_ref());
            if let Some((certified, _)) = loaded {
                names.add(route.host.as_deref(), certified);
            }
        }
        self.built.retain(|address, _| names.contains_key(address));
        for (address, names) in names {
            if self.built.get(&address).is_none_or(|(before, _)| *before != names) {
                let config = Arc::new(configure(self.provider.clone(), names.clone()));
                self.built.insert(address, (names, config));
            }
        }
        self.built.iter().map(|(address, (_, config))| (*address, config.clone())).collect()
    }

    /// Returns what is known of a service's certificates.
    pub(crate) fn observe(&self, routes: &[TlsRoute]) -> Vec<CertificateObservation> {
        let seen = |route: &TlsRoute| {
            let id = self.id(route);
            let known = self.known.get(&id);
            CertificateObservation {
                listen: route.listen,
                host: route.host.clone(),
                cert: id.0.cert.clone(),
                not_after: known.and_then(|known| Some(known.loaded.as_ref()?.1)),
                problem: known.and_then(|known| known.problem.clone()),
                acme: None,
            }
        };
        routes.iter().map(seen).collect()
    }
}
