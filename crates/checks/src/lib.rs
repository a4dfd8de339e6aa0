//! Checks: health questions asked of one instance until it passes or its time is over, smoke tests tried once, and
//! load tests.

mod checker;
mod command;
mod gate;
mod grpc;
mod http;
mod load;
mod reach;
mod smoke;
mod tries;

pub use checker::NetworkChecker;
pub use gate::LOGINS;
