//! The engine: keeps the journal, drives releases over the edges, and takes over what a dead driver left.

mod begin;
mod clock;
mod destroy;
mod driver;
mod effects;
mod engine;
mod error;
mod lease;
mod live;
mod options;
mod pointers;
mod revisions;
mod service;
mod staff;
pub mod store;
mod sync;
mod trips;
mod util;
mod view;
mod witness;

pub use begin::{DeployRequest, Started};
pub use clock::{Clock, FakeClock, Reading, SystemClock};
pub use engine::Engine;
pub use error::{EngineError, EngineErrorKind};
pub use options::{EngineOptions, Timeouts};
pub use store::Store;
pub use view::{CurrentState, ReleaseSummary, ServiceState, TailState};
pub use witness::{Happened, Witness};
