//! Tests of the load: what fails is counted as failed, and nothing else is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod suite;
