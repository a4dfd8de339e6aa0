//! Asks for certificates: once for the whole worker, never beside another worker, and never more often than is good.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use cutover_acme::{Alone, Asked, Attempt, Authority, Begin, Identity, pause, renew_at, store_private};
use rustls::crypto::CryptoProvider;

use super::Control;
use crate::acme::{AcmeIssuer, AcmeObservation, challenges};
use crate::certificate::{Files, Stamp, Time, first_of};
use crate::protocol::EventKind;
use crate::store::wall_ms;
use crate::table::Table;
use crate::tls::{CertificateObservation, TlsRoute};
use crate::worker::Worker;
use crate::x509::{identity, validity};

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How soon an attempt notices that a successor takes over.
const NOTICE: Duration = Duration::from_millis(20);

/// Nobody has to wait longer: a week is the longest that limits of authorities are about.
const LONGEST_WAIT_MS: u64 = 8 * 86_400_000;

/// How long a hint of the authority is believed at most.
const HINT_AGAIN: Duration = Duration::from_secs(24 * 3_600);
/// When it is asked again if it did not answer.
const HINT_FAILED: Duration = Duration::from_secs(6 * 3_600);

/// Who signs, and for which host.
type Key = (AcmeIssuer, String);

/// What this worker knows of the certificates that are asked for.
#[derive(Default)]
pub(crate) struct Acme {
    rows: RefCell<BTreeMap<Key, Row>>,
}

struct Row {
    /// A service that wants it, to name it in events.
    service: String,
    asked: Asked,
    certificate: Files,
    attempt: Attempt,
    /// What the validity was read from.
    stamp: Stamp,
    validity: Option<(i64, i64)>,
    under_way: bool,
    hint: Hint,
}

/// What the authority says of renewing the certificate (ARI).
#[derive(Default)]
struct Hint {
    certificate: Option<Identity>,
    window: Option<(i64, i64)>,
    /// Not before this is it asked again.
    next_ms: u64,
}

