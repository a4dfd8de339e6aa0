//! One module per concern, and what they share.

mod adoption;
mod harness;
mod instances;
mod limits;
mod preflight;
mod processes;
mod revisions;
mod server_death;
mod vouch;
