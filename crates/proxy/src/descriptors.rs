//! Listening sockets that outlive the holder: systemd keeps them, and gives them to the next one (sd_listen_fds(3),
//! sd_notify(3)). Without systemd nothing of this happens.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};

use listenfd::ListenFd;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};

/// Takes the listening TCP sockets that this process was started with. Everything else that it was given is not ours.
pub(crate) fn given() -> Vec<(SocketAddr, TcpListener)> {
    let mut all = ListenFd::from_env();
    let mut found = Vec::new();
    for at in 0..all.len() {
        match all.take_tcp_listener(at) {
            Ok(Some(listener)) if sockopt::socket_acceptconn(&listener).unwrap_or(false) => {
                if let Ok(address) = listener.local_addr() {
                    found.push((address, listener));
                }
            }
            Ok(_) => tracing::warn!(number = at, "a socket of systemd does not listen, it is left alone"),
            Err(error) => tracing::warn!(%error, number = at, "a descriptor of systemd is left alone"),
        }
    }
    found
}

/// Asks systemd to keep a listening socket for the next holder, should this one end.
pub(crate) fn keep(address: SocketAddr, listener: BorrowedFd<'_>) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // Colons separate the names that the next one is told.
    let name = address.to_string().replace([':', '[', ']'], "-");
    if let Err(error) = notify(&socket, &format!("FDSTORE=1\nFDNAME={name}"), listener) {
        // Serving comes first; only a restart would refuse connections for a moment.
        tracing::warn!(%error, %address, "systemd does not keep the socket");
    }
}

fn notify(socket: &std::ffi::OsStr, text: &str, listener: BorrowedFd<'_>) -> std::io::Result<()> {
    let to = match socket.as_encoded_bytes() {
        [b'@', name @ ..] => UnixAddress::from_abstract_name(name)?,
        _ => UnixAddress::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    from.connect_addr(&to)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [listener];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // A system manager that does not read must not hold up the holder.
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(from.as_fd(), &[IoSlice::new(text.as_bytes())], &mut control, flags)?;
    Ok(())
}
