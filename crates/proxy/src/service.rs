//! What one thread knows about a service. Single-threaded, kept as long as the service is in the table.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::compiled::{Compiled, CompiledService};
use crate::retries::{Retries, RetryWindow};

/// One service.
#[derive(Debug)]
pub(crate) struct ServiceCell {
    pub(crate) name: Arc<str>,
    retries: Cell<Retries>,
    retried: RetryWindow,
}

impl ServiceCell {
    fn new(name: Arc<str>) -> Self {
        Self { name, retries: Cell::default(), retried: RetryWindow::new(Instant::now()) }
    }

    fn follow(&self, service: &CompiledService) {
        self.retries.set(service.retries);
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
