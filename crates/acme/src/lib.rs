//! Asks a certificate authority for certificates (RFC 8555, HTTP-01), and takes up what a crash interrupted.
//!
//! It knows folders, authorities and hosts; who answers the challenges, and who uses the certificates, is not its
//! business. Whatever it is about to do lies on disk before it does it: see [`Asked::obtain`].

mod account;
mod attempt;
mod error;
mod files;
mod http;
mod obtain;
mod order;
mod renewal;
mod schedule;

pub use attempt::Attempt;
pub use error::AcmeError;
pub use files::{Alone, store_private};
pub use obtain::{Asked, Authority, Begin};
pub use renewal::{Identity, Suggested};
pub use schedule::{pause, renew_at};
