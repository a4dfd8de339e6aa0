//! Health checks: questions asked of one instance over the network until it passes or its time is over.

mod checker;
mod command;
mod gate;
mod http;
mod http2;
mod tcp;
mod tries;

pub use checker::NetworkChecker;
