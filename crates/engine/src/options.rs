//! What can be set of the engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutover_sources::{OwnSources, Sources};

use crate::clock::{Clock, SystemClock};
use crate::witness::{Nobody, Witness};

/// How the engine drives.
#[derive(Clone)]
pub struct EngineOptions {
    /// The driver, as shown to people: host and process.
    pub owner: String,
    /// How long a driver's lease on a service holds; it is renewed three times in that.
    pub lease: Duration,
    /// No other engine can be alive on this store: the caller holds a lock that proves it. Leases of others are
    /// then taken over at once, instead of when they are over. Fencing holds even if the claim is wrong.
    pub sole: bool,
    /// How long effects may take.
    pub timeouts: Timeouts,
    /// The folder for the output of gates.
    pub gate_logs: PathBuf,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// What makes the sources of metrics and counters that a release file names.
    pub sources: Arc<dyn Sources>,
    /// Who is told what happens.
    pub witness: Arc<dyn Witness>,
}

impl EngineOptions {
    /// Makes the options that people get, for a driver of that name.
    pub fn new(owner: impl Into<String>) -> Self {
        EngineOptions {
            owner: owner.into(),
            lease: Duration::from_secs(15),
            sole: false,
            timeouts: Timeouts::default(),
            gate_logs: std::env::temp_dir().join("cutover-gates"),
            clock: Arc::new(SystemClock::new()),
            sources: Arc::new(OwnSources),
            witness: Arc::new(Nobody),
        }
    }
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions::new(format!("process {}", std::process::id()))
    }
}

/// How long effects may take. After that the answer counts as lost, and the effect is repeated.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// A call that only looks.
    pub look: Duration,
    /// Preflight.
    pub preflight: Duration,
    /// Build: copying the artifact.
    pub build: Duration,
    /// Provision: starting the instances, without waiting for them.
    pub provision: Duration,
    /// Check: beyond the file's `checks.within`.
    pub check_beyond: Duration,
    /// Shift and settle.
    pub shift: Duration,
    /// Drain: beyond the file's `drain`.
    pub drain_beyond: Duration,
    /// Retire: beyond the file's `stop_grace`.
    pub retire_beyond: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Timeouts {
            look: secs(5),
            preflight: secs(30),
            build: secs(900),
            provision: secs(60),
            check_beyond: secs(15),
            shift: secs(30),
            drain_beyond: secs(15),
            retire_beyond: secs(60),
        }
    }
}
