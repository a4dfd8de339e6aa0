//! Health checks: questions asked of one instance over the network until it passes or its time is over.

mod checker;
mod command;
mod gate;
mod http;
mod tcp;
mod tries;

pub use checker::NetworkChecker;
