//! What an instance's process does between fork and exec: its own session, no privileges to gain, another user.
//! And how its end is waited for.
//!
//! The one place of this crate with unsafe code: std offers no safe way to act between fork and exec, tokio
//! none to wait
//! for a descriptor of another kind.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use rustix::fs::Mode;
use rustix::thread::{Gid, Uid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A user that instances run as, with all its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// Makes the command start in a session of its own, so that no terminal, group or parent takes it down;
/// without open files,
/// ignored signals or privileges of the server; in the control groups behind `doors`.
pub(crate) fn detach(command: &mut Command, user: Option<Credentials>, doors: Vec<File>) {
    let groups: Vec<Gid> =
        user.iter().flat_map(|user| &user.groups).map(|group| Gid::from_raw(*group)).collect();
    let ids = user.map(|user| (Gid::from_raw(user.gid), Uid::from_raw(user.uid)));
    let prepare = move || {
        // First, so that all it ever allocates and forks counts; `0` is whoever writes it. One that it may not enter is
        // noticed by the server, which says so: running without a limit is better than not running.
        for door in &doors {
            let _ = rustix::io::write(door, b"0");
        }
        rustix::process::setsid()?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        for signal in [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGTERM,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGCHLD,
        ] {
            // SAFETY: SIG_DFL is a valid disposition of each of these signals, and signal(2) is
            // async-signal-safe.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        if let Some((gid, uid)) = ids {
            rustix::thread::set_thread_groups(&groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        rustix::thread::set_no_new_privs(true)?;
        // Whatever this server itself inherited or a library opened carelessly. Old kernels lack the call
        // (5.11); what
        // cutover opens closes on exec anyway. Not closed outright: std reports a failed exec through one of
        // them.
        // SAFETY: plain integers; marks descriptors of this process, which runs no other thread, and frees
        // nothing.
        unsafe {
            libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 4 as libc::c_uint)
        };
        Ok(())
    };
    // SAFETY: the closure makes only direct system calls: it allocates nothing, takes no lock and cannot
    // panic, so it
    // may run in the child of a process with threads. What it captured was allocated before the fork.
    unsafe { command.pre_exec(prepare) };
}

/// Makes the process descriptor readable to tasks when its process ends.
pub(crate) fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it is open and stays the same until the AsyncFd drops it.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}
