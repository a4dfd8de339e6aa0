//! One module per concern, and what they share.

mod conformance;
mod harness;
mod mishaps;
