//! What one thread knows about revisions, targets and arms. Single-threaded: no atomics on the request path.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::count::{Arm, Counts};
use crate::multiplex::{LastFailure, MAX_STREAMS, Shared};
use crate::pool::{Idle, Needs};
use crate::room::{Slot, Slots, TrackRoom};
use crate::trust::{Balance, Trust};

/// One revision of a service.
#[derive(Debug)]
pub(crate) struct RevisionCell {
    pub(crate) service: Arc<str>,
    pub(crate) revision: Arc<str>,
    pub(crate) in_flight: Cell<u64>,
    /// The whole revision is being drained: nothing new is claimed for it, not even by a pin.
    pub(crate) draining: Cell<bool>,
    pub(crate) weighted: Cell<bool>,
    pub(crate) balance: Cell<Balance>,
}

impl RevisionCell {
    pub(crate) fn new(service: Arc<str>, revision: Arc<str>) -> Self {
        Self {
            service,
            revision,
            in_flight: Cell::new(0),
            draining: Cell::new(false),
            weighted: Cell::new(false),
            balance: Cell::new(Balance::default()),
        }
    }
}

/// One target of a revision, with its kept connections.
#[derive(Debug)]
pub(crate) struct TargetCell {
    pub(crate) address: SocketAddr,
    pub(crate) revision: Rc<RevisionCell>,
    pub(crate) in_flight: Cell<u64>,
    pub(crate) idle: RefCell<Vec<Idle>>,
    /// It is spoken to in HTTP/2, on these connections.
    pub(crate) http2: Cell<bool>,
    pub(crate) shared: RefCell<Vec<Rc<Shared>>>,
    /// Streams that it allows on one of them, as far as it is known.
    pub(crate) most_streams: Cell<usize>,
    /// Held by whoever opens one of them.
    pub(crate) connecting: tokio::sync::Mutex<LastFailure>,
    /// Open connections that are not upgraded.
    pub(crate) open: RefCell<HashMap<u64, Rc<ConnState>>>,
    /// Upgraded connections; the notification asks for the close.
    pub(crate) tunnels: RefCell<HashMap<u64, Rc<Notify>>>,
    /// Responses with server-sent events; the notification asks for the end.
    pub(crate) event_streams: RefCell<HashMap<u64, Rc<Notify>>>,
    /// Not in the table any more: keep no connection.
    pub(crate) gone: Cell<bool>,
    /// The deadline of a drain passed: what fails now was cut by us.
    pub(crate) cutting: Cell<bool>,
    pub(crate) cut: Cell<u64>,
    pub(crate) closed_tunnels: Cell<u64>,
    /// Shared by all targets of the thread: woken when something that a drain waits for may have happened.
    changed: Rc<Notify>,
    pub(crate) trust: Trust,
    /// Its places, where they are limited.
    pub(crate) places: RefCell<Option<Places>>,
    /// Has not answered since the worker's boot.
    pub(crate) unverified: Cell<bool>,
    /// Failed its checks.
    pub(crate) down: Cell<bool>,
    /// Was seen to keep an idle connection open for a while.
    pub(crate) keeps: Cell<bool>,
    /// Closes idle connections without saying so beforehand.
    pub(crate) closes_silently: Cell<bool>,
}

impl TargetCell {
    pub(crate) fn new(address: SocketAddr, revision: Rc<RevisionCell>, changed: Rc<Notify>) -> Self {
        Self {
            address,
            revision,
            in_flight: Cell::new(0),
            idle: RefCell::default(),
            http2: Cell::new(false),
            shared: RefCell::default(),
            most_streams: Cell::new(MAX_STREAMS),
            connecting: tokio::sync::Mutex::new(None),
            open: RefCell::default(),
            tunnels: RefCell::default(),
            event_streams: RefCell::default(),
            gone: Cell::new(false),
            cutting: Cell::new(false),
            cut: Cell::new(0),
            closed_tunnels: Cell::new(0),
            changed,
            trust: Trust::default(),
            places: RefCell::default(),
            unverified: Cell::new(false),
            down: Cell::new(false),
            keeps: Cell::new(false),
            closes_silently: Cell::new(false),
        }
    }

    /// Tells whether it has as many requests as it may.
    pub(crate) fn is_full(&self) -> bool {
        self.places.borrow().as_ref().is_some_and(|places| places.slots.is_full(places.limit))
    }

    /// Takes a place, where they are limited; an error when there is none.
    pub(crate) fn take_slot(&self) -> Result<Option<Slot>, ()> {
        match &*self.places.borrow() {
            None => Ok(None),
            Some(places) => places.slots.take(places.limit, &places.track).map(Some).ok_or(()),
        }
    }

    /// Tells whether the target is asked only when the others of its track are no better.
    pub(crate) fn is_suspect(&self, now: Instant) -> bool {
        self.unverified.get() || self.down.get() || self.trust.is_ejected(now)
    }

    /// Takes no new requests: its revision is drained, or it left the table. Returned connections are closed.
    pub(crate) fn leaves(&self) -> bool {
        self.gone.get() || self.revision.draining.get()
    }

    /// Tells whether nothing is in flight to it and no connection to it is open.
    pub(crate) fn is_drained(&self) -> bool {
        self.in_flight.get() == 0 && self.open.borrow().is_empty() && self.tunnels.borrow().is_empty()
    }

    pub(crate) fn wake_drain(&self) {
        if self.leaves() {
            self.changed.notify_waiters();
        }
    }

    /// Tells whether a request shares a connection with others.
    pub(crate) fn multiplexes(&self, needs: Needs) -> bool {
        self.http2.get() && !needs.own
    }

    /// Closes what is idle; what is shared ends with its last stream.
    pub(crate) fn purge(&self) {
        self.shared.borrow_mut().clear();
        for idle in self.idle.borrow_mut().drain(..) {
            idle.retire();
        }
    }
}

/// How many requests a target may have, over all threads.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) slots: Arc<Slots>,
    pub(crate) track: Arc<TrackRoom>,
    pub(crate) limit: u32,
}

/// State of one connection to a target, shared by its task and its user.
#[derive(Debug)]
pub(crate) struct ConnState {
    /// A second descriptor of the socket, to look at it or shut it down while hyper owns the first.
    pub(crate) socket: OwnedFd,
    pub(crate) idle: Cell<bool>,
    pub(crate) killed: Cell<bool>,
}

impl ConnState {
    pub(crate) fn new(stream: &TcpStream) -> io::Result<Self> {
        let socket = rustix::io::fcntl_dupfd_cloexec(stream, 3)?;
        Ok(Self { socket, idle: Cell::new(false), killed: Cell::new(false) })
    }

    /// Cuts the connection; hyper then sees the end of its stream.
    pub(crate) fn kill(&self) {
        self.killed.set(true);
        // The peer may be faster; then there is nothing left to shut down.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Tells whether an idle connection is silent and open, as the kernel knows it now.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0_u8; 1];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.socket, &mut byte[..], flags), Err(rustix::io::Errno::AGAIN))
    }
}

/// Which arm a counter belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ArmKey {
    pub(crate) service: Arc<str>,
    pub(crate) revision: Arc<str>,
    pub(crate) release: Option<Arc<str>>,
    pub(crate) arm: Arm,
}

/// Counters of one arm on one thread.
#[derive(Debug)]
pub(crate) struct ArmCell {
    pub(crate) arm: Arm,
    pub(crate) counts: RefCell<Counts>,
}
