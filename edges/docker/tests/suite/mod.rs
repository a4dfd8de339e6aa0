//! One module per concern, and what they share.

mod engines;
mod harness;