impl Row {
    fn new(service: &str, (issuer, host): &Key, base: &std::path::Path) -> Self {
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
    fn due_ms(&self, now_ms: u64) -> u64 {
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
    fn look(&mut self) {
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

fn attempt_file(asked: &Asked) -> PathBuf {
    asked.folder.join(format!("{}.attempt.json", asked.host))
}

impl Acme {
    /// Follows the table: what left it is asked for no more.
    fn follow(&self, table: &Table, base: &std::path::Path) {
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
    fn due(&self, now_ms: u64) -> Vec<Key> {
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

    /// Takes the certificates whose authority is to be asked when they are to be renewed.
    fn unsure(&self, now_ms: u64) -> Vec<(Key, Asked, Identity)> {
        let mut rows = self.rows.borrow_mut();
        let unsure = rows.iter_mut().filter(|(_, row)| !row.under_way && row.hint.next_ms <= now_ms);
        let take = |(key, row): (&Key, &mut Row)| {
            let certificate = row.hint.certificate.clone()?;
            row.hint.next_ms = after(HINT_FAILED);
            Some((key.clone(), row.asked.clone(), certificate))
        };
        unsure.filter_map(take).collect()
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

    fn change<T>(&self, key: &Key, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        self.rows.borrow_mut().get_mut(key).map(change)
    }
}

impl Control {
    /// Asks for whatever is due, of each authority one certificate at a time, until the worker ends.
    pub(crate) async fn watch_acme(self: Rc<Self>, worker: Rc<Worker>) {
        let base = self.store.acme();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if worker.handing_over.get() {
                continue;
            }
            self.acme.follow(&self.state.borrow().stored.table, &base);
            for key in self.acme.due(wall_ms()) {
                // Not joined: it ends by itself, or with the process, and lies on disk either way.
                tokio::task::spawn_local(self.clone().attempt_alone(key, worker.clone()));
            }
            for (key, asked, certificate) in self.acme.unsure(wall_ms()) {
                tokio::task::spawn_local(self.clone().ask_for_hint(key, asked, certificate));
            }
        }
    }

    /// Asks when a certificate is to be renewed. A failure changes nothing: a third of its life is reason enough.
    async fn ask_for_hint(self: Rc<Self>, key: Key, asked: Asked, certificate: Identity) {
        match asked.suggested(&certificate).await {
            Ok(said) => drop(self.acme.change(&key, |row| {
                // It may have been renewed meanwhile.
                if row.hint.certificate.as_ref() == Some(&certificate) {
                    row.hint.window = said.window;
                    row.hint.next_ms = after(said.again_after.clamp(pause(1), HINT_AGAIN));
                }
            })),
            Err(error) => tracing::warn!(host = key.1, %error, "authority does not say when to renew"),
        }
    }

    /// Makes one attempt, unless another worker is at it: one that takes long to notice its successor, say.
    async fn attempt_alone(self: Rc<Self>, key: Key, worker: Rc<Worker>) {
        let folder = key.0.folder(&self.store.acme());
        match Alone::take(&folder) {
            Ok(Some(_alone)) => tokio::select! {
                biased;
                // The order lies on disk: the successor takes it up.
                () = handed_over(&worker) => {}
                () = self.attempt(&key) => {}
            },
            Ok(None) => {}
            Err(error) => {
                self.attempt_failed(&key, &format!("cannot lock {}: {error}", folder.display()), None);
            }
        }
        self.acme.change(&key, |row| row.under_way = false);
    }

    /// Makes one attempt. It is written down before: a worker that dies here again and again does not order each time.
    async fn attempt(&self, key: &Key) {
        // Whoever had the lock before may have written more than this worker has read.
        let begun = self.acme.change(key, |row| {
            row.attempt = Attempt::load(&attempt_file(&row.asked));
            row.look();
            if row.due_ms(wall_ms()) > wall_ms() {
                return None;
            }
            let begin =
                if row.attempt.open && row.asked.has_order() { Begin::Never } else { Begin::IfNeeded };
            if begin == Begin::IfNeeded {
                row.attempt.failures = row.attempt.failures.saturating_add(1);
            }
            row.attempt.open = true;
            row.attempt.next_ms = after(pause(row.attempt.failures));
            Some((begin, row.asked.clone(), row.attempt.clone()))
        });
        let Some(Some((begin, asked, attempt))) = begun else { return };
        if let Err(error) = attempt.store(&attempt_file(&asked)) {
            let text =
                format!("cannot write below {}: {error}; let the proxy's user do so", asked.folder.display());
            return self.attempt_failed(key, &text, None);
        }
        tracing::info!(host = asked.host, directory = asked.authority.directory, "certificate is asked for");
        let obtained = asked.obtain(begin).await;
        let stored = match obtained {
            Ok(pem) => self.take_into_use(key, &asked, &pem),
            Err(error) => return self.attempt_failed(key, &error.to_string(), error.again_after()),
        };
        match stored {
            Ok(()) => self.attempt_succeeded(key),
            Err(text) => self.attempt_failed(key, &text, None),
        }
    }

    /// Looks at what the authority sent, and puts it in the place of the certificate before. The threads get it like any
    /// other file that was renewed.
    fn take_into_use(&self, key: &Key, asked: &Asked, pem: &str) -> Result<(), String> {
        let path = key.0.certificate(&self.store.acme(), &key.1);
        let aside = path.with_extension("candidate").display().to_string();
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        store_private(aside.as_ref(), pem.as_bytes()).map_err(failed)?;
        let provider: CryptoProvider = rustls::crypto::ring::default_provider();
        let files = Files { cert: aside.clone(), key: aside.clone() };
        if let Err(why) = files.load(Some(&key.1), Time::MustFit, &provider) {
            // The same order would bring the same certificate.
            let _ = asked.forget_order();
            return Err(format!("the authority sent what cannot be used: {why}"));
        }
        fs::rename(&aside, &path).map_err(failed)?;
        if let Some(folder) = path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        asked.forget_order().map_err(failed)
    }

    fn attempt_succeeded(&self, key: &Key) {
        self.acme.change(key, |row| {
            // A certificate that is to be renewed at once, one of a minute say, must not make a loop.
            row.attempt = Attempt { next_ms: after(pause(1)), ..Attempt::default() };
            if let Err(error) = row.attempt.store(&attempt_file(&row.asked)) {
                tracing::error!(%error, "the end of an attempt cannot be written down");
            }
            row.look();
        });
        tracing::info!(host = key.1, directory = key.0.directory, "certificate obtained");
    }

    fn attempt_failed(&self, key: &Key, why: &str, again_after: Option<Duration>) {
        let told = self.acme.change(key, |row| {
            let asked = again_after.unwrap_or_default().min(Duration::from_millis(LONGEST_WAIT_MS));
            let wait = pause(row.attempt.failures).max(asked);
            (row.attempt.open, row.attempt.next_ms) = (false, after(wait));
            let text = format!("{why}; asked again in {}", span(wait));
            row.attempt.problem = Some(text.clone());
            if let Err(error) = row.attempt.store(&attempt_file(&row.asked)) {
                tracing::error!(%error, "the end of an attempt cannot be written down");
            }
            let instead = match row.validity {
                Some(_) => "the certificate before stays in use",
                None => "there is none yet, its clients are refused",
            };
            (row.service.clone(), format!("{text}; {instead}"))
        });
        if let Some((service, text)) = told {
            tracing::error!(host = key.1, why = text, "certificate could not be had");
            self.note(Some(&service), EventKind::Alert, text, None);
        }
    }
}

async fn handed_over(worker: &Worker) {
    while !worker.handing_over.get() {
        tokio::time::sleep(NOTICE).await;
    }
}

fn after(wait: Duration) -> u64 {
    wall_ms().saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

/// Returns a time span as people say it.
fn span(wait: Duration) -> String {
    match wait.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}
