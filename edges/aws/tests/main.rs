//! CloudWatch's wire form: against a small server that does what CloudWatch does, and against moto.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod suite;
