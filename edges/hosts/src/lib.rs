//! Several hosts as one platform and one router: each call is made on all of them at once, and has one answer.

mod answers;
mod hosts;
mod merge;
mod platform;
mod router;
mod ssh;
mod view;

pub use hosts::{Direct, Hosts, Member, Patience, Reach};
pub use merge::Merge;
pub use platform::HostsPlatform;
pub use router::HostsRouter;
pub use ssh::{Forwards, Ssh};
