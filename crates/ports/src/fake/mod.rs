//! Edges in memory: they obey the contracts, fail as planned, and note what would have hurt a user.
//!
//! All three act on one [`World`]. Time is tokio's, so tests may pause it.

mod checker;
mod platform;
mod router;
mod staff;
mod state;
mod world;

pub use checker::FakeChecker;
pub use platform::FakePlatform;
pub use router::FakeRouter;
pub use world::{Behavior, Call, Called, LEASE, Mishap, World};
