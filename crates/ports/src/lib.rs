//! What cutover asks of the outside: traits that the edges implement, in-memory fakes, and the conformance suite.

mod check;
pub mod conformance;
pub mod fake;
mod platform;
mod router;

pub use check::{CheckRequest, CheckedInstance, CheckedRoute, CheckedTls, Checker, GateRequest, LoadRequest};
pub use platform::{
    InstanceState, ObservedInstance, ObservedProcess, ObservedRevision, ObservedWorker, Platform,
    RevisionSpec, Secret,
};
pub use router::{FailingTarget, LeaseSupport, Router, RouterView, Target, TrackView, Trip};

use std::sync::Arc;

/// The edges that one service's releases act through.
#[derive(Clone)]
pub struct Edges {
    /// Runs instances.
    pub platform: Arc<dyn Platform>,
    /// Moves traffic.
    pub router: Arc<dyn Router>,
    /// Asks questions over the network.
    pub checker: Arc<dyn Checker>,
}
