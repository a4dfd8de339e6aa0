//! The server: engine, local instances, and the socket that the command line talks to.

mod api;
mod client;
#[cfg(debug_assertions)]
mod failpoint;
#[cfg(feature = "docker")]
mod hosts;
pub(crate) mod install;
mod lock;
mod metrics;
mod place;
#[cfg(feature = "docker")]
mod platforms;
pub(crate) mod protocol;
mod proxy;
#[cfg(feature = "docker")]
mod routers;
mod run;
mod units;

pub(crate) use client::Client;
pub(crate) use place::warning as cgroup_warning;

/// Returns the pid of the server that works on the state folder; none where none does.
pub(crate) fn owner(state: &crate::state::StateDir) -> Option<i32> {
    lock::ServerLock::owner(state)
}

pub(crate) use proxy::{own as proxy_failure, run_holder, run_worker, stop as stop_proxy};
pub(crate) use run::{run, stop};
