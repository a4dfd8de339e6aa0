//! What one thread knows about a service. Single-threaded, kept as long as the service is in the table.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::Request;

use crate::access::{Entry, ServiceLog};
use crate::clients::{Guest, forwarded_for};
use crate::compiled::{Compiled, CompiledService};
use crate::limits::{Limits, content_length};
use crate::refusal::Refusal;
use crate::retries::{Retries, RetryWindow};
use crate::room::ServiceRoom;
use crate::route::Wish;
use crate::traffic::Traffic;
use crate::upload::Watched;

/// One service.
#[derive(Debug)]
pub(crate) struct ServiceCell {
    pub(crate) name: Arc<str>,
    pub(crate) room: RefCell<Arc<ServiceRoom>>,
    pub(crate) limits: RefCell<Arc<Limits>>,
    log: RefCell<Option<Arc<ServiceLog>>>,
    retries: Cell<Retries>,
    retried: RetryWindow,
}

impl ServiceCell {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            room: RefCell::default(),
            limits: RefCell::default(),
            log: RefCell::default(),
            retries: Cell::default(),
            retried: RetryWindow::new(Instant::now()),
        }
    }

    fn follow(&self, service: &CompiledService) {
        self.retries.set(service.retries);
        self.limits.borrow_mut().clone_from(&service.limits);
        self.room.borrow_mut().clone_from(&service.room);
        self.log.borrow_mut().clone_from(&service.log);
    }

    /// Returns what keeps a request, if an operator does. Who pins a revision is trying it and passes always; what was
    /// on its way already goes on.
    pub(crate) fn kept(&self, wish: &Wish) -> Option<Arc<Traffic>> {
        if wish.pinned.is_some() || !wish.tried.is_empty() {
            return None;
        }
        let kept = self.room.borrow().kept()?;
        (!(wish.passed && matches!(*kept, Traffic::Flow { .. }))).then_some(kept)
    }

    /// Looks whether the service takes such a request of such a client.
    pub(crate) fn admit<B>(
        &self,
        request: &Request<B>,
        peer: IpAddr,
        trust_forwarded: bool,
    ) -> Result<Option<Guest>, Refusal> {
        let limits = self.limits.borrow();
        if limits.headers.is_some_and(|limit| limit.is_exceeded(request.headers())) {
            return Err(Refusal::of("headers-too-large"));
        }
        if let Some(most) = limits.body
            && content_length(request.headers()).is_some_and(|length| length > most)
        {
            return Err(Refusal::of("body-too-large"));
        }
        let Some(limit) = limits.per_client else { return Ok(None) };
        let forwarded = trust_forwarded.then(|| forwarded_for(request.headers())).flatten();
        let client = forwarded.unwrap_or(peer);
        let clients = self.room.borrow().clients.clone();
        clients.enter(client, limit, Instant::now()).map_err(Refusal::of)
    }

    /// Begins an entry of the access log, if there is one and the request is in its sample.
    pub(crate) fn log<B>(&self, request: &Request<B>, client: IpAddr) -> Option<Box<Entry>> {
        self.log.borrow().as_ref()?.begin(request, client)
    }

    /// Returns what watches a request body, if anything does.
    pub(crate) fn watch_upload(&self) -> Option<Box<Watched>> {
        let limits = self.limits.borrow();
        Watched::new(limits.body, limits.upload)
    }

    /// Counts a request of a client.
    pub(crate) fn request(&self, now: Instant) {
        self.retried.request(now);
    }

    /// Tells whether a request that a target may have seen is sent again; if so, the budget has one less.
    pub(crate) fn may_retry(&self) -> bool {
        self.retried.take(Instant::now(), self.retries.get())
    }
}

/// Returns the cells of a table, in its order; who was there before keeps its own.
pub(crate) fn follow(before: &[Rc<ServiceCell>], compiled: &Compiled) -> Vec<Rc<ServiceCell>> {
    let cell = |service: &CompiledService| {
        let known = before.iter().find(|cell| cell.name == service.name).cloned();
        let cell = known.unwrap_or_else(|| Rc::new(ServiceCell::new(service.name.clone())));
        cell.follow(service);
        cell
    };
    compiled.services.iter().map(cell).collect()
}
