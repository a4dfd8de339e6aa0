//! The checker against real servers and commands.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod suite;
