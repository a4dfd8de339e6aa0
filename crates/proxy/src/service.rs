//! What one thread knows about a service. Single-threaded, kept as long as the service is in the table.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::compiled::{Compiled, CompiledService};
use crate::limits::Limits;
use crate::retries::{Retries, RetryWindow};
use crate::room::ServiceRoom;
use crate::route::Wish;
use crate::traffic::Traffic;

/// One service.
#[derive(Debug)]
pub(crate) struct ServiceCell {
    pub(crate) name: Arc<str>,
    pub(crate) room: RefCell<Arc<ServiceRoom>>,
    pub(crate) limits: RefCell<Arc<Limits>>,
    retries: Cell<Retries>,
    retried: RetryWindow,
}

impl ServiceCell {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            room: RefCell::default(),
            limits: RefCell::default(),
            retries: Cell::default(),
            retried: RetryWindow::new(Instant::now()),
        }
    }

    fn follow(&self, service: &CompiledService) {
        self.retries.set(service.retries);
        self.limits.borrow_mut().clone_from(&service.limits);
        self.room.borrow_mut().clone_from(&service.room);
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
