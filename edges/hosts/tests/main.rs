//! Several hosts as one, over fakes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod suite;
