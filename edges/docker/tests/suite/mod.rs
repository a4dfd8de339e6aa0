//! One module per concern, and what they share.

mod conformance;
mod containers;
mod engines;
mod harness;
mod images;
mod images_build;
mod images_ignore;
mod images_registry;
mod images_trouble;
mod registry;
