//! Load that counts every failure exactly, and a test service that misbehaves on demand.

pub mod load;
mod payload;
pub mod service;
