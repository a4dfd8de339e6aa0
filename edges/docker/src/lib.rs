//! The docker platform: revisions as images, instances as containers of one engine.

mod body;
mod container;
mod containers;
mod content;
mod engine;
mod events;
pub mod image;
mod logs;
mod losses;
mod memory;
mod moment;
mod names;
mod options;
mod platform;
mod ports;
mod preflight;
mod revisions;
mod seen;
mod settle;
mod upkeep;
mod vouch;
mod wishes;

pub use engine::Engine;
pub use names::{is_instance, is_revision};
pub use options::Options;
pub use platform::DockerPlatform;
