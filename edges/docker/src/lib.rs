//! The docker platform: revisions as images, instances as containers of one engine.

mod engine;
pub mod image;

pub use engine::Engine;
