//! Other sources of truth: numbers and counters of Prometheus, of anything that answers JSON, of a command.
//!
//! A [`Source`] is asked and answers with a [`Reading`], or says in an [`AskError`] whose fault it is that it cannot.
//! [`Analysis`] (numbers against limits) and [`Feed`] (counters into blocks of the judge) are pure: they are told readings
//! and times. Another vendor's crate implements [`Source`], and [`Sources`] to make them of the release file.

mod build;
mod client;
mod command;
mod counters;
mod http_json;
mod names;
pub mod presets;
mod prometheus;
mod source;
mod threshold;
mod tls;
mod words;

pub use build::{OwnSources, Setting, Sources};
pub use counters::{ArmSample, Feed, Look};
pub use names::Names;
pub use source::{AskError, AskErrorKind, Found, Reading, Source, Wall, lag};
pub use threshold::{Analysis, Measured, Rules, Standing};
