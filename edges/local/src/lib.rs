//! The local platform: revisions copied into the state folder, instances as processes of this machine.

mod cgroup;
mod diag;
mod launch;
mod logs;
mod losses;
mod options;
mod platform;
mod ports;
mod preflight;
mod process;
mod record;
mod seen;
mod session;
mod sockets;
mod staff;
mod stop;
mod store;
mod supervise;
mod tree;
mod upkeep;
mod user;
mod vouch;

pub(crate) use cutover_keep::disk;

pub use cgroup::{leave, shared_with, tidy};
pub use options::Options;
pub use platform::LocalPlatform;
