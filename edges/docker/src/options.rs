//! What can be set of the docker platform; the defaults are what people get.

use std::time::Duration;

use crate::image::{Credentials, Retry};

/// How the docker platform looks after its containers.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often what runs is compared with what was asked for, where no event of the engine says to look.
    pub upkeep_every: Duration,
    /// The pause before a container that somebody stopped, or that could not be started, is started again; doubled each
    /// time.
    pub start_first: Duration,
    /// The longest such pause.
    pub start_longest: Duration,
    /// Disk space that preflight wants to be left where the engine keeps its data, in bytes.
    pub reserve_bytes: u64,
    /// The engine runs on another host: its files, ports and processes are not those of this machine.
    pub elsewhere: bool,
    /// How one logs in at registries.
    pub credentials: Credentials,
    /// How often registries are asked.
    pub retry: Retry,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            upkeep_every: Duration::from_secs(10),
            start_first: Duration::from_millis(500),
            start_longest: Duration::from_secs(30),
            reserve_bytes: 256 << 20,
            elsewhere: false,
            credentials: Credentials::of_environment(),
            retry: Retry::default(),
        }
    }
}
