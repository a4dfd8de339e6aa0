//! Checks: health questions asked of one instance until it passes or its time is over, and smoke tests tried once.

mod checker;
mod command;
mod gate;
mod grpc;
mod http;
mod reach;
mod smoke;
mod tries;

pub use checker::NetworkChecker;
