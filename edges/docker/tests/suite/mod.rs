//! One module per concern, and what they share.

mod conformance;
mod engines;
mod harness;
