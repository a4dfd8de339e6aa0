//! The engine over fakes, on paused time: no test sleeps to wait.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod commands;
mod faults;
mod harness;
mod killed;
mod loads;
mod metrics;
mod processes;
mod releases;
mod store;
mod strategies;
mod takeover;
