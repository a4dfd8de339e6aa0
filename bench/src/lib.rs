//! Load that counts every failure exactly, and a test service that misbehaves on demand.

mod grpc;
pub mod load;
mod payload;
pub mod service;
mod settings;
