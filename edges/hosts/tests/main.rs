//! Several hosts as one, over fakes and over a real sshd.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod suite;
