//! Sources against servers: real ones, and ones that are broken on purpose.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod suite;
