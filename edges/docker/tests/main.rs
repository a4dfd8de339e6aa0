//! The docker platform against real engines.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod suite;
