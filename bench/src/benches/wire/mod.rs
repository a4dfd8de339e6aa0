//! HTTP/1.1 as bytes: an origin, a relay that copies, and clients, each as cheap as can be, so that what a proxy takes
//! stands out; and a relay that is nothing but hyper.

pub(super) mod clients;
mod copy;
pub(super) mod open_loop;
mod origin;
pub(super) mod origin_h2;
mod relay;
mod stall;
mod worker;

use std::io;
use std::process::{Child, Command, Stdio};
use std::{io::BufRead, net::SocketAddr};

use anyhow::{Context, Result};

pub(crate) use copy::run as copy;
pub(crate) use origin::run as origin;
pub(crate) use origin_h2::run as origin_h2;
pub(crate) use relay::run as relay;
pub(crate) use stall::run as stall;
pub(crate) use worker::run as worker;

use super::scratch::Running;

/// Starts a role of this program, which prints its address first.
pub(super) fn start(role: &[String]) -> Result<(Running, u32, SocketAddr)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(role)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {role:?}"))?;
    let pid = child.id();
    let line = first_line(&mut child);
    let running = Running::new(child);
    let address = line?.trim().parse().with_context(|| format!("{role:?} printed no address"))?;
    Ok((running, pid, address))
}

fn first_line(child: &mut Child) -> io::Result<String> {
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        io::BufReader::new(out).read_line(&mut line)?;
    }
    Ok(line)
}

/// Returns where a head ends in `bytes`: the index behind its empty line.
pub(in crate::benches) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}
