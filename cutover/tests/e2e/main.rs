//! Real processes: the binary as an operator uses it, real servers behind it, and death at the worst moments.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod assets;
mod builds;
mod candidates;
mod checks;
mod cli;
mod clients;
mod clock;
mod cloudwatch;
mod conformance;
mod damage;
mod demo;
mod docker;
mod environments;
mod foreign;
mod h2c;
mod harness;
mod hosts;
mod import;
mod init;
mod judged;
mod kills;
mod loads;
mod machine;
mod metrics;
mod owners;
mod points;
mod processes;
mod protocols;
mod reboot;
mod resources;
mod scrape;
mod secrets;
mod service;
mod stopped;
mod storms;
mod strategies;
mod versions;
