//! What is known of each certificate that is asked for, and what is due.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover_acme::{Asked, Attempt, Authority, Identity, renew_at};

use super::after;
use crate::acme::{AcmeIssuer, AcmeObservation, challenges};
use crate::certificate::{Files, Stamp, first_of};
use crate::store::wall_ms;
use crate::table::Table;
use crate::tls::{CertificateObservation, TlsRoute};
use crate::x509::{identity, validity};

/// Nobody has to wait longer: a week is the longest that limits of authorities are about.
pub(super) const LONGEST_WAIT_MS: u64 = 8 * 86_400_000;
/// When an authority is asked again for a hint that it did not give.
const HINT_FAILED: Duration = Duration::from_secs(6 * 3_600);

/// Who signs, and for which host.
pub(super) type Key = (AcmeIssuer, String);

/// What this worker knows of the certificates that are asked for.
#[derive(Default)]
pub(crate) struct Acme {
    rows: RefCell<BTreeMap<Key, Row>>,
}

pub(super) struct Row {
    /// A service that wants it, to name it in events.
    pub(super) service: String,
    pub(super) asked: Asked,
    certificate: Files,
    pub(super) attempt: Attempt,
    /// What the validity was read from.
    stamp: Stamp,
    pub(super) validity: Option<(i64, i64)>,
    pub(super) under_way: bool,
    pub(super) hint: Hint,
}

/// What the authority says of renewing the certificate (ARI).
#[derive(Default)]
pub(super) struct Hint {
    pub(super) certificate: Option<Identity>,
    pub(super) window: Option<(i64, i64)>,
    /// Not before this is it asked again.
    pub(super) next_ms: u64,
}

impl Row {
    fn new(service: &str, (issuer, host): &Key, base: &Path) -> Self {
        let folder = issuer.folder(base);
        let authority = Authority {
            directory: issuer.directory.clone(),
            email: issuer.email.clone(),
            root: issuer.root.as_ref().map(PathBuf::from),
        };
        let path = issuer.certificate(base, host).display().to_string();
        let asked = Asked { authority, host: host.clone(), folder, challenges: challenges(base) };
        let attempt = Attempt::load(&attempt_file(&asked));
        let certificate = Files { cert: path.clone(), key: path };
        let service = service.to_owned();
        let (stamp, hint) = ([None; 2], Hint::default());
        Self { service, asked, certificate, attempt, stamp, validity: None, under_way: false, hint }
    }

    /// Returns when it is to be asked for, in milliseconds since 1970.
    pub(super) fn due_ms(&self, now_ms: u64) -> u64 {
        if self.attempt.open && self.asked.has_order() {
            // A worker before this one has begun: there is nothing to be ordered, only to be finished.
            return 0;
        }
        let mut hash = DefaultHasher::new();
        (&self.asked.host, self.validity).hash(&mut hash);
        let chance = (hash.finish() >> 11) as f64 / (1_u64 << 53) as f64;
        let renew = self.validity.map_or(0, |life| renew_at(life, self.hint.window, chance));
        // Written down by a clock that was wrong, it must not hold up for ever.
        let next_ms = if self.attempt.next_ms > now_ms + LONGEST_WAIT_MS { 0 } else { self.attempt.next_ms };
        u64::try_from(renew).unwrap_or(0).saturating_mul(1_000).max(next_ms)
    }

    /// Reads the certificate's dates when its file is another one.
    pub(super) fn look(&mut self) {
        let stamp = self.certificate.stamp();
        if stamp != self.stamp {
            let certificate = first_of(&self.certificate.cert);
            self.validity = certificate.as_ref().and_then(|certificate| validity(certificate));
            let known = certificate.as_ref().and_then(|certificate| identity(certificate));
            let known =
                known.map(|(key, serial)| Identity { authority_key: key.into(), serial: serial.into() });
            self.hint = Hint { certificate: known, ..Hint::default() };
            self.stamp = stamp;
        }
    }
}

pub(super) fn attempt_file(asked: &Asked) -> PathBuf {
    asked.folder.join(format!("{}.attempt.json", asked.host))
}

impl Acme {
    /// Follows the table: what left it is asked for no more.
    pub(super) fn follow(&self, table: &Table, base: &Path) {
        let mut rows = self.rows.borrow_mut();
        let mut wanted: BTreeMap<Key, &str> = BTreeMap::new();
        for (name, service) in &table.services {
            for route in &service.tls {
                if let (Some(issuer), Some(host)) = (&route.acme, &route.host) {
                    wanted.insert((issuer.clone(), host.to_ascii_lowercase()), name);
                }
            }
        }
        rows.retain(|key, row| row.under_way || wanted.contains_key(key));
        for (key, service) in wanted {
            rows.entry(key.clone()).or_insert_with(|| Row::new(service, &key, base)).look();
        }
    }

    /// Takes what has been due for the longest time with each authority that is not being asked: one that hangs holds up
    /// its own certificates only.
    pub(super) fn due(&self, now_ms: u64) -> Vec<Key> {
        let mut rows = self.rows.borrow_mut();
        let busy = |rows: &BTreeMap<Key, Row>, issuer: &AcmeIssuer| {
            rows.iter().any(|((other, _), row)| row.under_way && other.directory == issuer.directory)
        };
        let mut due: Vec<(u64, Key)> =
            rows.iter().map(|(key, row)| (row.due_ms(now_ms), key.clone())).collect();
        due.retain(|(due, _)| *due <= now_ms);
        due.sort();
        let mut taken = Vec::new();
        for (_, key) in due {
            if busy(&rows, &key.0) {
                continue;
            }
            if let Some(row) = rows.get_mut(&key) {
                row.under_way = true;
                taken.push(key);
            }
        }
        taken
    }

    /// Takes one certificate whose authority is to be asked when it is to be renewed: a new worker with hundreds of them does
    /// not ask for all at once.
    pub(super) fn unsure(&self, now_ms: u64) -> Option<(Key, Asked, Identity)> {
        let mut rows = self.rows.borrow_mut();
        let mut unsure = rows.iter_mut().filter(|(_, row)| !row.under_way && row.hint.next_ms <= now_ms);
        let take = |(key, row): (&Key, &mut Row)| {
            let certificate = row.hint.certificate.clone()?;
            row.hint.next_ms = after(HINT_FAILED);
            Some((key.clone(), row.asked.clone(), certificate))
        };
        unsure.find_map(take)
    }

    /// Completes what is seen of a service's certificates.
    pub(crate) fn tell(&self, routes: &[TlsRoute], seen: &mut [CertificateObservation]) {
        let rows = self.rows.borrow();
        for (route, seen) in routes.iter().zip(seen) {
            let (Some(issuer), Some(host)) = (&route.acme, &route.host) else { continue };
            let row = rows.get(&(issuer.clone(), host.to_ascii_lowercase()));
            seen.acme = Some(AcmeObservation {
                directory: issuer.directory.clone(),
                under_way: row.is_some_and(|row| row.under_way),
                failures: row.map_or(0, |row| row.attempt.failures),
                next_ms: row.map(|row| row.due_ms(wall_ms())),
            });
            if let Some(problem) = row.and_then(|row| row.attempt.problem.clone()) {
                seen.problem = Some(problem);
            }
        }
    }

    pub(super) fn change<T>(&self, key: &Key, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        self.rows.borrow_mut().get_mut(key).map(change)
    }
}
