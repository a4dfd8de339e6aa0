//! Locks on the proxy's folder and on listening addresses, and the folder itself.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::error::{ErrorKind, ProxyError};

/// Creates a folder only its owner can enter, or checks one that exists.
pub(crate) fn private_folder(dir: &Path) -> Result<(), ProxyError> {
    let failed = |source| {
        ProxyError::io(
            ErrorKind::Storage,
            format!("cannot use folder {} for the proxy", dir.display()),
            source,
        )
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let seen = fs::metadata(dir).map_err(failed)?;
    let me = rustix::process::geteuid().as_raw();
    if seen.uid() != me {
        let text = format!(
            "folder {} belongs to user {}, not to {me}; choose another folder",
            dir.display(),
            seen.uid()
        );
        return Err(ProxyError::new(ErrorKind::Denied, text));
    }
    if seen.mode() & 0o077 != 0 {
        // Who can enter the folder could talk to the admin socket.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// Takes a lock file; the lock lasts until every process that was handed the file has ended.
pub(crate) fn take(path: &Path) -> Result<Option<File>, ProxyError> {
    let failed =
        |source| ProxyError::io(ErrorKind::Storage, format!("cannot lock {}", path.display()), source);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Writes who holds a lock, for the error text of the next one.
pub(crate) fn sign(mut file: &File, dir: &Path) {
    let text = format!("{} {}\n", std::process::id(), dir.display());
    // Only a hint for people: the lock itself is the kernel's.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
}

/// Returns who signed a lock: process and folder.
pub(crate) fn holder_of(path: &Path) -> String {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text));
    match (read, text.trim().split_once(' ')) {
        (Ok(_), Some((pid, dir))) => format!("process {pid} on folder {dir}"),
        _ => "another proxy".to_owned(),
    }
}

/// Takes the lock of a listening address, shared by all proxies that could listen on it.
///
/// It is the name of an abstract unix socket: of the same network namespace as the address, gone with the last process
/// that was handed it, and never a file that somebody has to clean up.
pub(crate) fn take_address(address: SocketAddr) -> Result<File, ProxyError> {
    let failed =
        |source| ProxyError::io(ErrorKind::Address, format!("cannot lock the address {address}"), source);
    let name = format!("cutover-listen/{address}");
    let at = UnixAddress::from_abstract_name(name.as_bytes()).map_err(failed)?;
    match UnixListener::bind_addr(&at) {
        Ok(listener) => Ok(File::from(OwnedFd::from(listener))),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let text = format!(
                "address {address} is already served by a proxy: {}; stop that one, or listen elsewhere",
                owner_of(&name)
            );
            Err(ProxyError::new(ErrorKind::Locked, text))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Returns which process opened an abstract socket, with its command line: that names its folder.
fn owner_of(name: &str) -> String {
    let asked = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
    .and_then(|socket| {
        connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        socket_peercred(&socket)
    });
    let Ok(peer) = asked else { return "another process".to_owned() };
    let pid = peer.pid.as_raw_nonzero();
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    format!("process {pid} ({})", command.trim())
}
