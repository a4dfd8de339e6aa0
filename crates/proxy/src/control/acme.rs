//! Asks for certificates: once for the whole worker, never beside another worker, and never more often than is good.

mod rows;

use std::fs::{self, File};
use std::rc::Rc;
use std::time::Duration;

use cutover_acme::{Alone, Asked, Attempt, Begin, Identity, pause, store_private};
use rustls::crypto::CryptoProvider;

pub(crate) use self::rows::Acme;
use self::rows::{Key, LONGEST_WAIT_MS, attempt_file};
use super::Control;
use crate::certificate::{Files, Time};
use crate::protocol::EventKind;
use crate::store::wall_ms;
use crate::worker::Worker;

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How soon an attempt notices that a successor takes over.
const NOTICE: Duration = Duration::from_millis(20);

/// How long a hint of the authority is believed at most.
const HINT_AGAIN: Duration = Duration::from_secs(24 * 3_600);

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
            if let Some((key, asked, certificate)) = self.acme.unsure(wall_ms()) {
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
