//! An ACME server for tests: RFC 8555 as it is written, with HTTP-01 really fetched, and faults on demand.
//!
//! It checks what an authority checks: nonces, signatures, addresses, states, the names in a request. What it is lenient
//! about is named where it is.

#![allow(clippy::unwrap_used, reason = "for tests only: a server that breaks fails them")]

mod account;
mod book;
mod faults;
mod http;
mod jws;
mod order;
mod problem;
mod renewal;
mod sign;
mod validate;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub use faults::{Fault, Place};

use book::Book;
use sign::Signer;

/// How the server behaves; changed while it runs.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Where each name leads, as DNS would say; others do not exist.
    pub names: HashMap<String, SocketAddr>,
    /// How long it takes to look at a challenge.
    pub validation_lag: Duration,
    /// How long it takes to sign.
    pub signing_lag: Duration,
    /// How many seconds ago a certificate began to be valid, and for how many more it is.
    pub life: (u64, u64),
    /// When certificates are to be renewed (RFC 9773), in seconds from now; none: it does not say.
    pub renewal: Option<(i64, i64)>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            validation_lag: Duration::ZERO,
            signing_lag: Duration::ZERO,
            life: (3_600, 90 * 86_400),
            renewal: None,
        }
    }
}

/// What the server has seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Accounts that it has made.
    pub accounts: usize,
    /// Orders that it has made.
    pub orders: usize,
    /// Challenges that it was told to look at.
    pub told: usize,
    /// Challenges that it has looked at.
    pub looked: usize,
    /// Certificates that it has signed.
    pub signed: usize,
    /// Questions when to renew a certificate that it has signed.
    pub renewals: usize,
    /// Contacts of the accounts.
    pub contacts: Vec<String>,
    /// Problems that it has answered with, by type; injected ones among them.
    pub problems: Vec<String>,
}

/// A running server; ends with this handle.
#[derive(Debug)]
pub struct AcmeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Dropped with the handle: the thread then ends.
    _stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) base: String,
    pub(crate) book: Mutex<Book>,
    pub(crate) faults: Mutex<Vec<(Place, Fault)>>,
    pub(crate) behaviour: Mutex<Behaviour>,
    pub(crate) signer: Signer,
}

impl AcmeServer {
    /// Starts a server on a free port of loopback, with a thread of its own.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            base: format!("https://{address}"),
            book: Mutex::default(),
            faults: Mutex::default(),
            behaviour: Mutex::default(),
            signer: Signer::new(),
        });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let own = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = http::serve(listener, own) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, shared, _stop: stop }
    }

    /// Returns the address of its directory.
    pub fn directory(&self) -> String {
        format!("{}/directory", self.shared.base)
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the root certificate, PEM: of its own HTTPS, and of all that it signs.
    pub fn root_pem(&self) -> String {
        self.shared.signer.root_pem()
    }

    /// Returns the root certificate, DER.
    pub fn root_der(&self) -> Vec<u8> {
        self.shared.signer.root_der()
    }

    /// Lets a name lead to an address.
    pub fn resolve(&self, host: &str, address: SocketAddr) {
        self.change(|behaviour| {
            behaviour.names.insert(host.to_owned(), address);
        });
    }

    /// Changes how it behaves from now on.
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour.lock().unwrap());
    }

    /// Lets the next request to a place fail; several of one place happen one after the other.
    pub fn fault(&self, place: Place, fault: Fault) {
        self.shared.faults.lock().unwrap().push((place, fault));
    }

    /// Returns how many faults have not happened yet.
    pub fn faults_left(&self) -> usize {
        self.shared.faults.lock().unwrap().len()
    }

    /// Lets everything work again.
    pub fn clear_faults(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    /// Lets it forget all accounts and orders, as a test authority that is started anew.
    pub fn forget_everything(&self) {
        self.shared.book().forget();
    }

    /// Returns what it has seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.book().seen.clone()
    }
}

impl Shared {
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(crate) fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().unwrap().clone()
    }
}
