//! Addresses of a host over ssh: each has a loopback port here that leads to it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cutover_core::Fault;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::child::{Client, Ssh};
use crate::hosts::Reach;

/// Beyond so many, the oldest are addresses of instances that are long gone.
const MOST: usize = 500;

/// Reaches a host through its connection.
pub struct Forwards {
    ssh: Ssh,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// By the host's address: ours, and who carries it.
    doors: BTreeMap<SocketAddr, (SocketAddr, JoinHandle<()>)>,
    /// In the order in which they were opened.
    order: Vec<SocketAddr>,
}

impl Forwards {
    /// Opens no address yet.
    pub fn new(ssh: Ssh) -> Forwards {
        Forwards { ssh, open: Mutex::default() }
    }

    /// Returns the connection.
    pub fn ssh(&self) -> &Ssh {
        &self.ssh
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reach for Forwards {
    fn here(&self, there: SocketAddr) -> Result<SocketAddr, Fault> {
        let mut open = self.open();
        if let Some((here, _)) = open.doors.get(&there) {
            return Ok(*here);
        }
        let failed = |error: std::io::Error| {
            Fault::platform(format!("open a way to {there} of another host: {error}"))
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let here = listener.local_addr().map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let task = tokio::spawn(carry(self.ssh.client(), listener, there));
        open.doors.insert(there, (here, task));
        open.order.push(there);
        if open.order.len() > MOST {
            let oldest = open.order.remove(0);
            if let Some((_, task)) = open.doors.remove(&oldest) {
                task.abort();
            }
        }
        Ok(here)
    }

    fn there(&self, here: SocketAddr) -> SocketAddr {
        let open = self.open();
        let found = open.doors.iter().find(|(_, (ours, _))| *ours == here);
        found.map_or(here, |(there, _)| *there)
    }

    fn broken(&self) -> Option<Fault> {
        self.ssh.broken()
    }
}

impl Drop for Forwards {
    fn drop(&mut self) {
        for (_, task) in self.open().doors.values() {
            task.abort();
        }
    }
}

async fn carry(client: Arc<Client>, listener: tokio::net::TcpListener, there: SocketAddr) {
    let mut carried = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(carried.spawn(stream_to(client.clone(), stream, there))),
                // Out of descriptors, say: it passes.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            },
            Some(_) = carried.join_next() => {}
        }
    }
}

/// Carries one connection; it ends when either side does.
async fn stream_to(client: Arc<Client>, stream: TcpStream, there: SocketAddr) {
    let Ok(mut child) = client.stream(there).spawn() else { return };
    let (Some(mut to), Some(mut from)) = (child.stdin.take(), child.stdout.take()) else { return };
    let (mut read, mut write) = stream.into_split();
    let sent = async {
        drop(tokio::io::copy(&mut read, &mut to).await);
        drop(to);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sent => {}
        _ = tokio::io::copy(&mut from, &mut write) => {}
    }
}
