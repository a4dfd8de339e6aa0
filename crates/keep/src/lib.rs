//! What the platforms of this machine keep in the state folder: files that are there whole or not at all, sealed secrets, and
//! what was asked for each service.

pub mod disk;
pub mod memory;
mod seal;
pub mod sockets;
mod wish;
pub mod words;

pub use seal::{Values, Vault, complete};
pub use wish::Wish;
