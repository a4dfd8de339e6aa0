//! cutover: releases a new revision of a service so that no request fails. This crate is the wiring: the only
//! place that knows every room.

mod cli;
mod demo;
mod exit;
mod failure;
mod server;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::main())
}
